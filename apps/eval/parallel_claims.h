// What `phasor reproduce` measures for a declaration of kind "parallel".
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/engine.h"
#include "eval/claims.h"
#include "eval/kld.h"
#include "phasor/status.h"

namespace phasor::eval {

struct ParallelFindings {
  Json quality, speed;  // rows of EvaluateParallelQuality and MeasureParallelSpeed
  Measurements measured;
};

struct ParallelClaimOptions {
  int64_t max_tokens = 0;    // lengths of the times are cut to this (0: as declared)
  bool quick_speed = false;  // one round, and two cases: to try the command
  std::function<void(const char* what, int64_t done, int64_t total)> on_progress;  // tokens
  const std::atomic<bool>* cancel = nullptr;
};

// Answers over a 16-bit cache, so that only the way of reading differs; times over the default one.
Result<ParallelFindings> MeasureParallelClaims(const LoadedModel& model,
                                               const ParallelSettings& settings,
                                               const ParallelClaimOptions& options);

// The quantities that claims may name, from the rows: "recovered" and "gap" (nats per answer) of a
// task; "exact" of "<task> <method>"; "context_tokens_read" of "cached", the most over all lengths;
// "speedup" of "cached" and "fresh" at the longest length really read, of "cached filled" and
// "end to end filled" in the filled cache; "tokens" of "filled".
Measurements ParallelMeasurements(const Json& quality, const Json& speed);

}  // namespace phasor::eval
