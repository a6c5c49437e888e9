#include "formats/jinja/lexer.h"

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <utility>

#include "formats/jinja/text.h"
#include "formats/jinja/value.h"

namespace phasor::jinja {
namespace {

// \r\n and \r become \n; one newline at the very end is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNameChar(char c) { return IsNameStart(c) || IsDigit(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeNewlines(source)), rest_(source_) {}

  std::vector<Token> Run() {
    while (pos_ < rest_.size()) LexText();
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Error(const std::string& message) { throw TemplateError{message, line_}; }

  void Add(TokenKind kind, std::string text) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  bool At(std::string_view text) const { return rest_.substr(pos_, text.size()) == text; }

  // Moves on and counts lines; remembers whether a line starts here (for lstrip_blocks).
  void Advance(std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) line_ += rest_[pos_ + i] == '\n';
    if (n > 0) line_starting_ = rest_[pos_ + n - 1] == '\n';
    pos_ += n;
  }

  void SkipSpace() {
    std::size_t length = 0, end = pos_;
    while (end < rest_.size() && IsSpaceChar(DecodeChar(rest_, end, &length))) end += length;
    Advance(end - pos_);
  }

  // First of "{{", "{%", "{#" at or after pos_, or npos.
  std::size_t FindTag() const {
    for (std::size_t at = rest_.find('{', pos_); at != std::string_view::npos;
         at = rest_.find('{', at + 1)) {
      if (at + 1 < rest_.size() &&
          (rest_[at + 1] == '{' || rest_[at + 1] == '%' || rest_[at + 1] == '#')) {
        return at;
      }
    }
    return std::string_view::npos;
  }

  // The text before a tag, after what the tag's sign and lstrip_blocks take away.
  std::string_view TrimBeforeTag(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return Strip(text, Side::kRight);
    if (sign == '+' || is_variable) return text;
    std::size_t newline = text.rfind('\n');
    std::size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_start == 0 && !line_starting_) return text;
    bool only_space = Strip(text.substr(line_start), Side::kLeft).empty();
    return only_space ? text.substr(0, line_start) : text;
  }

  void AddText(std::string_view text) {
    if (!text.empty()) Add(TokenKind::kText, std::string(text));
  }

  void LexText() {
    std::size_t tag = FindTag();
    if (tag == std::string_view::npos) {
      AddText(rest_.substr(pos_));
      Advance(rest_.size() - pos_);
      return;
    }
    char type = rest_[tag + 1];
    char sign = tag + 2 < rest_.size() ? rest_[tag + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    AddText(TrimBeforeTag(rest_.substr(pos_, tag - pos_), sign, type == '{'));
    Advance(tag - pos_ + 2 + (sign != '\0'));
    if (type == '#') {
      LexComment();
    } else if (type == '%' && ConsumeRawTag("raw")) {
      LexRaw();
    } else {
      Add(type == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
      LexTag(type == '{' ? "}}" : "%}");
    }
  }

  // After "-%}" all white space goes, after "%}" one newline (trim_blocks), after "+%}" nothing.
  void ConsumeBlockEnd(char sign) {
    Advance(2 + (sign != '\0'));
    if (sign == '-') {
      SkipSpace();
    } else if (sign == '\0' && At("\n")) {
      Advance(1);
    }
  }

  void LexComment() {
    std::size_t end = rest_.find("#}", pos_);
    if (end == std::string_view::npos) Error("expected '#}' after a comment, found the end");
    char sign = end > pos_ ? rest_[end - 1] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    Advance(end - pos_ - (sign != '\0'));
    ConsumeBlockEnd(sign);
  }

  // "raw %}" right after "{%"; moves past it when it is there.
  bool ConsumeRawTag(std::string_view word) {
    std::size_t at = pos_, length = 0;
    auto skip_space = [&] {
      while (at < rest_.size() && IsSpaceChar(DecodeChar(rest_, at, &length))) at += length;
    };
    skip_space();
    if (rest_.substr(at, word.size()) != word) return false;
    at += word.size();
    skip_space();
    bool strip = at < rest_.size() && rest_[at] == '-';
    if (rest_.substr(at + strip, 2) != "%}") return false;
    Advance(at + strip + 2 - pos_);
    if (strip) SkipSpace();
    return true;
  }

  void LexRaw() {
    std::size_t start = pos_;
    for (std::size_t at = rest_.find("{%", start); at != std::string_view::npos;
         at = rest_.find("{%", at + 2)) {
      std::size_t word = at + 2;
      char sign =
          word < rest_.size() && (rest_[word] == '-' || rest_[word] == '+') ? rest_[word] : '\0';
      word += sign != '\0';
      std::string_view tail = Strip(rest_.substr(word), Side::kLeft);
      if (tail.substr(0, 6) != "endraw") continue;
      tail = Strip(tail.substr(6), Side::kLeft);
      char end_sign = !tail.empty() && (tail[0] == '-' || tail[0] == '+') ? tail[0] : '\0';
      if (tail.substr(end_sign != '\0', 2) != "%}") continue;
      AddText(TrimBeforeTag(rest_.substr(start, at - start), sign, false));
      Advance(static_cast<std::size_t>(tail.data() - rest_.data()) - pos_);
      ConsumeBlockEnd(end_sign);
      return;
    }
    Error("expected {% endraw %}, found the end");
  }

  void LexTag(std::string_view closer) {
    std::string open;  // brackets that still have to be closed
    bool is_block = closer == "%}";
    while (true) {
      SkipSpace();
      if (pos_ >= rest_.size()) Error("expected '" + std::string(closer) + "', found the end");
      if (open.empty()) {
        char sign = rest_[pos_] == '-' || (is_block && rest_[pos_] == '+') ? rest_[pos_] : '\0';
        if (rest_.substr(pos_ + (sign != '\0'), 2) == closer) {
          Add(is_block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          if (is_block) {
            ConsumeBlockEnd(sign);
          } else {
            Advance(2 + (sign != '\0'));
            if (sign == '-') SkipSpace();
          }
          return;
        }
      }
      LexToken(&open);
    }
  }

  void LexToken(std::string* open) {
    char c = rest_[pos_];
    if (IsDigit(c)) {
      LexNumber();
    } else if (IsNameStart(c)) {
      std::size_t end = pos_;
      while (end < rest_.size() && IsNameChar(rest_[end])) ++end;
      Add(TokenKind::kName, std::string(rest_.substr(pos_, end - pos_)));
      Advance(end - pos_);
    } else if (c == '"' || c == '\'') {
      LexString(c);
    } else {
      LexOperator(open);
    }
  }

  void LexOperator(std::string* open) {
    for (std::string_view op : {"//", "**", "==", "!=", "<=", ">="}) {
      if (At(op)) {
        Add(TokenKind::kOperator, std::string(op));
        Advance(2);
        return;
      }
    }
    char c = rest_[pos_];
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos) {
      Error("expected a token, found unexpected byte " +
            std::to_string(static_cast<unsigned char>(c)));
    }
    if (c == '(' || c == '[' || c == '{') {
      open->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (open->empty() || open->back() != c) Error(std::string("found unexpected '") + c + "'");
      open->pop_back();
    }
    Add(TokenKind::kOperator, std::string(1, c));
    Advance(1);
  }

  // Digits with single underscores between them, from `at`; returns the end.
  std::size_t DigitsEnd(std::size_t at) const {
    while (at < rest_.size() && IsDigit(rest_[at])) {
      ++at;
      if (at + 1 < rest_.size() && rest_[at] == '_' && IsDigit(rest_[at + 1])) ++at;
    }
    return at;
  }

  void LexNumber() {
    char next = pos_ + 1 < rest_.size() ? static_cast<char>(std::tolower(rest_[pos_ + 1])) : '\0';
    int base = 10;
    if (rest_[pos_] == '0' && (next == 'x' || next == 'o' || next == 'b')) {
      base = next == 'x' ? 16 : next == 'o' ? 8 : 2;
    }
    std::size_t begin = base == 10 ? pos_ : pos_ + 2, end = begin;
    bool is_float = false;
    if (base != 10) {
      while (end < rest_.size() &&
             (std::isxdigit(static_cast<unsigned char>(rest_[end])) != 0 || rest_[end] == '_')) {
        ++end;
      }
    } else {
      end = DigitsEnd(pos_);
      bool after_dot = pos_ > 0 && rest_[pos_ - 1] == '.';  // a.0.1 is two subscripts
      if (!after_dot) is_float = ExtendFloat(&end);
    }
    std::string digits;
    for (char c : rest_.substr(begin, end - begin)) {
      if (c != '_') digits += c;
    }
    Add(is_float ? TokenKind::kFloat : TokenKind::kInteger, digits);
    Token& token = tokens_.back();
    if (is_float) {
      token.number = std::strtod(digits.c_str(), nullptr);
    } else {
      auto [stop, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
      if (error != std::errc() || stop != digits.data() + digits.size()) {
        Error("expected a 64-bit integer, found " + digits);
      }
    }
    Advance(end - pos_);
  }

  bool ExtendFloat(std::size_t* end) const {
    bool is_float = false;
    std::size_t at = *end;
    if (at + 1 < rest_.size() && rest_[at] == '.' && IsDigit(rest_[at + 1])) {
      at = DigitsEnd(at + 1);
      is_float = true;
    }
    if (at < rest_.size() && (rest_[at] == 'e' || rest_[at] == 'E')) {
      std::size_t exponent = at + 1;
      if (exponent < rest_.size() && (rest_[exponent] == '+' || rest_[exponent] == '-')) {
        ++exponent;
      }
      if (exponent < rest_.size() && IsDigit(rest_[exponent])) {
        at = DigitsEnd(exponent);
        is_float = true;
      }
    }
    if (is_float) *end = at;
    return is_float;
  }

  void LexString(char quote) {
    std::string out;
    std::size_t at = pos_ + 1;
    while (at < rest_.size() && rest_[at] != quote) {
      if (rest_[at] == '\\' && at + 1 < rest_.size()) {
        at = LexEscape(at + 1, &out);
      } else {
        out += rest_[at++];
      }
    }
    if (at >= rest_.size()) Error("expected the end of a string, found the end of the template");
    Add(TokenKind::kString, std::move(out));
    Advance(at + 1 - pos_);
  }

  // `at` is the byte after the backslash; returns the first byte after the escape.
  std::size_t LexEscape(std::size_t at, std::string* out) {
    char c = rest_[at];
    constexpr std::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    if (std::size_t i = kFrom.find(c); i != std::string_view::npos) {
      *out += kTo[i];
      return at + 1;
    }
    if (c == '\n') return at + 1;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    bool octal = c >= '0' && c <= '7';
    if (digits == 0 && !octal) {  // Python keeps the backslash of an escape it does not know
      *out += '\\';
      return at;
    }
    std::size_t begin = octal ? at : at + 1, end = begin;
    std::size_t limit = begin + (octal ? 3 : static_cast<std::size_t>(digits));
    uint32_t code = 0;
    while (end < rest_.size() && end < limit) {
      char d = rest_[end];
      int value = IsDigit(d)                                          ? d - '0'
                  : std::isxdigit(static_cast<unsigned char>(d)) != 0 ? std::tolower(d) - 'a' + 10
                                                                      : 99;
      if (value >= (octal ? 8 : 16)) break;
      code = code * (octal ? 8 : 16) + static_cast<uint32_t>(value);
      ++end;
    }
    if (!octal && end != limit) Error("expected " + std::to_string(digits) + " hex digits");
    if (code > 0x10FFFF) Error("expected a code point, found a larger escape");
    AppendEscapedChar(code, &end, out);
    return end;
  }

  // Joins \uD83D\uDE00 to one character; Python would keep two halves that nothing can encode.
  void AppendEscapedChar(uint32_t code, std::size_t* end, std::string* out) {
    if (code >= 0xD800 && code <= 0xDFFF) {
      uint32_t low = 0;
      std::string_view next = rest_.substr(*end, 6);
      if (code < 0xDC00 && next.size() == 6 && next.substr(0, 2) == "\\u") {
        std::from_chars(next.data() + 2, next.data() + 6, low, 16);
      }
      if (low < 0xDC00 || low > 0xDFFF) Error("expected a character, found half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      *end += 6;
    }
    AppendUtf8(code, out);
  }

  const std::string source_;
  const std::string_view rest_;
  std::size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Lex(std::string_view source) { return Lexer(source).Run(); }

}  // namespace phasor::jinja
