// Made-up tasks whose answer needs several contexts, for contexts that are encoded in parallel.
//
// "lookup", after retrieval over documents: every context is a document of facts ("The code of the
// green hammer is 482."), no fact stands twice, and the query is the beginning of one of them.
// "shots", after in-context learning with many shots: every context holds labelled words ("hammer:
// blue"); which kind of word has which label is drawn for every case, so that only the shots tell,
// and the word that is asked for is none of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "phasor/status.h"

namespace phasor::eval {

struct ParallelSetOptions {
  int n_cases = 12;     // sets of contexts
  int n_contexts = 8;   // of one case, at most 32
  int n_items = 8;      // facts or shots of a context, 1 to 16
  int n_questions = 4;  // per case
  uint64_t seed = 1;    // of everything drawn
};

struct ParallelQuestion {
  std::vector<int32_t> query, answer;  // query: up to the place where the answer begins
  int context = 0;                     // lookup: which one has the fact
};

struct ParallelCase {
  std::vector<int32_t> prefix;                 // in front of every context
  std::vector<std::vector<int32_t>> contexts;  // whole lines
  std::vector<ParallelQuestion> questions;
};

// task: "lookup" or "shots". kInvalidArgument for another one or options out of range.
Result<std::vector<ParallelCase>> MakeParallelCases(const Tokenizer& tokenizer,
                                                    const std::string& task,
                                                    const ParallelSetOptions& options);

}  // namespace phasor::eval
