// UTF-8, byte by byte: validity, the replacement of damage, and code points.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace phasor {

// U+FFFD, what stands for bytes that are no character.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// What starts at text[at]: one whole character, or damage.
struct Utf8Unit {
  std::size_t size = 0;  // bytes; at least 1
  bool valid = false;   // false: `size` bytes that U+FFFD replaces (a maximal subpart, Unicode 3.9)
  bool at_end = false;  // invalid only because the text ends; more bytes could complete it
};
Utf8Unit NextUtf8(std::string_view text, std::size_t at);

bool IsValidUtf8(std::string_view text);
// Every maximal subpart of damage becomes one U+FFFD, exactly as Python's errors="replace".
std::string ReplaceInvalidUtf8(std::string_view text);

// Bytes of the character that starts with `lead`, in valid text.
inline std::size_t Utf8Length(char lead) {
  auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}
// Code point of the character at text[at], in valid text.
uint32_t DecodeUtf8(std::string_view text, std::size_t at);
void AppendUtf8(uint32_t code_point, std::string* out);

// Unicode White_Space, the \s of the patterns in tokenizer files.
bool IsUnicodeSpace(uint32_t code_point);

}  // namespace phasor
