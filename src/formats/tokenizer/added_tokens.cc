#include "formats/tokenizer/added_tokens.h"

#include <algorithm>

#include "formats/unicode.h"
#include "formats/utf8.h"

namespace phasor {
namespace {

// Start of the character that ends at `end` (> 0), and whether it is one.
bool CharacterBefore(std::string_view text, std::size_t end, std::size_t* begin) {
  std::size_t b = end - 1;
  while (b > 0 && end - b < 4 && (static_cast<unsigned char>(text[b]) & 0xC0) == 0x80) --b;
  Utf8Unit unit = NextUtf8(text, b);
  *begin = b;
  return unit.valid && b + unit.size == end;
}

bool WordBefore(std::string_view text, std::size_t at) {
  std::size_t begin;
  return at > 0 && CharacterBefore(text, at, &begin) && IsWordCharacter(DecodeUtf8(text, begin));
}

bool WordAt(std::string_view text, std::size_t at) {
  return at < text.size() && NextUtf8(text, at).valid && IsWordCharacter(DecodeUtf8(text, at));
}

std::size_t SkipSpaceLeft(std::string_view text, std::size_t at, std::size_t limit) {
  std::size_t begin;
  while (at > limit && CharacterBefore(text, at, &begin) &&
         IsUnicodeSpace(DecodeUtf8(text, begin))) {
    at = begin;
  }
  return std::max(at, limit);
}

std::size_t SkipSpaceRight(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    Utf8Unit unit = NextUtf8(text, at);
    if (!unit.valid || !IsUnicodeSpace(DecodeUtf8(text, at))) break;
    at += unit.size;
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher() { first_.fill(-1); }

void AddedTokenMatcher::Add(const AddedToken& token) {
  if (token.content.empty()) return;
  auto new_node = [&] {
    token_at_node_.push_back(-1);
    return static_cast<int32_t>(token_at_node_.size() - 1);
  };
  int32_t& first = first_[static_cast<unsigned char>(token.content[0])];
  if (first < 0) first = new_node();
  int32_t node = first;
  for (std::size_t i = 1; i < token.content.size(); ++i) {
    uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(token.content[i]);
    auto it = next_.find(key);
    if (it == next_.end()) it = next_.emplace(key, new_node()).first;
    node = it->second;
  }
  token_at_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

int AddedTokenMatcher::LongestAt(std::string_view text, std::size_t at, std::size_t* end) const {
  int32_t node = first_[static_cast<unsigned char>(text[at])];
  int best = -1;
  for (std::size_t i = at + 1; node >= 0; ++i) {
    if (token_at_node_[node] >= 0) {
      best = token_at_node_[node];
      *end = i;
    }
    if (i >= text.size()) break;
    auto it = next_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (it == next_.end()) break;
    node = it->second;
  }
  return best;
}

void AddedTokenMatcher::Split(std::string_view text, bool match_special,
                              std::vector<AddedTokenSpan>* out) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    std::size_t match_end = 0;
    int index = LongestAt(text, at, &match_end);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[index];
    std::size_t begin = at, end = match_end;
    at = match_end;
    if (token.special && !match_special) continue;
    if (token.single_word && (WordBefore(text, begin) || WordAt(text, end))) continue;
    if (token.lstrip) begin = SkipSpaceLeft(text, begin, done);
    if (token.rstrip) end = SkipSpaceRight(text, end);
    begin = std::max(begin, done);  // a token made of spaces that the last one already took
    if (begin > done) out->push_back({done, begin, -1});
    out->push_back({begin, std::max(begin, end), token.id});
    done = std::max(done, end);
  }
  if (done < text.size()) out->push_back({done, text.size(), -1});
}

}  // namespace phasor
