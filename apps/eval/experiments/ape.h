// What claims about APE (2502.05431) may name.
#pragma once

#include "eval/claims.h"
#include "eval/kld.h"

namespace phasor::eval {

// From the rows of EvaluateParallelQuality and MeasureParallelSpeed: "recovered" and "gap" (nats
// per answer) of a task; "exact" of "<task> <method>"; "context_tokens_read" of "cached", the most
// over all lengths; "speedup" of "cached" and "fresh" at the longest length really read, of "cached
// filled" and "end to end filled" in the filled cache; "tokens" of "filled".
Measurements ParallelMeasurements(const Json& quality, const Json& speed);

}  // namespace phasor::eval
