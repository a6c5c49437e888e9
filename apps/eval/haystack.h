// Haystacks: long texts with facts in them, and questions about those facts.
//
// Two tasks. "needle": sentences with a number ("The special magic number of Oxford is 739.")
// stand at even distances in a book text; one is asked for (after Kamradt 2023, "needle in a
// haystack", and the multi-key form of RULER, Hsieh et al. 2024, arXiv 2404.06654). "kv": lines
// "key: value" fill the text, one key is asked for (Liu et al. 2023, arXiv 2307.03172).
//
// Reading is dear and asking is cheap, so that one haystack serves all depths: it is read up to a
// stop, asked about what stands before it, and read on. A question names its key last, in the
// answer's beginning ("What are the special magic numbers?", "The special magic number of Oxford
// is"), so that what stands before the key is read once per stop. Stops lie where a page has just
// been frozen, and a question with its answer is shorter than a page, so going back to the stop
// loses nothing. Only facts that lie in frozen pages are asked for, never those in the 16-bit
// window.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::eval {

struct HaystackOptions {
  std::vector<int64_t> depths = {512, 2048, 4096, 8192};  // tokens of text, question and answer
  int64_t n_cases = 96;                                   // per depth
  int64_t n_asked = 96;                                   // of one haystack at one depth, at most
  int64_t needle_spacing = 64;                            // tokens of text per needle
  int n_sink = SessionOptions().n_sink;                   // those of the sessions that will read
  int n_recent = SessionOptions().n_recent;
  bool chat = true;   // texts and questions inside the chat template, if there is one
  uint64_t seed = 1;  // of keys, numbers and what is asked
};

struct RetrievalCase {
  std::string key, value;                 // what is asked, and the answer as text
  int64_t end = 0;                        // index in the haystack behind the fact's last token
  std::vector<int32_t> question, answer;  // question: up to the place where the answer begins
};

struct HaystackStop {
  int64_t depth = 0;     // one of the options
  int64_t n_tokens = 0;  // of the haystack, read when the questions are asked
  std::vector<RetrievalCase> cases;
};

struct Haystack {
  std::vector<int32_t> tokens;      // up to the last stop
  std::vector<HaystackStop> stops;  // by depth, ascending
};

// Haystacks with n_cases cases per depth in all; each is as long as the largest depth that still
// lacks cases when it is made. kInvalidArgument: an unknown task, a depth too small for sink,
// window and one page or for one fact, a text too short for the depth.
Result<std::vector<Haystack>> MakeHaystacks(const LoadedModel& model, const std::string& text,
                                            const std::string& task,
                                            const HaystackOptions& options);

}  // namespace phasor::eval
