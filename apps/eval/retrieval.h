// Retrieval at depth: how often each cache type finds a fact that an f16 cache finds.
//
// All cache types get the same questions on the same haystacks (haystack.h), so that their results
// are compared pair by pair.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "eval/haystack.h"
#include "eval/kld.h"
#include "phasor/status.h"

namespace phasor::eval {

struct RetrievalOptions {
  HaystackOptions haystacks;       // n_sink and n_recent are those of the session
  SessionOptions session;          // n_sink, n_recent, n_batch
  std::vector<CacheTypes> types;   // compared with f16, which is always run
  std::vector<std::string> tasks;  // "needle", "kv"
  std::function<void(int64_t, int64_t)> on_progress;  // done and total tokens read
  // Gets the result so far whenever all types have answered the questions of one stop.
  std::function<void(const Json&)> on_result;
  const std::atomic<bool>* cancel = nullptr;
};

struct RetrievalResult {
  bool exact = true;   // every token of the answer is the likeliest
  double logprob = 0;  // of the whole answer, in nats
};

// Reads a haystack on from the stop before to this one and asks its questions: appends one result
// per case. The session is left at the stop; for the first stop it is cleared before. on_tokens may
// be empty. kOutOfRange: a context shorter than haystack and questions.
Status AskAtStop(Session& session, const Haystack& haystack, std::size_t stop,
                 const std::atomic<bool>* cancel,
                 const std::function<void(int64_t n_tokens)>& on_tokens,
                 std::vector<RetrievalResult>* results);

struct Interval {
  double low = 0, high = 0;
};

// Percentile bootstrap of n_right(type) / n_right(f16) over paired cases, 95 %, 10,000 samples
// (Efron and Tibshirani 1993, chapter 13). Counts of cases: both right, the type alone, f16 alone,
// neither. Samples in which f16 has none right are drawn again; f16 must have one in all. Cases are
// taken for independent, though those of one haystack are not quite.
Interval BootstrapRatio(int64_t both, int64_t type_alone, int64_t f16_alone, int64_t neither,
                        uint64_t seed);

// One object per task, depth (null: all depths together, if there are several) and cache type, f16
// first: texts (haystacks), cases, exact (share of right ones), logprob (mean of the answers'),
// right and f16_right (counts), and against f16: agreement (share right among those that f16 has
// right), ratio (exact / f16's exact) with ratio_low and ratio_high, its 95 % interval. Null when
// f16 has none right.
Result<Json> EvaluateRetrieval(const LoadedModel& model, const std::string& text,
                               const RetrievalOptions& options);
// format: plain, md or csv.
std::string RenderRetrievalTable(const Json& results, const std::string& format);

}  // namespace phasor::eval
