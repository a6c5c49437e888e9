#include "engine/sensitivity.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "cache/kv_cache.h"
#include "engine/session_codecs.h"
#include "ops/vector_ops.h"
#include "registry/kv_codec_table.h"
#include "registry/position_table.h"

namespace phasor {
namespace {

// What attention saw of a text: [n_layers, n_kv_heads, n_tokens, D].
struct KeysAndValues {
  std::vector<std::vector<float>> k_TD, v_TD;  // by head
};

KvCodecParams Params(const ModelConfig& c, KvRole role, int index) {
  KvCodecParams p;
  p.head_dim = c.head_dim;
  p.n_rot = c.rope.n_rot;
  p.pairing = c.pairing;
  p.role = role;
  p.layer = index / c.n_kv_heads;
  p.kv_head = index % c.n_kv_heads;
  return p;
}

}  // namespace

struct SensitivityMeter::Impl {
  const LoadedModel& model;
  RecallText text;
  const std::atomic<bool>* cancel;
  PhaseTable phases;
  KeysAndValues kv;
  std::vector<int64_t> counted;  // indices of the text
  std::vector<float> base;       // their logits over 16 bits [n, vocab]
  ForwardScratch scratch;

  const ModelConfig& config() const { return model.config(); }
  Status Read(const AttentionObserver* watcher);
  std::unique_ptr<KvCache> Fill(std::vector<KvHeadCodecs> codecs) const;
  Status Predict(KvCache& cache, const AttentionObserver* watcher,
                 const std::function<void(std::size_t, std::span<const float>)>& on_logits);
  Result<std::vector<KvHeadCodecs>> Codecs() const;
};

Status SensitivityMeter::Impl::Read(const AttentionObserver* watcher) {
  const ModelConfig& c = config();
  const int D = c.head_dim, n_kv = c.n_kv_heads;
  kv.k_TD.resize(static_cast<std::size_t>(c.n_layers) * n_kv);
  kv.v_TD.resize(kv.k_TD.size());
  const AttentionObserver observer = [&](int layer, int n, const float* q_THD, const float* k_THD,
                                         const float* v_THD) {
    if (watcher != nullptr) (*watcher)(layer, n, q_THD, k_THD, v_THD);
    for (int64_t i = 0; i < static_cast<int64_t>(n) * n_kv; ++i) {
      const std::size_t head = static_cast<std::size_t>(layer) * n_kv + i % n_kv;
      kv.k_TD[head].insert(kv.k_TD[head].end(), k_THD + i * D, k_THD + (i + 1) * D);
      kv.v_TD[head].insert(kv.v_TD[head].end(), v_THD + i * D, v_THD + (i + 1) * D);
    }
  };
  SessionOptions options;
  options.n_ctx = static_cast<int64_t>(text.tokens.size());
  options.type_k = options.type_v = "f16";
  PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model, options));
  AppendOptions append;
  append.observer = &observer;
  append.cancel = cancel;
  const auto n = static_cast<std::size_t>(text.n_context);
  PHASOR_RETURN_IF_ERROR(session->Append({text.tokens.data(), n}, append));
  PHASOR_ASSIGN_OR_RETURN(phases, MakeSessionPhases(c, options));
  PHASOR_ASSIGN_OR_RETURN(auto codecs, Codecs());
  base.resize(counted.size() * static_cast<std::size_t>(c.n_vocab));
  const std::unique_ptr<KvCache> cache = Fill(std::move(codecs));
  if (cache == nullptr) return ResourceExhausted("sensitivity: no memory for a cache");
  return Predict(*cache, watcher, [&](std::size_t i, std::span<const float> logits) {
    std::copy(logits.begin(), logits.end(), base.begin() + i * logits.size());
  });
}

Result<std::vector<KvHeadCodecs>> SensitivityMeter::Impl::Codecs() const {
  std::vector<KvHeadCodecs> codecs;
  for (int i = 0; i < config().n_layers * config().n_kv_heads; ++i) {
    KvHeadCodecs c;
    const KvCodecParams k = Params(config(), KvRole::kKey, i);
    const KvCodecParams v = Params(config(), KvRole::kValue, i);
    PHASOR_ASSIGN_OR_RETURN(c.key, MakeKvCodec("f16", k));
    PHASOR_ASSIGN_OR_RETURN(c.value, MakeKvCodec("f16", v));
    PHASOR_ASSIGN_OR_RETURN(c.key_rows, MakeRowKvCodec("f16", k));
    PHASOR_ASSIGN_OR_RETURN(c.value_rows, MakeRowKvCodec("f16", v));
    codecs.push_back(std::move(c));
  }
  return codecs;
}

std::unique_ptr<KvCache> SensitivityMeter::Impl::Fill(std::vector<KvHeadCodecs> codecs) const {
  const ModelConfig& c = config();
  const KvCacheOptions options = {.n_layers = c.n_layers,
                                  .n_kv_heads = c.n_kv_heads,
                                  .head_dim = c.head_dim,
                                  .n_rot = c.rope.n_rot,
                                  .pairing = c.pairing};
  auto cache = std::make_unique<KvCache>(options, std::move(codecs));
  cache->SetSchedule(phases);
  const auto n = static_cast<int>(text.n_context);
  if (!cache->Reserve(n).ok()) return nullptr;
  model.pool().ParallelFor(static_cast<int64_t>(kv.k_TD.size()), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      std::vector<float> k = kv.k_TD[i], v = kv.v_TD[i];  // AppendHead overwrites them
      cache->AppendHead(static_cast<int>(i) / c.n_kv_heads, static_cast<int>(i) % c.n_kv_heads,
                        k.data(), v.data(), n);
    }
  });
  cache->CommitAppend(n);
  cache->Freeze(model.pool());
  return cache;
}

Status SensitivityMeter::Impl::Predict(
    KvCache& cache, const AttentionObserver* watcher,
    const std::function<void(std::size_t, std::span<const float>)>& on_logits) {
  if (cancel != nullptr && cancel->load()) return Cancelled("sensitivity: stopped by Ctrl-C");
  ForwardOptions forward;
  forward.logits = LogitsWanted::kAll;
  forward.concurrent_logits = true;
  forward.observer = watcher;
  forward.on_logits = [&](int64_t i, std::span<const float> logits) {
    const auto at = std::lower_bound(counted.begin(), counted.end(), text.n_context + i);
    if (at == counted.end() || *at != text.n_context + i) return;
    on_logits(static_cast<std::size_t>(at - counted.begin()), logits);
  };
  const std::span<const int32_t> rest =
      std::span(text.tokens).subspan(static_cast<std::size_t>(text.n_context));
  return model.transformer().Forward(rest, cache, forward, scratch, model.pool());
}

SensitivityMeter::SensitivityMeter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SensitivityMeter::~SensitivityMeter() = default;

Result<std::unique_ptr<SensitivityMeter>> SensitivityMeter::Make(const LoadedModel& model,
                                                                 RecallText text,
                                                                 const AttentionObserver* observer,
                                                                 const std::atomic<bool>* cancel) {
  std::unique_ptr<Impl> impl(new Impl{model, std::move(text), cancel, {}, {}, {}, {}, {}});
  std::set_union(impl->text.prose.begin(), impl->text.prose.end(), impl->text.recall.begin(),
                 impl->text.recall.end(), std::back_inserter(impl->counted));
  PHASOR_CHECK(impl->counted.front() >= impl->text.n_context);
  PHASOR_RETURN_IF_ERROR(impl->Read(observer));
  return std::unique_ptr<SensitivityMeter>(new SensitivityMeter(std::move(impl)));
}

std::span<const float> SensitivityMeter::values(int layer, int head) const {
  return impl_->kv.v_TD[static_cast<std::size_t>(layer) * impl_->config().n_kv_heads + head];
}

Result<HeadLoss> SensitivityMeter::Measure(std::vector<HeadCodec> changed) {
  Impl& m = *impl_;
  PHASOR_ASSIGN_OR_RETURN(auto codecs, m.Codecs());
  for (HeadCodec& c : changed) {
    KvHeadCodecs& head = codecs[static_cast<std::size_t>(c.layer) * m.config().n_kv_heads + c.head];
    (c.role == KvRole::kKey ? head.key : head.value) = std::move(c.codec);
  }
  const std::unique_ptr<KvCache> cache = m.Fill(std::move(codecs));
  if (cache == nullptr) return ResourceExhausted("sensitivity: no memory for a cache");
  const auto vocab = static_cast<std::size_t>(m.config().n_vocab);
  std::vector<double> kl(m.counted.size()), logprob(m.counted.size());
  PHASOR_RETURN_IF_ERROR(
      m.Predict(*cache, nullptr, [&](std::size_t i, std::span<const float> logits) {
        kl[i] = KlDivergence(m.base.data() + i * vocab, logits.data(), static_cast<int64_t>(vocab));
        logprob[i] = logits[m.text.tokens[m.counted[i] + 1]] -
                     LogSumExp(logits.data(), static_cast<int64_t>(vocab));
      }));
  auto mean = [&](const std::vector<int64_t>& indices, const std::vector<double>& x) {
    double sum = 0;
    for (const int64_t index : indices) {
      const auto at = std::lower_bound(m.counted.begin(), m.counted.end(), index);
      sum += x[static_cast<std::size_t>(at - m.counted.begin())];
    }
    return sum / static_cast<double>(std::max<std::size_t>(1, indices.size()));
  };
  return HeadLoss{mean(m.text.recall, kl), mean(m.text.prose, kl), mean(m.text.recall, logprob),
                  mean(m.text.prose, logprob)};
}

}  // namespace phasor
