// A text that a model has to remember: made-up facts inside ordinary text, and the same facts once
// more behind it. What is predicted in the repetition can only come from the cache.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "phasor/status.h"

namespace phasor {

struct RecallTextOptions {
  int64_t n_context = 2048;            // tokens before the repetition
  int64_t spacing = 64;                // tokens of text per sentence with a fact
  int n_listed = 40;                   // lines with facts
  int n_sentences = 16, n_lines = 16;  // that are repeated
  int64_t n_prose = 192;               // tokens of ordinary text between context and repetition
  uint64_t seed = 1;
};

struct RecallText {
  std::vector<int32_t> tokens;
  int64_t n_context = 0;
  // Indices i >= n_context whose next token counts: numbers of the repeated facts, and the ordinary
  // text in between.
  std::vector<int64_t> recall, prose;
};

// text: ordinary text, whose words name the facts. kInvalidArgument when it is too short, or has
// too few different words.
Result<RecallText> MakeRecallText(const Tokenizer& tokenizer, const std::string& text,
                                  const RecallTextOptions& options);

}  // namespace phasor
