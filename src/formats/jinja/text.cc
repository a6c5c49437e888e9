#include "formats/jinja/text.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <utility>

namespace phasor::jinja {
namespace {

constexpr char32_t kInvalidBase = 0xDC00;

bool IsContinuation(std::string_view text, std::size_t pos) {
  return pos < text.size() && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80;
}

bool IsInvalidByte(char32_t c) { return c >= 0xDC80 && c <= 0xDCFF; }

char32_t UpperChar(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  if (c == 0xB5) return 0x39C;
  if (c == 0xFF) return 0x178;
  if (c >= 0xE0 && c <= 0xFE && c != 0xF7) return c - 32;
  if (c == 0x131) return 'I';
  if (c >= 0x100 && c <= 0x137 && c != 0x138) return c & ~char32_t{1};
  if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) return c % 2 == 0 ? c - 1 : c;
  if (c >= 0x14A && c <= 0x177) return c & ~char32_t{1};
  if (c == 0x3AC) return 0x386;
  if (c >= 0x3AD && c <= 0x3AF) return c - 37;
  if (c == 0x3C2) return 0x3A3;
  if (c >= 0x3B1 && c <= 0x3CB) return c - 32;
  if (c == 0x3CC) return 0x38C;
  if (c == 0x3CD || c == 0x3CE) return c - 63;
  if (c >= 0x430 && c <= 0x44F) return c - 32;
  if (c >= 0x450 && c <= 0x45F) return c - 80;
  if ((c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF)) return c & ~char32_t{1};
  return c;
}

char32_t LowerChar(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c >= 0xC0 && c <= 0xDE && c != 0xD7) return c + 32;
  if (c == 0x178) return 0xFF;
  if (c >= 0x100 && c <= 0x137 && c != 0x130) return c | 1;
  if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) return c % 2 == 1 ? c + 1 : c;
  if (c >= 0x14A && c <= 0x177) return c | 1;
  if (c == 0x386) return 0x3AC;
  if (c >= 0x388 && c <= 0x38A) return c + 37;
  if (c == 0x38C) return 0x3CC;
  if (c == 0x38E || c == 0x38F) return c + 63;
  if (c >= 0x391 && c <= 0x3AB && c != 0x3A2) return c + 32;
  if (c >= 0x410 && c <= 0x42F) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  if ((c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF)) return c | 1;
  return c;
}

// A letter that has case, or any other letter of the scripts above.
bool IsLetter(char32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  if (c == 0xAA || c == 0xB5 || c == 0xBA) return true;
  return c >= 0xC0 && c != 0xD7 && c != 0xF7 && !IsSpaceChar(c) && !(c >= 0x2000 && c <= 0x206F) &&
         !(c >= 0x3000 && c <= 0x303F);
}

void AppendUpper(char32_t c, std::string_view original, std::string* out) {
  if (IsInvalidByte(c)) {
    out->append(original);
  } else if (c == 0xDF) {
    out->append("SS");
  } else {
    AppendUtf8(UpperChar(c), out);
  }
}

void AppendLower(char32_t c, std::string_view original, std::string* out) {
  if (IsInvalidByte(c)) {
    out->append(original);
  } else {
    AppendUtf8(LowerChar(c), out);
  }
}

// Writes each character in upper or lower case as `upper(previous, current, index)` says.
template <typename Rule>
std::string MapCase(std::string_view text, const Rule& upper) {
  std::string out;
  out.reserve(text.size());
  char32_t previous = 0;
  for (std::size_t pos = 0, length = 0; pos < text.size(); pos += length) {
    char32_t c = DecodeChar(text, pos, &length);
    std::string_view original = text.substr(pos, length);
    if (upper(previous, pos)) {
      AppendUpper(c, original, &out);
    } else {
      AppendLower(c, original, &out);
    }
    previous = c;
  }
  return out;
}

template <typename Matches>
std::string_view StripIf(std::string_view text, Side side, const Matches& matches) {
  std::size_t length = 0;
  if (side != Side::kRight) {
    while (!text.empty() && matches(DecodeChar(text, 0, &length))) text.remove_prefix(length);
  }
  if (side == Side::kLeft) return text;
  while (!text.empty()) {
    std::size_t start = text.size() - 1;
    for (int back = 0; back < 3 && start > 0 && IsContinuation(text, start); ++back) --start;
    char32_t c = DecodeChar(text, start, &length);
    if (start + length != text.size()) {
      start = text.size() - 1;
      c = DecodeChar(text, start, &length);
    }
    if (!matches(c)) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

}  // namespace

char32_t DecodeChar(std::string_view text, std::size_t pos, std::size_t* length) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[pos + i]); };
  unsigned char first = byte(0);
  *length = 1;
  if (first < 0x80) return first;
  int extra = first >= 0xF0 && first <= 0xF4 ? 3 : first >= 0xE0 ? 2 : first >= 0xC2 ? 1 : 0;
  if (first > 0xF4) extra = 0;
  if (extra == 0) return kInvalidBase + first;
  char32_t c = first & (0x3F >> extra);
  for (int i = 1; i <= extra; ++i) {
    if (!IsContinuation(text, pos + i)) return kInvalidBase + first;
    c = (c << 6) | (byte(i) & 0x3F);
  }
  bool overlong = (extra == 2 && c < 0x800) || (extra == 3 && c < 0x10000);
  if (overlong || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return kInvalidBase + first;
  *length = extra + 1;
  return c;
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (c >> 12)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | (c >> 18)));
    out->push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

std::size_t CountChars(std::string_view text) {
  std::size_t count = 0, length = 0;
  for (std::size_t pos = 0; pos < text.size(); pos += length, ++count) {
    DecodeChar(text, pos, &length);
  }
  return count;
}

std::vector<std::string_view> SplitChars(std::string_view text) {
  std::vector<std::string_view> chars;
  chars.reserve(text.size());
  for (std::size_t pos = 0, length = 0; pos < text.size(); pos += length) {
    DecodeChar(text, pos, &length);
    chars.push_back(text.substr(pos, length));
  }
  return chars;
}

bool IsSpaceChar(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string_view Strip(std::string_view text, Side side) {
  return StripIf(text, side, IsSpaceChar);
}

std::string_view StripChars(std::string_view text, std::string_view chars, Side side) {
  std::vector<char32_t> set;
  for (std::size_t pos = 0, length = 0; pos < chars.size(); pos += length) {
    set.push_back(DecodeChar(chars, pos, &length));
  }
  return StripIf(text, side, [&](char32_t c) {
    for (char32_t s : set) {
      if (s == c) return true;
    }
    return false;
  });
}

std::string Upper(std::string_view text) {
  return MapCase(text, [](char32_t, std::size_t) { return true; });
}

std::string Lower(std::string_view text) {
  return MapCase(text, [](char32_t, std::size_t) { return false; });
}

std::string Capitalize(std::string_view text) {
  return MapCase(text, [](char32_t, std::size_t pos) { return pos == 0; });
}

std::string TitleFilter(std::string_view text) {
  return MapCase(text, [](char32_t previous, std::size_t pos) {
    return pos == 0 || IsSpaceChar(previous) ||
           (previous < 0x80 &&
            std::string_view("-([{<").find(static_cast<char>(previous)) != std::string_view::npos);
  });
}

std::string PythonTitle(std::string_view text) {
  return MapCase(text, [](char32_t previous, std::size_t) { return !IsLetter(previous); });
}

std::vector<std::string> Split(std::string_view text, std::string_view separator, long max_splits) {
  std::vector<std::string> parts;
  auto more = [&] { return max_splits < 0 || static_cast<long>(parts.size()) < max_splits; };
  if (!separator.empty()) {
    std::size_t pos;
    while (more() && (pos = text.find(separator)) != std::string_view::npos) {
      parts.emplace_back(text.substr(0, pos));
      text.remove_prefix(pos + separator.size());
    }
    parts.emplace_back(text);
    return parts;
  }
  text = Strip(text, Side::kLeft);
  while (!text.empty() && more()) {
    std::size_t end = 0, length = 0;
    while (end < text.size() && !IsSpaceChar(DecodeChar(text, end, &length))) end += length;
    parts.emplace_back(text.substr(0, end));
    text = Strip(text.substr(end), Side::kLeft);
  }
  // Python keeps trailing white space of the remainder only when the limit ended the split.
  if (!text.empty()) parts.emplace_back(text);
  return parts;
}

std::vector<std::string> RSplit(std::string_view text, std::string_view separator,
                                long max_splits) {
  if (max_splits < 0) return Split(text, separator, -1);
  std::vector<std::string> parts;
  auto more = [&] { return static_cast<long>(parts.size()) < max_splits; };
  if (separator.empty()) {
    std::vector<std::pair<std::size_t, std::size_t>> words;  // [begin, end)
    bool in_word = false;
    for (std::size_t pos = 0, length = 0; pos < text.size(); pos += length) {
      bool space = IsSpaceChar(DecodeChar(text, pos, &length));
      if (!space && !in_word) words.emplace_back(pos, pos);
      if (!space) words.back().second = pos + length;
      in_word = !space;
    }
    while (!words.empty() && more()) {
      parts.emplace_back(text.substr(words.back().first, words.back().second - words.back().first));
      words.pop_back();
    }
    if (!words.empty()) parts.emplace_back(text.substr(0, words.back().second));
  } else {
    std::size_t pos;
    while (more() && (pos = text.rfind(separator)) != std::string_view::npos) {
      parts.emplace_back(text.substr(pos + separator.size()));
      text = text.substr(0, pos);
    }
    parts.emplace_back(text);
  }
  return {parts.rbegin(), parts.rend()};
}

std::vector<std::string> SplitLines(std::string_view text) {
  std::vector<std::string> lines;
  std::size_t start = 0;
  for (std::size_t pos = 0, length = 0; pos < text.size();) {
    char32_t c = DecodeChar(text, pos, &length);
    bool is_break = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                    c == 0x2028 || c == 0x2029;
    std::size_t next = pos + length;
    if (is_break) {
      lines.emplace_back(text.substr(start, pos - start));
      if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
      start = next;
    }
    pos = next;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to,
                       long max_count) {
  std::string out;
  long count = 0;
  auto more = [&] { return max_count < 0 || count < max_count; };
  if (from.empty()) {  // Python puts `to` around every character
    for (std::string_view c : SplitChars(text)) {
      if (more()) out += to, ++count;
      out += c;
    }
    if (more()) out += to;
    return out;
  }
  std::size_t pos;
  while (more() && (pos = text.find(from)) != std::string_view::npos) {
    out += text.substr(0, pos);
    out += to;
    text.remove_prefix(pos + from.size());
    ++count;
  }
  return out += text;
}

std::string HtmlEscape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string ReprString(std::string_view text) {
  bool has_single = text.find('\'') != std::string_view::npos;
  bool has_double = text.find('"') != std::string_view::npos;
  char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  char buffer[16];
  for (std::size_t pos = 0, length = 0; pos < text.size(); pos += length) {
    char32_t c = DecodeChar(text, pos, &length);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD) {
      std::snprintf(buffer, sizeof buffer, "\\x%02x", static_cast<unsigned>(c));
      out += buffer;
    } else if (IsSpaceChar(c) && c != ' ') {
      std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(c));
      out += buffer;
    } else {
      out += text.substr(pos, length);
    }
  }
  return out += quote;
}

std::string ReprFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // Python: shortest digits that round-trip; an exponent below 1e-4 and from 1e16 on.
  char buffer[400];
  double magnitude = std::fabs(value);
  bool scientific = magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  auto end = std::to_chars(buffer, buffer + sizeof buffer, value,
                           scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string out(buffer, end.ptr);
  if (!scientific && out.find('.') == std::string::npos) out += ".0";
  return out;
}

void AppendJsonString(std::string_view text, bool ensure_ascii, std::string* out) {
  char buffer[16];
  auto append_unit = [&](unsigned unit) {
    std::snprintf(buffer, sizeof buffer, "\\u%04x", unit);
    *out += buffer;
  };
  *out += '"';
  for (std::size_t pos = 0, length = 0; pos < text.size(); pos += length) {
    char32_t c = DecodeChar(text, pos, &length);
    switch (c) {
      case '"':
        *out += "\\\"";
        continue;
      case '\\':
        *out += "\\\\";
        continue;
      case '\n':
        *out += "\\n";
        continue;
      case '\r':
        *out += "\\r";
        continue;
      case '\t':
        *out += "\\t";
        continue;
      case '\b':
        *out += "\\b";
        continue;
      case '\f':
        *out += "\\f";
        continue;
      default:
        break;
    }
    if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
      append_unit(static_cast<unsigned>(c));
    } else if (ensure_ascii && c >= 0x10000) {
      append_unit(static_cast<unsigned>(0xD800 + ((c - 0x10000) >> 10)));
      append_unit(static_cast<unsigned>(0xDC00 + ((c - 0x10000) & 0x3FF)));
    } else {
      *out += text.substr(pos, length);
    }
  }
  *out += '"';
}

}  // namespace phasor::jinja
