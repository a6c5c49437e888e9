// Contexts that are encoded apart from each other and attended to together (APE, adaptive parallel
// encoding: Yang et al. 2025, arXiv 2502.05431).
//
// Every context is read on the session's text alone (the shared prefix), so none sees another, and
// all of them begin at the position where the prefix ends. Their keys and values can be kept and
// used again, in any order and company, without reading a token. What follows (the query) attends
// to prefix and contexts as two groups: scores of contexts are divided by a temperature T, and when
// the groups are merged the log-sum-exp of the contexts counts T * S times (KvGroupScale). T = S =
// 1 is plain ("naive") parallel encoding; one context with T = S = 1 is ordinary reading.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor {

// Either tokens to read, or a span that was read before: by an earlier call (its report has the
// spans) or by any session over the same store.
struct ParallelContext {
  std::span<const int32_t> tokens = {};
  const TextSpan* encoded = nullptr;  // set: attached as it is, `tokens` is not looked at
  // Of `encoded`: it was read on this session's prefix. If not, its tokens count as stale.
  bool same_prefix = true;
};

struct ParallelOptions {
  // 0 < T, S <= 1. The paper's defaults; it tunes both per task.
  float temperature = 0.9f;  // T
  float scale = 0.9f;        // S
  // Most tokens in one pass over the model, of one context or of several; 0: the session's n_batch.
  int batch = 0;
  // Tokens read, after every pass.
  std::function<void(int64_t done, int64_t total)> on_progress = nullptr;
  const std::atomic<bool>* cancel = nullptr;  // checked before every pass
};

struct ParallelReport {
  std::vector<TextSpan> contexts;     // in the order given, to be used again
  int64_t n_read = 0;                 // tokens that went through the model
  int64_t n_reused = 0;               // tokens of contexts that were encoded before
  std::size_t bytes = 0;              // what the contexts added to the cache's used bytes
  double read_ms = 0, attach_ms = 0;  // reading and encoding; putting them into the session
};

// Attaches the contexts behind the session's text and sets the next position to the largest one
// among them + 1. The query comes next: it must be appended before anything is generated. Truncate
// to the prefix takes the contexts off again. Whole pages of a context are codes afterwards, and so
// is its rest where that takes less room than 16-bit rows do.
//
// On an error, and when cancelled, the session is as before:
//   kInvalidArgument: T or S outside (0, 1], no context or an empty one, tokens outside the
//     vocabulary, a span of another store, a session that has parallel contexts already or that
//     drops old text by itself (context_shift), which would cut into the contexts.
//   kUnsupported: a model with a sliding window. It counts tokens in the order of the text, and so
//     would hide from the query whichever contexts came first.
//   kOutOfRange: prefix and contexts together do not fit the context. Positions are shared, cells
//     are not.
Result<ParallelReport> AttachParallelContexts(Session& session,
                                              std::span<const ParallelContext> contexts,
                                              const ParallelOptions& options = {});

}  // namespace phasor
