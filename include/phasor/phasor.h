// The phasor library: load a model, feed it text, get text back, with a KV cache of your choice.
//
//   auto model = phasor::Model::Load({.path = "model.gguf"});
//   if (!model.ok()) { ... model.status().message() ... }
//   auto context = model->NewContext({.n_ctx = 8192});          // polar keys, 4-bit values
//   auto prompt = model->ApplyChatTemplate({{"user", "How many days are in a week?"}});
//   context->Append(model->Tokenize(*prompt));
//   auto answer = context->Generate({.temperature = 0, .max_tokens = 64},
//                                   [](std::string_view piece) { std::cout << piece; });
//
// Errors are values (phasor/status.h); no function throws. A Model may be shared by many contexts
// but runs one call at a time; a Context belongs to one thread at a time and must not outlive its
// Model. All text is UTF-8.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "phasor/status.h"
#include "phasor/version.h"

namespace phasor {

struct ModelParams {
  std::string path;    // GGUF file (first part of a split one) or Hugging Face folder
  int n_threads = 0;   // 0: one per processor this process may use
  bool exact = false;  // decode weights to float and multiply in float: slow, the yardstick
  // Widths for `polar` keys; empty: look beside the model and in share.
  std::string calibration_path = {};
};

struct ContextParams {
  int64_t n_ctx = 0;               // most tokens; 0: what the model was trained on
  std::string type_k = "frame4";   // cache type of keys, or a comma-separated list by layer
  std::string type_v = "q4_head";  // cache type of values
  int n_sink = 4;                  // first tokens kept in 16 bit
  int n_recent = 128;              // newest tokens kept in 16 bit (up to 127 more)
  int n_batch = 512;               // tokens per prefill step
  // When the context is full: drop the oldest half behind the first n_keep tokens and go on. No
  // text is read again and nothing is quantized again, whatever the cache types.
  bool context_shift = false;
  int64_t n_keep = 0;
};

struct SamplingParams {
  float temperature = 0.8f;     // 0: greedy
  int top_k = 40;               // 0: off
  float top_p = 0.95f;          // 1: off
  float min_p = 0.05f;          // 0: off
  float repeat_penalty = 1.0f;  // 1: off
  uint64_t seed = 0;
  int64_t max_tokens = -1;             // -1: until the model ends its text or the context is full
  std::vector<std::string> stop = {};  // texts that end the answer; not part of it
  const std::atomic<bool>* cancel = nullptr;  // checked before every token
};

struct Message {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct ModelInfo {
  std::string architecture, name;
  int n_layers, d_model, n_heads, n_kv_heads, head_dim, n_vocab;
  int64_t n_ctx_train, n_params;
  std::size_t weight_bytes;  // in memory
  bool has_chat_template, has_calibration;
};

struct Answer {
  std::string text;
  std::vector<int32_t> tokens;
  std::string finish_reason;  // "stop", "length", "stop_string", "context_full", "cancelled"
};

struct CacheUse {
  int64_t n_tokens;
  std::size_t bytes;  // everything that holds these tokens, metadata included
  double bits_per_element;
  // Tokens whose left context has changed since they were read: exact in position, approximate in
  // what they say of the text before them.
  int64_t n_stale_tokens;
};

// How edits treat the text behind them (PIE, 2407.03157; docs/positions.md).
struct EditParams {
  // Share of the text behind a change that is read again with it; 1: all of it, which is exact.
  double recompute = 0.0;
  const std::atomic<bool>* cancel = nullptr;  // checked before every prefill step
};

struct EditReport {
  int64_t n_changes, n_removed, n_inserted;
  int64_t n_read;          // tokens that went through the model
  int64_t n_reused_exact;  // before the first change
  int64_t n_reused_stale;  // behind it
  double milliseconds;
};

class Context;

// Tokens with their keys and values, cut from a context. May be attached to that context and its
// forks, at any place, any number of times. Must not outlive the model; used by one thread at a
// time together with those contexts.
class CachedText {
 public:
  CachedText(CachedText&&) noexcept;
  CachedText& operator=(CachedText&&) noexcept;
  ~CachedText();
  std::span<const int32_t> tokens() const;

 private:
  friend class Context;
  struct Impl;
  explicit CachedText(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class Model {
 public:
  static Result<Model> Load(const ModelParams& params);
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  ModelInfo info() const;
  // parse_special: text such as "<|im_start|>" becomes its token. BOS is added where the model
  // asks.
  std::vector<int32_t> Tokenize(std::string_view text, bool parse_special = true) const;
  std::string Detokenize(std::span<const int32_t> tokens) const;
  // The model's own template with the opening of an assistant turn. kUnsupported without one.
  Result<std::string> ApplyChatTemplate(std::span<const Message> messages) const;
  Result<std::string> ApplyChatTemplate(std::initializer_list<Message> messages) const {
    return ApplyChatTemplate(std::span<const Message>(messages.begin(), messages.size()));
  }
  Result<Context> NewContext(const ContextParams& params) const;
  // A context with the text of a file that Context::Save wrote: it goes on as the saved one would
  // have, bit for bit. Weights, tokenizer, calibration and the cache types of `params` must be
  // those of the saved context (kInvalidArgument names the first that differs); kOutOfRange when
  // the text is longer than n_ctx, kNotFound and kDataCorrupt as they say.
  Result<Context> LoadContext(const std::string& path, const ContextParams& params) const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class Context {
 public:
  Context(Context&&) noexcept;
  Context& operator=(Context&&) noexcept;
  ~Context();

  // Reads tokens; may be called again and again. kOutOfRange when they do not fit, and then nothing
  // was read.
  Status Append(std::span<const int32_t> tokens);
  // Logits [n_vocab] after the newest token; empty before the first Append.
  std::span<const float> logits() const;
  // Answers until a stop; on_text gets whole characters as they come and may be empty.
  Result<Answer> Generate(const SamplingParams& params,
                          const std::function<void(std::string_view)>& on_text = {});
  // Forgets everything from token n on.
  Status Truncate(int64_t n_tokens);

  // --- Editing what has been read. Places are indices of tokens(). An error (kOutOfRange for
  // places that are not there, kInvalidArgument for pinned text) changes nothing. logits() are
  // empty afterwards; Generate works.

  // Makes the context hold `tokens`: only what differs is read, the rest is moved to its place.
  Result<EditReport> Rewrite(std::span<const int32_t> tokens, const EditParams& params = {});
  // Reads `tokens` in place of [begin, end), on the text before them.
  Result<EditReport> Replace(int64_t begin, int64_t end, std::span<const int32_t> tokens,
                             const EditParams& params = {});
  Status Erase(int64_t begin, int64_t end);
  // `to`: the token that it shall stand before, outside of [begin, end).
  Status Move(int64_t begin, int64_t end, int64_t to);
  Status Copy(int64_t begin, int64_t end, int64_t to);
  // Protects text from Erase, Truncate and context shift, or gives it free.
  Status Pin(int64_t begin, int64_t end, bool pinned = true);
  Result<CachedText> Slice(int64_t begin, int64_t end) const;
  Status Attach(const CachedText& text);
  // A second context with the same text; memory is shared until one of them writes.
  Result<Context> Fork() const;

  // Writes text, keys, values and logits to a file, whole or not at all (docs/formats.md).
  // kInvalidArgument for an empty context, kResourceExhausted when the disk is full.
  Status Save(const std::string& path) const;

  std::span<const int32_t> tokens() const;
  CacheUse cache_use() const;

 private:
  friend class Model;
  struct Impl;
  explicit Context(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace phasor
