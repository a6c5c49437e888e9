// The engine: a loaded model, and sessions that read and write text with their own KV cache.
//
//   auto model = LoadedModel::Load({.path = "model.gguf"});
//   auto session = Session::Create(*model, {.n_ctx = 4096, .type_k = "frame4", .type_v =
//   "q4_head"}); session->Append(tokens, {});                 // prefill; logits() are those of the
//   last token session->Generate(options, on_token);        // decode
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "decode/sampler.h"
#include "formats/chat_template.h"
#include "formats/tokenizer.h"
#include "model/model_config.h"
#include "model/transformer.h"
#include "ops/matmul.h"
#include "phasor/status.h"

namespace phasor {

class Calibration;
struct ModelFile;

struct LoadOptions {
  std::string path;   // .gguf file or Hugging Face folder
  int n_threads = 0;  // 0: DefaultThreadCount()
  MatMulPrecision precision = MatMulPrecision::kInt8;
  std::string calibration_path;  // empty: look beside the model, then in share/phasor
  bool use_calibration = true;
  // Called while weights are repacked: done and total in bytes. May be empty.
  std::function<void(int64_t, int64_t)> on_progress;
};

struct BatchAppend;

class LoadedModel {
 public:
  static Result<std::unique_ptr<LoadedModel>> Load(const LoadOptions& options);
  ~LoadedModel();

  const std::string& path() const { return path_; }
  const ModelConfig& config() const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // Null when the model has no template, or one outside the supported subset: chat_template_error()
  // tells which.
  const ChatTemplate* chat_template() const { return chat_template_.get(); }
  const Status& chat_template_error() const { return chat_template_error_; }
  const ModelFile& file() const { return *file_; }
  const Transformer& transformer() const { return *transformer_; }
  const Calibration* calibration() const { return calibration_.get(); }  // null: none found
  ThreadPool& pool() const { return *pool_; }
  std::size_t weight_bytes() const;  // in memory, after repacking
  std::size_t file_bytes() const { return file_bytes_; }
  int64_t n_params() const { return n_params_; }
  const std::string& weight_type() const { return weight_type_; }  // "Q4_1": most common type

 private:
  LoadedModel();
  std::string path_, weight_type_;
  std::size_t file_bytes_ = 0;
  int64_t n_params_ = 0;
  Status chat_template_error_;
  std::unique_ptr<ModelFile> file_;  // the embedding is read from it row by row
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_template_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<Calibration> calibration_;
};

struct SessionOptions {
  int64_t n_ctx = 0;              // 0: the model's trained context
  std::string type_k = "frame4";  // cache codec ids; "a,b,c" gives one per layer, the last repeats
  std::string type_v = "q4_head";
  int n_sink = 4;      // first tokens kept in 16 bit
  int n_recent = 128;  // newest tokens kept in 16 bit (at least; up to 127 more)
  int n_batch = 512;   // tokens per prefill chunk
  // When a new token does not fit: drop the oldest half of what follows the first n_keep tokens
  // (pinned ones stay) and close up, instead of stopping. Costs no re-reading, for any cache type.
  bool context_shift = false;
  int64_t n_keep = 0;
  // Blocks shared with other sessions of the same model and cache types (Session::store()); null: a
  // store of its own.
  std::shared_ptr<KvStore> store;
  // Schedule of this session's tokens; nothing: the model's own. n_rot must be 0 or the model's;
  // where its context is 0 it is n_ctx.
  std::optional<RopeParams> rope;
};

struct CacheStats {
  int64_t n_tokens = 0;
  std::size_t used_bytes = 0;        // pages and 16-bit rows in use, metadata included
  std::size_t allocated_bytes = 0;   // taken from the system, room for more tokens included
  double bits_per_element = 0;       // used_bytes * 8 / (n_tokens * layers * kv_heads * (Dk + Dv))
  double page_bits_per_element = 0;  // of frozen pages alone
  std::size_t f16_bytes = 0;         // the same tokens in 16 bit
  // Tokens that were encoded after another left context than the one they now have: exact in
  // position, approximate in content.
  int64_t n_stale_tokens = 0;
};

// Replacing text inside a cached one (PIE, 2407.03157).
struct ReplaceOptions {
  // Tokens behind the edit that are read again with it, exact then, as a share of what follows.
  double recompute = 0.0;
  // Where the rest stands. kReposition: moved by the difference in length (PIE). kStay: left where
  // it was, so that positions clash or leave a gap: the control that PIE is compared with.
  // kReread: all of it is read again; the exact yardstick.
  enum class Rest { kReposition, kStay, kReread } rest = Rest::kReposition;
  const std::atomic<bool>* cancel = nullptr;
};

struct ReplaceReport {
  int64_t n_removed = 0, n_inserted = 0;
  int64_t n_reused = 0;  // tokens behind the edit that were not read again
  int64_t n_read = 0;    // tokens that went through the model
  double milliseconds = 0;
};

// Cached text: tokens with their keys and values, independent of any session. Can be attached to
// every session over the same store (SessionOptions::store), at any position.
struct TextSpan {
  KvSpan kv;
  std::vector<int32_t> tokens;
};

struct AppendOptions {
  std::function<void(int64_t done, int64_t total)> on_progress;  // after every chunk
  const std::atomic<bool>* cancel = nullptr;                     // checked before every chunk
  // When set: called for every token of the input with its logits [vocab] (tokens[i]'s prediction
  // of tokens[i+1]). Otherwise only the last token's logits are computed.
  std::function<void(int64_t index, std::span<const float> logits)> on_logits;
  // on_logits may then be called from several threads at once, for different indices.
  bool concurrent_logits = false;
  // Attention on the codes for every token, as decode does, however many come at once. Slower.
  bool score_codes = false;
  const AttentionObserver* observer = nullptr;  // sees every layer's queries, keys and values
  int64_t first_index = 0;                      // set by Append: index of a chunk's first token
  // Where the tokens stand, [n]; empty: one apart, from where the newest ended.
  std::span<const PositionTicks> positions = {};
};

enum class FinishReason { kEndOfText, kLength, kStopString, kContextFull, kCancelled };
const char* FinishReasonName(FinishReason reason);  // "stop", "length", ...

struct GenerateOptions {
  int64_t max_tokens = -1;  // -1: until end of text or context
  SamplerOptions sampler;
  std::vector<std::string> stop;  // stop strings; not part of the output
  bool ignore_eos = false;
  const std::atomic<bool>* cancel = nullptr;
};

struct GenerateResult {
  std::vector<int32_t> tokens;  // without the end token
  std::string text;
  FinishReason reason = FinishReason::kLength;
};

struct Timings {
  int64_t prompt_n = 0, predicted_n = 0;
  double prompt_ms = 0, predicted_ms = 0;
};

class Session {
 public:
  static Result<std::unique_ptr<Session>> Create(const LoadedModel& model,
                                                 const SessionOptions& options);
  ~Session();

  // Feeds tokens; may be called again at any time (multi-turn). On cancel the session holds the
  // chunks done so far and kCancelled is returned. kOutOfRange when the context would overflow.
  Status Append(std::span<const int32_t> tokens, const AppendOptions& options);
  std::span<const float> logits() const { return logits_; }  // of the newest token

  // Samples until a stop; on_text gets complete UTF-8 pieces as they appear. Needs at least one
  // appended token. The end token is appended to the cache, so a chat can go on.
  Result<GenerateResult> Generate(const GenerateOptions& options,
                                  const std::function<void(std::string_view)>& on_text);

  // Forgets all tokens from index n on, without loss for those before.
  Status Truncate(int64_t n_tokens);
  void Clear();
  // SessionOptions::n_keep from now on.
  void SetKeep(int64_t n_keep) { options_.n_keep = n_keep; }

  // --- editing: src/cache/kv_cache.h has the rules. Indices count tokens; an error changes
  // nothing. Logits are gone afterwards; Generate and RefreshLogits read the newest token again.
  Result<TextSpan> Slice(int64_t begin, int64_t end) const;
  // Behind the newest token. kOutOfRange where the context would overflow.
  Status Attach(const TextSpan& span, const AttachOptions& options = {});
  Status Insert(int64_t at, const TextSpan& span);
  Status Erase(int64_t begin, int64_t end);
  Status Move(int64_t begin, int64_t end, int64_t to);
  Status Copy(int64_t begin, int64_t end, int64_t to);
  Status Pin(int64_t begin, int64_t end, bool pinned = true);
  // Reads `tokens` in place of tokens [begin, end): on the text before them, as if they had stood
  // there; what follows is reused. On an error or a cancellation the session is as before.
  Result<ReplaceReport> Replace(int64_t begin, int64_t end, std::span<const int32_t> tokens,
                                const ReplaceOptions& options = {});
  // A second session with the same text; blocks are shared until one of them writes.
  Result<std::unique_ptr<Session>> Fork() const;
  // Becomes what `other`, a fork of this session, holds.
  void TakeTextOf(const Session& other);
  // The schedule of tokens from now on, as in SessionOptions::rope; those that are there keep
  // theirs.
  Status SetSchedule(const RopeParams& rope);
  // Writes text, keys, values and logits to a span file (docs/formats.md), whole or not at all.
  // kResourceExhausted when the disk is full; a file that was there is kept.
  Status Save(const std::string& path) const;
  // Puts the text of such a file in the place of this session's. The model, tokenizer, cache types,
  // calibration and schedule must be those it was saved with: kInvalidArgument names the first that
  // differs. kOutOfRange when it is longer than the context. On an error the session is as before.
  Status Load(const std::string& path);
  // Reads the newest token again, for logits() after an edit.
  Status RefreshLogits();
  const std::shared_ptr<KvStore>& store() const;

  int64_t n_tokens() const;
  int64_t n_ctx() const { return n_ctx_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  CacheStats cache_stats() const;
  const Timings& timings() const { return timings_; }
  void ResetTimings() { timings_ = {}; }
  const LoadedModel& model() const { return *model_; }
  KvCache& cache() { return *cache_; }
  const KvCache& cache() const { return *cache_; }
  const SessionOptions& options() const { return options_; }

 private:
  friend Status AppendBatch(std::span<const BatchAppend>,
                            const std::function<void(int, int64_t, std::span<const float>)>&);
  Session();
  Status CheckRoom(int64_t n) const;
  Status Cut(int64_t n);
  Status ShiftContext(int64_t n_new);
  ForwardScratch& forward_scratch();
  Status Decode(std::span<const int32_t> tokens, const AppendOptions& options);
  const LoadedModel* model_ = nullptr;
  SessionOptions options_;
  int64_t n_ctx_ = 0;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
  Timings timings_;
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

// New tokens for several sessions of one model in one pass: weights are read once for all of them.
// Every session's logits() are those of its newest token afterwards. An error leaves all as they
// were.
struct BatchAppend {
  Session* session = nullptr;
  std::span<const int32_t> tokens;
  std::span<const PositionTicks> positions = {};
};
// on_logits (may be empty): called for every token with its logits [vocab], item by item.
Status AppendBatch(
    std::span<const BatchAppend> items,
    const std::function<void(int item, int64_t index, std::span<const float>)>& on_logits = {});

// Cache bytes for a context of n_tokens with the given types; for plans, without allocating.
Result<std::size_t> EstimateCacheBytes(const ModelConfig& config, const Calibration* calibration,
                                       const SessionOptions& options, int64_t n_tokens);

}  // namespace phasor
