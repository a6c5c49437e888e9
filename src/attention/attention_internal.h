// The prefill half of attention.cc. Only for this folder.
#pragma once

#include <vector>

#include "attention/attention.h"
#include "attention/prefill_int16.h"
#include "base/aligned.h"

namespace phasor {

struct PrefillScratch {
  struct PerThread {
    AlignedBuffer<float> q, k_TD, k_DT, v_TD, scores, out, max, sum;
    std::vector<KvSegment> segments;
    Int16Page page;
    Int16Block block;
  };
  std::vector<PerThread> threads;
};

void AttendPrefill(const AttentionShape& shape, const KvCache& cache, int layer, int n_new,
                   float* q_THD, float* out_THD, PrefillScratch& scratch, ThreadPool& pool);

}  // namespace phasor
