// Retrieval at depth: facts hidden in a long text, asked for one at a time, per cache type.
//
// Two tasks. "needle": sentences with a number ("The special magic number of Oxford is 739.")
// stand at even distances in a book text; one is asked for (after Kamradt 2023, "needle in a
// haystack", and the multi-key form of RULER, Hsieh et al. 2024, arXiv 2404.06654). "kv": lines
// "key: value" fill the text, one key is asked for (Liu et al. 2023, arXiv 2307.03172).
//
// A document is read once and then asked about many facts: between questions the session goes back
// to the document's end. Documents end where a page has just been frozen and a question with its
// answer is shorter than a page, so going back loses nothing. Only facts that lie in frozen pages
// are asked for, never those in the 16-bit window.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "eval/kld.h"
#include "phasor/status.h"

namespace phasor::eval {

struct RetrievalOptions {
  SessionOptions session;          // n_sink, n_recent, n_batch
  std::vector<CacheTypes> types;   // compared with f16, which is always run
  std::vector<std::string> tasks;  // "needle", "kv"
  std::vector<int64_t> depths;     // tokens of document, question and answer
  int64_t n_cases = 128;           // per task and depth
  int n_needles = 8;               // hidden in one document, at most
  bool chat = true;   // documents and questions inside the chat template, if there is one
  uint64_t seed = 1;  // of keys, numbers and what is asked
  std::function<void(int64_t, int64_t)> on_progress;  // done and total tokens read
  const std::atomic<bool>* cancel = nullptr;
};

struct RetrievalCase {
  std::string key, value;                 // what is asked, and the answer as text
  int64_t end = 0;                        // index in the document behind the fact's last token
  std::vector<int32_t> question, answer;  // question: up to the place where the answer begins
};

struct RetrievalDocument {
  std::vector<int32_t> tokens;
  std::vector<RetrievalCase> cases;
};

// Documents with n_cases cases in all. kInvalidArgument: an unknown task, a depth too small for
// sink, window and one page, a text too short for the depth.
Result<std::vector<RetrievalDocument>> MakeRetrievalDocuments(const LoadedModel& model,
                                                              const std::string& text,
                                                              const std::string& task,
                                                              int64_t depth,
                                                              const RetrievalOptions& options);

// One object per task, depth and cache type, f16 first: cases, exact (share of cases in which every
// token of the answer is the likeliest), logprob (mean of the whole answer's, in nats), and
// against f16: agreement (share right among those that f16 has right; null when it has none) and
// ratio (exact / f16's exact; likewise).
Result<Json> EvaluateRetrieval(const LoadedModel& model, const std::string& text,
                               const RetrievalOptions& options);
// format: plain, md or csv.
std::string RenderRetrievalTable(const Json& results, const std::string& format);

}  // namespace phasor::eval
