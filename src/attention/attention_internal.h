// The prefill half of attention.cc. Only for this folder.
#pragma once

#include <vector>

#include "attention/attention.h"
#include "attention/prefill_int16.h"
#include "base/aligned.h"

namespace phasor {

// Turns g query heads of one token for the keys of a view (codec rotation and scale not included).
void TurnQueries(const KvCache& cache, const KvTurn& turn, int64_t query, float* q_GD, int g);

// Sums of exp(score - max) over one group of keys, and the factors that the two groups' weighted
// values, both not yet divided by their sums, get in the result (APE, 2502.05431).
struct GroupSum {
  float max, sum;
};
struct GroupWeights {
  float plain, apart;
};
GroupWeights WeighGroups(const KvGroupScale& scale, const GroupSum& plain, const GroupSum& apart);

struct PrefillScratch {
  // Running results of one group of keys.
  struct Running {
    AlignedBuffer<float> out, max, sum;
    Int16Block block;
  };
  struct PerThread {
    AlignedBuffer<float> gathered, q, k_TD, k_DT, v_TD, scores;
    Running running[2];
    std::vector<KvSegment> segments;
    Int16Page page;
  };
  std::vector<PerThread> threads;
};

void AttendPrefill(const AttentionShape& shape, const KvCache& cache, int layer, int n_new,
                   float* q_THD, float* out_THD, PrefillScratch& scratch, ThreadPool& pool);

}  // namespace phasor
