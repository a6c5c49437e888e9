#include "formats/utf8.h"

#include <cstring>

namespace phasor {
namespace {

unsigned char Byte(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

// Bytes of a character by its first byte, and the range its second byte must be in (this is where
// overlong forms, surrogates and code points above U+10FFFF fail); 0 when nothing starts so.
std::size_t LeadLength(unsigned char lead, unsigned char* low, unsigned char* high) {
  *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

}  // namespace

Utf8Unit NextUtf8(std::string_view text, std::size_t at) {
  unsigned char low, high;
  std::size_t length = LeadLength(Byte(text, at), &low, &high);
  if (length == 1) return {1, true, false};
  if (length == 0) return {1, false, false};
  std::size_t size = 1;
  for (; size < length; ++size) {
    if (at + size == text.size()) return {size, false, true};
    unsigned char b = Byte(text, at + size);
    if (b < low || b > high) return {size, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {size, true, false};
}

bool IsValidUtf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    uint64_t word;
    if (i + sizeof(word) <= text.size()) {  // most text is ASCII: eight bytes at a time
      std::memcpy(&word, text.data() + i, sizeof(word));
      if ((word & 0x8080808080808080ull) == 0) {
        i += sizeof(word);
        continue;
      }
    }
    Utf8Unit unit = NextUtf8(text, i);
    if (!unit.valid) return false;
    i += unit.size;
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    Utf8Unit unit = NextUtf8(text, i);
    out += unit.valid ? text.substr(i, unit.size) : kReplacementCharacter;
    i += unit.size;
  }
  return out;
}

uint32_t DecodeUtf8(std::string_view text, std::size_t at) {
  uint32_t lead = Byte(text, at);
  std::size_t length = Utf8Length(text[at]);
  if (length == 1) return lead;
  uint32_t code_point = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    code_point = (code_point << 6) | (Byte(text, at + i) & 0x3Fu);
  }
  return code_point;
}

void AppendUtf8(uint32_t c, std::string* out) {
  auto tail = [&](int shift) { out->push_back(static_cast<char>(0x80 | ((c >> shift) & 0x3F))); };
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
    tail(0);
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (c >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | (c >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsUnicodeSpace(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace phasor
