// What it costs to read contexts apart (APE, arXiv 2502.05431): answers after ordinary reading,
// after plain parallel encoding (T = S = 1), and after parallel encoding with temperature and
// scale.
//
// T and S are chosen on the cases with even numbers, by mean log-likelihood of the right answer,
// and everything is reported on the odd ones. Without contexts at all the answers show what the
// contexts are worth.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/table.h"
#include "engine/engine.h"
#include "eval/kld.h"
#include "eval/parallel_sets.h"
#include "phasor/status.h"

namespace phasor::eval {

struct ParallelQualityOptions {
  SessionOptions session;  // n_ctx is set per case
  std::vector<std::string> tasks = {"lookup", "shots"};
  ParallelSetOptions sets;
  // Every pair is tried; 1 and 1 is added where it is missing.
  std::vector<double> temperatures = {0.6, 0.8, 0.9, 1.0};
  std::vector<double> scales = {0.8, 0.9, 1.0};
  std::function<void(int64_t, int64_t)> on_progress;  // done and total tokens read
  const std::atomic<bool>* cancel = nullptr;
};

// One object per task and method: task, method ("none", "sequential", "naive", "ape" for the pair
// chosen, "grid" for every pair), temperature, scale (null for the first two), questions, exact
// (share in which every token of the answer is the likeliest), logprob (mean of the whole answer's,
// in nats), recovered ((logprob - naive's) / (sequential's - naive's); null where they are equal),
// tokens (mean of prefix and contexts).
Result<Json> EvaluateParallelQuality(const LoadedModel& model,
                                     const ParallelQualityOptions& options);
Table ParallelQualityTable(const Json& results);

}  // namespace phasor::eval
