// Attention over the cache: the only place that joins codecs, cache and (later) policies.
//
// Partial results carry their maximum and sum (log-sum-exp form), so stretches of the context can
// be worked on in any order and by any thread and are merged afterwards.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "cache/kv_cache.h"
#include "ops/matmul.h"

namespace phasor {

struct AttentionShape {
  int n_heads = 0, n_kv_heads = 0, head_dim = 0;
  float scale = 0;             // multiplies q . k, usually 1 / sqrt(head_dim)
  int64_t sliding_window = 0;  // tokens a query sees, itself included; 0: all
  // kInt8: prefill may round queries, keys, values and weights to 16-bit integers where the
  // processor multiplies those faster. kF32: float products everywhere.
  MatMulPrecision precision = MatMulPrecision::kF32;
  // Scores any number of queries one by one on the codes, as decode does: for measuring what the
  // kernels of decode add to the error of the codes.
  bool score_codes = false;
};

// Buffers reused between calls; one per concurrent caller.
class AttentionScratch {
 public:
  struct Impl;
  AttentionScratch();
  ~AttentionScratch();
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Causal attention of n_new queries, whose keys and values were appended to `layer` but not yet
// committed, over everything up to and including themselves.
// q_THD: [n_new, n_heads, D] after RoPE, overwritten. out_THD: [n_new, n_heads, D].
// Few queries are scored on the codes (decode); many decode each page once per block of queries
// into float tiles (prefill). Both read the same codes.
void Attend(const AttentionShape& shape, const KvCache& cache, int layer, int n_new, float* q_THD,
            float* out_THD, AttentionScratch& scratch, ThreadPool& pool);

}  // namespace phasor
