// The decoder-only transformer of the llama, qwen2 and qwen3 families: one pass over new tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "cache/kv_cache.h"
#include "contracts/position_method.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "ops/matmul.h"

namespace phasor {

// Sees queries and keys after RoPE, before the cache: q_THD [n, n_heads, D], k_THD
// [n, n_kv_heads, D], v_THD likewise. Used by calibration and inspection.
using AttentionObserver = std::function<void(int layer, int n_tokens, const float* q_THD,
                                             const float* k_THD, const float* v_THD)>;

enum class LogitsWanted { kNone, kLast, kAll };

struct ForwardOptions {
  LogitsWanted logits = LogitsWanted::kLast;
  // kLast: called once with index n_new - 1. kAll: called for every index in order.
  // The span [n_vocab] is valid during the call.
  std::function<void(int64_t index, std::span<const float>)> on_logits;
  // kAll only: on_logits may be called from several threads at once, for different indices.
  bool concurrent_logits = false;
  bool score_codes = false;  // AttentionShape::score_codes
  const AttentionObserver* observer = nullptr;
  // The phase table to turn queries and keys by; null: the model's own. One cache must see the same
  // table in every pass: what it holds was turned by it.
  const PhaseTable* phases = nullptr;
};

// Buffers of a pass; one per session.
class ForwardScratch {
 public:
  struct Impl;
  ForwardScratch();
  ~ForwardScratch();
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

class Transformer {
 public:
  Transformer(ModelConfig config, ModelWeights weights, PhaseTable phases)
      : config_(std::move(config)), weights_(std::move(weights)), phases_(std::move(phases)) {}

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  const PhaseTable& phases() const { return phases_; }

  // Appends `tokens` (ids within the vocabulary) to the cache and computes logits. On error the
  // cache is as before.
  Status Forward(std::span<const int32_t> tokens, KvCache& cache, const ForwardOptions& options,
                 ForwardScratch& scratch, ThreadPool& pool) const;

 private:
  void AttentionBlock(int layer, int n, KvCache& cache, const ForwardOptions& options,
                      ForwardScratch::Impl& s, ThreadPool& pool) const;
  void FeedForwardBlock(int layer, int n, ForwardScratch::Impl& s, ThreadPool& pool) const;
  void RotateHeads(int layer, int first, int last, ForwardScratch::Impl& s) const;
  void Logits(int n, const ForwardOptions& options, ForwardScratch::Impl& s,
              ThreadPool& pool) const;

  ModelConfig config_;
  ModelWeights weights_;
  PhaseTable phases_;
};

}  // namespace phasor
