// Retrieval at depth: how often each cache type finds a fact that an f16 cache finds.
//
// All cache types get the same questions on the same haystacks (haystack.h), so that their results
// are compared pair by pair.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
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
  int64_t distance = 0;  // tokens between the fact and the question
  int n_tokens = 0;      // of the answer
  int n_right = 0;       // of them, the likeliest where they stand, behind the right ones before
  double logprob = 0;    // of the whole answer, in nats
  double kl = 0;         // summed over its tokens, to the logits of f16; in nats
  // The answer that greedy decoding writes.
  bool exact() const { return n_right == n_tokens; }
};

// The logits of all answers at one stop, [n_cases, tokens of the answer, n_vocab]: what others are
// compared with.
using AnswerLogits = std::vector<float>;

struct AskOptions {
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(int64_t n_tokens)> on_tokens = {};
  AnswerLogits* keep = nullptr;        // gets the logits of this session
  const AnswerLogits* base = nullptr;  // null: RetrievalResult::kl stays 0
};

// Reads a haystack on from the stop before to this one and asks its questions: appends one result
// per case. The session is left at the stop; for the first stop it is cleared before. kOutOfRange:
// a context shorter than haystack and questions.
Status AskAtStop(Session& session, const Haystack& haystack, std::size_t stop,
                 const AskOptions& options, std::vector<RetrievalResult>* results);

struct Interval {
  double low = 0, high = 0;
};

// Percentile bootstrap of sum(counts) / sum(of_f16) over paired cases, 95 %, 10,000 samples (Efron
// and Tibshirani 1993, chapter 13). counts and of_f16: what a type and f16 have right in each case.
// Samples in which f16 has none right are drawn again; it must have one in all. Cases are what is
// drawn, so the interval is about other questions on these texts, not about other texts. A type
// that differs from f16 in no case gets 1 to 1, however few there are.
Interval BootstrapRatio(std::span<const int> counts, std::span<const int> of_f16, uint64_t seed);

// One object per task, depth (null: all depths together, if there are several) and cache type, f16
// first: texts (haystacks), cases, tokens (of their answers), logprob (mean of the answers', in
// nats), exact_right and token_right (counts of cases and tokens), the same three of f16 with
// the prefix f16_, logprob_error (standard error of the mean difference of logprob to f16's), kl
// (mean KL divergence from f16 of a token of an answer) with kl_error (its standard error over
// cases), and both_exact (cases that f16 and the type answer). exact_ratio and token_ratio
// are counts over those of f16, with _low and _high their 95 % intervals; null when f16 has none.
// answers (not where depth is null): distance, right (tokens), logprob and kl, case by case.
Result<Json> EvaluateRetrieval(const LoadedModel& model, const std::string& text,
                               const RetrievalOptions& options);
// format: plain, md or csv.
std::string RenderRetrievalTable(const Json& results, const std::string& format);

}  // namespace phasor::eval
