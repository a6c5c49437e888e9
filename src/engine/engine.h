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
  // The schedule of this session instead of the model's own. n_rot must be 0 or the model's; where
  // its context is 0 it is n_ctx. Fixed for the session's life: the cache holds turned keys.
  std::optional<RopeParams> rope;
};

struct CacheStats {
  int64_t n_tokens = 0;
  std::size_t used_bytes = 0;        // pages and 16-bit rows in use, metadata included
  std::size_t allocated_bytes = 0;   // taken from the system, room for more tokens included
  double bits_per_element = 0;       // used_bytes * 8 / (n_tokens * layers * kv_heads * (Dk + Dv))
  double page_bits_per_element = 0;  // of frozen pages alone
  std::size_t f16_bytes = 0;         // the same tokens in 16 bit
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

  // Forgets all tokens from position n on. Only tokens in the 16-bit window or at a page border can
  // be cut without loss; other cuts decode the page back into the window (lossy, declared).
  Status Truncate(int64_t n_tokens);
  void Clear();

  int64_t n_tokens() const;
  int64_t n_ctx() const { return n_ctx_; }
  const PhaseTable& phases() const { return phases_; }  // what this session turns by
  const std::vector<int32_t>& tokens() const { return tokens_; }
  CacheStats cache_stats() const;
  const Timings& timings() const { return timings_; }
  void ResetTimings() { timings_ = {}; }
  const LoadedModel& model() const { return *model_; }
  KvCache& cache() { return *cache_; }

 private:
  Session();
  Status Decode(std::span<const int32_t> tokens, const AppendOptions& options);
  const LoadedModel* model_ = nullptr;
  SessionOptions options_;
  int64_t n_ctx_ = 0;
  PhaseTable phases_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
  Timings timings_;
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

// Cache bytes for a context of n_tokens with the given types; for plans, without allocating.
Result<std::size_t> EstimateCacheBytes(const ModelConfig& config, const Calibration* calibration,
                                       const SessionOptions& options, int64_t n_tokens);

}  // namespace phasor
