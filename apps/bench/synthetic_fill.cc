#include "bench/synthetic_fill.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "cache/kv_cache.h"

namespace phasor::bench {
namespace {

constexpr int64_t kRealTokens = 256, kChunkTokens = 512;

// Sums over tokens of every channel of one of K and V: [layer, KV head, D].
struct ChannelStats {
  std::vector<double> sum, sum_squares;
  int64_t n = 0;  // tokens

  explicit ChannelStats(std::size_t n_channels) : sum(n_channels), sum_squares(n_channels) {}
  void Add(std::size_t first, int n_tokens, std::size_t n_channels, const float* x) {
    for (int t = 0; t < n_tokens; ++t) {
      for (std::size_t c = 0; c < n_channels; ++c) {
        const double value = x[static_cast<std::size_t>(t) * n_channels + c];
        sum[first + c] += value;
        sum_squares[first + c] += value * value;
      }
    }
  }
  float Mean(std::size_t c) const { return static_cast<float>(sum[c] / static_cast<double>(n)); }
  float Deviation(std::size_t c) const {
    const double mean = sum[c] / static_cast<double>(n);
    const double variance = sum_squares[c] / static_cast<double>(n) - mean * mean;
    return static_cast<float>(std::sqrt(std::max(0.0, variance)));
  }
};

// Close to a standard normal number: the sum of four uniform ones, from one random word.
float QuickNormal(Rng& rng) {
  const uint64_t bits = rng.NextU64();
  const uint64_t sum =
      (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
  constexpr float kSqrt3 = 1.7320508f;  // four uniform numbers have a variance of 1/3
  return (static_cast<float>(sum) * 0x1.0p-16f - 2.0f) * kSqrt3;
}

void DrawRows(const ChannelStats& stats, std::size_t first, int D, int n_rows, Rng& rng,
              float* out_ND) {
  std::vector<float> mean(D), deviation(D);
  for (int c = 0; c < D; ++c) {
    mean[c] = stats.Mean(first + c);
    deviation[c] = stats.Deviation(first + c);
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int c = 0; c < D; ++c) *out_ND++ = mean[c] + deviation[c] * QuickNormal(rng);
  }
}

std::vector<int32_t> RandomIds(int64_t n, int n_vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(n_vocab));
  return ids;
}

Status AppendChunk(Session& session, const ChannelStats& keys, const ChannelStats& values, int n,
                   uint64_t seed) {
  KvCache& cache = session.cache();
  const KvCacheOptions& shape = cache.options();
  const int D = shape.head_dim;
  const int64_t n_heads = int64_t{shape.n_layers} * shape.n_kv_heads;
  ThreadPool& pool = session.model().pool();
  PHASOR_RETURN_IF_ERROR(cache.Reserve(n));
  pool.ParallelFor(n_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> k_ND(static_cast<std::size_t>(n) * D), v_ND(k_ND.size());
    for (int64_t h = begin; h < end; ++h) {
      Rng rng(seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(h + 1));
      DrawRows(keys, h * D, D, n, rng, k_ND.data());
      DrawRows(values, h * D, D, n, rng, v_ND.data());
      cache.AppendHead(static_cast<int>(h / shape.n_kv_heads),
                       static_cast<int>(h % shape.n_kv_heads), k_ND.data(), v_ND.data(), n);
    }
  });
  cache.CommitAppend(n);
  cache.Freeze(pool);
  return Status::Ok();
}

}  // namespace

Status FillSynthetic(Session& session, const SyntheticFillOptions& options) {
  const ModelConfig& config = session.model().config();
  const std::size_t layer_channels =
      static_cast<std::size_t>(config.n_kv_heads) * static_cast<std::size_t>(config.head_dim);
  ChannelStats keys(layer_channels * config.n_layers), values(layer_channels * config.n_layers);
  const AttentionObserver observer = [&](int layer, int n, const float* q_THD, const float* k_THD,
                                         const float* v_THD) {
    keys.Add(layer * layer_channels, n, layer_channels, k_THD);
    values.Add(layer * layer_channels, n, layer_channels, v_THD);
  };
  const int64_t n_real = std::min(options.n_tokens, kRealTokens);
  AppendOptions append;
  append.observer = &observer;
  append.cancel = options.cancel;
  PHASOR_RETURN_IF_ERROR(session.Append(RandomIds(n_real, config.n_vocab, options.seed), append));
  keys.n = values.n = n_real;
  for (int64_t done = n_real; done < options.n_tokens;) {
    if (options.cancel != nullptr && options.cancel->load()) {
      return Cancelled("cache: cancelled after " + std::to_string(done) + " of " +
                       std::to_string(options.n_tokens) + " tokens");
    }
    const int n = static_cast<int>(std::min(kChunkTokens, options.n_tokens - done));
    PHASOR_RETURN_IF_ERROR(AppendChunk(session, keys, values, n, options.seed + done));
    done += n;
    if (options.on_progress) options.on_progress(done, options.n_tokens);
  }
  return Status::Ok();
}

}  // namespace phasor::bench
