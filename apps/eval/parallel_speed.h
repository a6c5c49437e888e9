// How long it takes until the first token of an answer: all contexts read one after the other,
// read apart (fresh), or attached from the cache (APE, arXiv 2502.05431).
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
#include "phasor/status.h"

namespace phasor::eval {

struct ParallelSpeedOptions {
  SessionOptions session;                             // n_ctx is set per length
  std::vector<int64_t> lengths = {1024, 2048, 4096};  // tokens of all contexts, really read
  int64_t context_tokens = 256;                       // of one context, there
  int64_t query_tokens = 32;
  int64_t n_generate = 64;  // tokens of the answer that "end to end" counts
  int n_rounds = 3;         // methods take turns; medians count
  // One more length, in a cache that is filled, not computed (0: none). The contexts are 32, and
  // times of reading are summed up from chunks of session.n_batch tokens at several depths.
  int64_t filled_tokens = 0;
  uint64_t seed = 1;
  std::function<void(int64_t done, int64_t total)> on_progress;  // tokens; may be empty
  const std::atomic<bool>* cancel = nullptr;
};

// One object per length: tokens, context_tokens, query_tokens, filled (bool), sequential_ms,
// fresh_ms, cached_ms, query_ms (the same query on the prefix alone), token_ms (one more token of
// the answer, contexts in the cache), cached_read (tokens that went through the model, the query's
// among them), and as medians over rounds fresh_speedup and cached_speedup (sequential / this),
// cached_over_query, end_to_end_speedup (cached; both sides with n_generate further tokens).
Result<Json> MeasureParallelSpeed(const LoadedModel& model, const ParallelSpeedOptions& options);
Table ParallelSpeedTable(const Json& results);

}  // namespace phasor::eval
