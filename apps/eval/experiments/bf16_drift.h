// How far RoPE is from depending on distances alone when it is computed in few bits: the reason for
// AnchorAttention (2411.13476).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::eval {

enum class RopeArithmetic {
  kTurns,         // this engine: angles as integers of 2^-64 turns, cosines and sines in float
  kFp32,          // position times frequency in float
  kBf16,          // the same; cosines, sines and the turned q and k rounded to bf16
  kBf16Positions  // float, but positions rounded to bf16
};

// Mean |logit with both at +0 minus logit with both at +shift| over n_pairs pairs of standard
// normal q and k of head_dim numbers, q standing `distance` behind k. Logits are q . k / sqrt(d).
struct DriftOptions {
  int head_dim = 128;
  double theta_base = 500000;
  int64_t shift = 16;
  int n_pairs = 256;
  uint64_t seed = 1;
};
double MeanDrift(RopeArithmetic arithmetic, int64_t distance, const DriftOptions& options);

// On a model: attention of every head over a text with bf16 RoPE at +0 and at +16. The share of the
// first key in the sum of |weight - weight| over all keys, and the mean of that sum per query.
struct FirstKeyDrift {
  int64_t n_tokens = 0;
  double share = 0;
  double per_query = 0;
};
Result<FirstKeyDrift> MeasureFirstKeyDrift(const LoadedModel& model,
                                           std::span<const int32_t> tokens);

}  // namespace phasor::eval
