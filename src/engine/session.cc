#include <algorithm>
#include <chrono>
#include <cmath>
#include <typeinfo>

#include "base/check.h"
#include "cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/session_codecs.h"
#include "model/calibration.h"
#include "model/transformer.h"

namespace phasor {
namespace {

// Whether a store holds pages as these codecs write them. Codecs of equal type and calibration have
// equal page sizes; different widths of one type differ in at least one head.
Status CheckSameCodecs(const KvStore& store, const std::vector<KvHeadCodecs>& codecs) {
  const int n_kv = store.options().n_kv_heads;
  if (store.n_heads() != static_cast<int>(codecs.size())) {
    return InvalidArgument("session: expected a store of the same model, found one with " +
                           std::to_string(store.n_heads()) + " heads instead of " +
                           std::to_string(codecs.size()));
  }
  for (int i = 0; i < store.n_heads(); ++i) {
    const KvHeadCodecs& have = store.codecs(i / n_kv, i % n_kv);
    const KvHeadCodecs& want = codecs[i];
    const KvCodec &have_k = *have.key, &want_k = *want.key;
    const KvCodec &have_v = *have.value, &want_v = *want.value;
    if (typeid(have_k) != typeid(want_k) || typeid(have_v) != typeid(want_v) ||
        have_k.PageBytes() != want_k.PageBytes() || have_v.PageBytes() != want_v.PageBytes()) {
      return InvalidArgument(
          "session: expected a store with the same cache types, found others in "
          "layer " +
          std::to_string(i / n_kv));
    }
  }
  return Status::Ok();
}

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kContextFull:
      return "context_full";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

struct Session::Scratch {
  ForwardScratch forward;
};

ForwardScratch& Session::forward_scratch() { return scratch_->forward; }

Session::Session() : scratch_(std::make_unique<Scratch>()) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::Create(const LoadedModel& model,
                                                 const SessionOptions& options) {
  const ModelConfig& config = model.config();
  std::unique_ptr<Session> s(new Session());
  s->model_ = &model;
  s->options_ = options;
  s->n_ctx_ = options.n_ctx > 0 ? options.n_ctx : config.n_ctx_train;
  if (options.n_batch < 1) {
    return InvalidArgument("batch: expected at least 1, found " + std::to_string(options.n_batch));
  }
  PHASOR_RETURN_IF_ERROR(CheckCacheMemory(config, model.calibration(), options, s->n_ctx_));
  const KvCacheOptions cache = {.n_layers = config.n_layers,
                                .n_kv_heads = config.n_kv_heads,
                                .head_dim = config.head_dim,
                                .n_sink = options.n_sink,
                                .n_recent = options.n_recent,
                                .n_rot = config.rope.n_rot,
                                .pairing = config.pairing};
  PHASOR_ASSIGN_OR_RETURN(std::vector<KvHeadCodecs> codecs,
                          MakeSessionCodecs(config, model.calibration(), options));
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable phases, MakeSessionPhases(config, options));
  std::shared_ptr<KvStore> store = options.store;
  if (store == nullptr) {
    const KvStoreOptions blocks = {config.n_layers,   config.n_kv_heads, config.head_dim,
                                   config.rope.n_rot, config.pairing,    RadiansPerToken(phases)};
    store = std::make_shared<KvStore>(blocks, std::move(codecs));
  } else {
    PHASOR_RETURN_IF_ERROR(CheckSameCodecs(*store, codecs));
  }
  s->cache_ = std::make_unique<KvCache>(cache, std::move(store));
  s->cache_->SetSchedule(phases);
  return s;
}

const std::shared_ptr<KvStore>& Session::store() const { return cache_->store(); }

int64_t Session::n_tokens() const { return cache_->n_tokens(); }

Status Session::Decode(std::span<const int32_t> tokens, const AppendOptions& options) {
  ForwardOptions forward;
  if (options.on_logits) {
    forward.logits = LogitsWanted::kAll;
    forward.concurrent_logits = options.concurrent_logits;
  }
  forward.observer = options.observer;
  forward.score_codes = options.score_codes;
  forward.positions = options.positions;
  const int64_t last = static_cast<int64_t>(tokens.size()) - 1;
  const int64_t base = options.first_index;
  forward.on_logits = [&](int64_t index, std::span<const float> logits) {
    if (options.on_logits) options.on_logits(base + index, logits);
    if (index == last) logits_.assign(logits.begin(), logits.end());
  };
  PHASOR_RETURN_IF_ERROR(
      model_->transformer().Forward(tokens, *cache_, forward, scratch_->forward, model_->pool()));
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return Status::Ok();
}

Status Session::Append(std::span<const int32_t> tokens, const AppendOptions& options) {
  const auto total = static_cast<int64_t>(tokens.size());
  if (total == 0) return InvalidArgument("prompt: expected at least one token, found none");
  PHASOR_CHECK(options.positions.empty() ||
               static_cast<int64_t>(options.positions.size()) == total);
  PHASOR_RETURN_IF_ERROR(ShiftContext(total));
  PHASOR_RETURN_IF_ERROR(CheckRoom(total));
  const auto start = Clock::now();
  AppendOptions chunk_options = options;
  for (int64_t done = 0; done < total;) {
    if (options.cancel != nullptr && options.cancel->load()) {
      return Cancelled("prompt: cancelled after " + std::to_string(done) + " of " +
                       std::to_string(total) + " tokens");
    }
    const int64_t n = std::min<int64_t>(options_.n_batch, total - done);
    chunk_options.first_index = done;
    if (!options.positions.empty()) chunk_options.positions = options.positions.subspan(done, n);
    PHASOR_RETURN_IF_ERROR(Decode(tokens.subspan(done, n), chunk_options));
    done += n;
    if (options.on_progress) options.on_progress(done, total);
  }
  timings_.prompt_n += total;
  timings_.prompt_ms += MillisecondsSince(start);
  return Status::Ok();
}

namespace {

// Streams text but holds back what might become a stop string.
class StopFilter {
 public:
  StopFilter(const std::vector<std::string>& stop,
             const std::function<void(std::string_view)>& on_text)
      : stop_(stop), on_text_(on_text) {}

  // True when a stop string was completed; the text before it has been delivered.
  bool Put(const std::string& piece) {
    held_ += piece;
    std::size_t keep = 0;
    for (const std::string& s : stop_) {
      if (s.empty()) continue;
      if (std::size_t at = held_.find(s); at != std::string::npos) {
        Deliver(at);
        held_.clear();
        return true;
      }
      for (std::size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n) {
        if (held_.compare(held_.size() - n, n, s, 0, n) == 0) keep = n;
      }
    }
    Deliver(held_.size() - keep);
    return false;
  }
  void Flush() { Deliver(held_.size()); }
  std::string& text() { return text_; }

 private:
  void Deliver(std::size_t n) {
    if (n == 0) return;
    text_.append(held_, 0, n);
    if (on_text_) on_text_(std::string_view(held_).substr(0, n));
    held_.erase(0, n);
  }

  const std::vector<std::string>& stop_;
  const std::function<void(std::string_view)>& on_text_;
  std::string held_, text_;
};

}  // namespace

Result<GenerateResult> Session::Generate(const GenerateOptions& options,
                                         const std::function<void(std::string_view)>& on_text) {
  PHASOR_RETURN_IF_ERROR(ValidateSamplerOptions(options.sampler));
  if (tokens_.empty()) return InvalidArgument("generate: expected a prompt before, found none");
  if (logits_.empty()) PHASOR_RETURN_IF_ERROR(RefreshLogits());
  Sampler sampler(options.sampler);
  const Tokenizer& tokenizer = model_->tokenizer();
  TokenStream stream(&tokenizer);
  StopFilter filter(options.stop, on_text);
  GenerateResult result;
  result.reason = FinishReason::kLength;
  const auto start = Clock::now();
  int64_t n_decoded = 0;
  bool stopped = false;
  while (options.max_tokens < 0 ||
         static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    if (options.cancel != nullptr && options.cancel->load()) {
      result.reason = FinishReason::kCancelled;
      break;
    }
    PHASOR_ASSIGN_OR_RETURN(int32_t id, sampler.Next(logits_, tokens_));
    const bool end = tokenizer.IsEndOfGeneration(id) && !options.ignore_eos;
    if (!end) {
      result.tokens.push_back(id);
      stopped = filter.Put(stream.Put(id));
    }
    if (!end && !stopped) PHASOR_RETURN_IF_ERROR(ShiftContext(1));
    const bool full = n_tokens() >= n_ctx_;
    if (!full) {
      const int32_t one[] = {id};
      PHASOR_RETURN_IF_ERROR(Decode(one, {}));
      ++n_decoded;
    }
    if (end || stopped || full) {
      result.reason = end       ? FinishReason::kEndOfText
                      : stopped ? FinishReason::kStopString
                                : FinishReason::kContextFull;
      break;
    }
  }
  if (!stopped) {
    stopped = filter.Put(stream.Flush());
    if (!stopped) filter.Flush();
  }
  result.text = std::move(filter.text());
  timings_.predicted_n += n_decoded;
  timings_.predicted_ms += MillisecondsSince(start);
  return result;
}

CacheStats Session::cache_stats() const {
  const ModelConfig& c = model_->config();
  CacheStats stats;
  stats.n_tokens = n_tokens();
  stats.n_stale_tokens = cache_->n_stale_tokens();
  stats.used_bytes = cache_->UsedBytes();
  stats.allocated_bytes = cache_->AllocatedBytes();
  const double elements_per_token = 2.0 * c.n_layers * c.n_kv_heads * c.head_dim;
  stats.f16_bytes =
      static_cast<std::size_t>(elements_per_token * 2 * static_cast<double>(stats.n_tokens));
  if (stats.n_tokens > 0) {
    stats.bits_per_element = static_cast<double>(stats.used_bytes) * 8 /
                             (elements_per_token * static_cast<double>(stats.n_tokens));
  }
  const auto frozen = static_cast<double>(cache_->n_frozen_tokens());
  if (frozen > 0) {
    stats.page_bits_per_element =
        static_cast<double>(cache_->FrozenBytes()) * 8 / (elements_per_token * frozen);
  }
  return stats;
}

}  // namespace phasor
