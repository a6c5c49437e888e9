// Splits template source into tokens, with Jinja's rules for white space around tags under the
// settings Hugging Face uses: trim_blocks and lstrip_blocks on, one newline at the end dropped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace phasor::jinja {

enum class TokenKind {
  kText,  // literal output
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,  // text: the decoded literal
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int64_t integer = 0;
  double number = 0;
  int line = 1;
};

// Comments are dropped, {% raw %} becomes text; the last token is kEnd. Throws TemplateError.
std::vector<Token> Lex(std::string_view source);

}  // namespace phasor::jinja
