// Tokens that are found in the text as written, before anything else looks at it.
//
// The rules are those of Hugging Face's added vocabulary: leftmost match first, of several at one
// place the longest; lstrip and rstrip take neighbouring white space into the token; single_word
// asks for no word character next to it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace phasor {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;  // skipped by decoding, matched only with parse_special
  bool lstrip = false, rstrip = false;
  bool single_word = false;
  bool normalized = false;  // matched in the normalized text instead of the raw one
};

// A piece of the text: a token (id >= 0) or what is between tokens (id == -1).
struct AddedTokenSpan {
  std::size_t begin = 0, end = 0;
  int32_t id = -1;
};

class AddedTokenMatcher {
 public:
  AddedTokenMatcher();
  // A token with empty content is ignored. Of two with the same content the last wins.
  void Add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }
  // Cuts `text` (any bytes) into spans that cover it in order; tokens with lstrip or rstrip cover
  // the spaces they take. With match_special unset special tokens stay text.
  void Split(std::string_view text, bool match_special, std::vector<AddedTokenSpan>* out) const;

 private:
  // Longest token that starts at text[at]: its index and end, or -1.
  int LongestAt(std::string_view text, std::size_t at, std::size_t* end) const;

  std::vector<AddedToken> tokens_;
  std::array<int32_t, 256> first_;              // node after the first byte, -1: none
  std::unordered_map<uint64_t, int32_t> next_;  // (node << 8 | byte) -> node
  std::vector<int32_t> token_at_node_;          // index into tokens_, -1: none
};

}  // namespace phasor
