// The operations of `phasor edit -e`, as text.
#pragma once

#include <cstdint>
#include <string>

#include "phasor/status.h"

namespace phasor::cli {

// Tokens [begin, end); "A:" ends where the text does.
struct TokenRange {
  int64_t begin = 0, end = 0;
  bool to_end = false;

  int64_t EndIn(int64_t n_tokens) const { return to_end ? n_tokens : end; }
};

struct EditOperation {
  enum class Kind {
    kErase,       // range
    kMove,        // range, to
    kCopy,        // range, to
    kInsert,      // range (empty, at the place), text
    kReplace,     // range, text
    kSubstitute,  // text, new_text
    kTruncate,    // range.begin
    kPin,         // range
    kUnpin,       // range
  } kind = Kind::kErase;
  TokenRange range;
  int64_t to = 0;
  std::string text, new_text;
};

// kInvalidArgument says what the word wants and what was found. Whether tokens are there is the
// session's to say.
Result<EditOperation> ParseEditOperation(const std::string& text);

// "A:B", "A:" or "A" (that token alone), cut to n_tokens.
Result<TokenRange> ParseTokenRange(const std::string& text, int64_t n_tokens);

}  // namespace phasor::cli
