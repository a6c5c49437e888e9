#include "cli/edit_operation.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

namespace phasor::cli {
namespace {

using Kind = EditOperation::Kind;

struct Word {
  const char* word;
  Kind kind;
  const char* usage;
};
constexpr std::array<Word, 9> kWords = {{{"erase", Kind::kErase, "erase A:B"},
                                         {"move", Kind::kMove, "move A:B TO"},
                                         {"copy", Kind::kCopy, "copy A:B TO"},
                                         {"insert", Kind::kInsert, "insert AT TEXT"},
                                         {"replace", Kind::kReplace, "replace A:B TEXT"},
                                         {"sub", Kind::kSubstitute, "sub OLD => NEW"},
                                         {"truncate", Kind::kTruncate, "truncate N"},
                                         {"pin", Kind::kPin, "pin A:B"},
                                         {"unpin", Kind::kUnpin, "unpin A:B"}}};

bool ParseNumber(std::string_view text, int64_t* out) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *out);
  return error == std::errc() && stop == end && *out >= 0;
}

bool ParseRange(std::string_view text, TokenRange* range) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    if (!ParseNumber(text, &range->begin) || range->begin == INT64_MAX) return false;
    range->end = range->begin + 1;
    return true;
  }
  if (!ParseNumber(text.substr(0, colon), &range->begin)) return false;
  if (colon + 1 == text.size()) {
    range->to_end = true;
    return true;
  }
  return ParseNumber(text.substr(colon + 1), &range->end) && range->begin <= range->end;
}

// The first word of *rest, which is left with what stands behind one space.
std::string_view TakeWord(std::string_view* rest) {
  const std::size_t space = std::min(rest->find(' '), rest->size());
  const std::string_view word = rest->substr(0, space);
  rest->remove_prefix(std::min(space + 1, rest->size()));
  return word;
}

// Reads what follows the word; false when it has another form.
bool ParseArguments(std::string_view rest, EditOperation* op) {
  switch (op->kind) {
    case Kind::kErase:
    case Kind::kPin:
    case Kind::kUnpin:
      return ParseRange(rest, &op->range);
    case Kind::kMove:
    case Kind::kCopy: {
      const std::string_view range = TakeWord(&rest);
      return ParseRange(range, &op->range) && ParseNumber(rest, &op->to);
    }
    case Kind::kTruncate:
      return ParseNumber(rest, &op->range.begin);
    case Kind::kInsert: {
      const std::string_view at = TakeWord(&rest);
      op->text = rest;
      op->range.end = 0;
      if (!ParseNumber(at, &op->range.begin)) return false;
      op->range.end = op->range.begin;
      return !op->text.empty();
    }
    case Kind::kReplace: {
      const std::string_view range = TakeWord(&rest);
      op->text = rest;
      return ParseRange(range, &op->range) && !op->text.empty();
    }
    case Kind::kSubstitute: {
      constexpr std::string_view kArrow = " => ";
      const std::size_t arrow = rest.find(kArrow);
      // "OLD =>" erases every OLD.
      const bool bare = arrow == std::string_view::npos && rest.ends_with(" =>");
      if (arrow == std::string_view::npos && !bare) return false;
      op->text = rest.substr(0, bare ? rest.size() - 3 : arrow);
      if (!bare) op->new_text = rest.substr(arrow + kArrow.size());
      return !op->text.empty();
    }
  }
  return false;
}

}  // namespace

Result<EditOperation> ParseEditOperation(const std::string& text) {
  std::string_view rest = text;
  const std::string_view word = TakeWord(&rest);
  std::string known;
  for (const Word& w : kWords) {
    if (word == w.word) {
      EditOperation op;
      op.kind = w.kind;
      if (ParseArguments(rest, &op)) return op;
      return InvalidArgument("edit: expected \"" + std::string(w.usage) + "\", found \"" + text +
                             "\"");
    }
    known += (known.empty() ? "" : ", ") + std::string(w.word);
  }
  return InvalidArgument("edit: expected one of " + known + ", found \"" + text + "\"");
}

Result<TokenRange> ParseTokenRange(const std::string& text, int64_t n_tokens) {
  TokenRange range;
  if (!ParseRange(text, &range)) {
    return InvalidArgument("tokens: expected A:B, A: or A, found \"" + text + "\"");
  }
  range.end = std::min(range.EndIn(n_tokens), n_tokens);
  range.begin = std::min(range.begin, range.end);
  return range;
}

}  // namespace phasor::cli
