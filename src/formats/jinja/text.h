// String operations with Python's meaning, on UTF-8. A byte that is not part of valid UTF-8 counts
// as one character and is passed on unchanged. Case mapping covers ASCII, Latin, Greek and
// Cyrillic; other scripts are left as they are.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace phasor::jinja {

// Number of characters (code points).
std::size_t CountChars(std::string_view text);
// One view per character, in order.
std::vector<std::string_view> SplitChars(std::string_view text);
// Code point at `pos`; sets *length to its size in bytes (1 for an invalid byte, which is returned
// as 0xDC00 + byte, Python's surrogateescape value).
char32_t DecodeChar(std::string_view text, std::size_t pos, std::size_t* length);
void AppendUtf8(char32_t c, std::string* out);

// str.isspace for one character.
bool IsSpaceChar(char32_t c);

enum class Side { kLeft, kRight, kBoth };
std::string_view Strip(std::string_view text, Side side);
// Strips any of the characters in `chars`.
std::string_view StripChars(std::string_view text, std::string_view chars, Side side);

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
// Jinja's `title` filter: a new word starts after white space or one of -([{<.
std::string TitleFilter(std::string_view text);
// Python's str.title: a new word starts after any character that is not a letter.
std::string PythonTitle(std::string_view text);

// str.split and str.rsplit; max_splits < 0: no limit. An empty `separator` splits on white space.
std::vector<std::string> Split(std::string_view text, std::string_view separator, long max_splits);
std::vector<std::string> RSplit(std::string_view text, std::string_view separator, long max_splits);
std::vector<std::string> SplitLines(std::string_view text);
// str.replace; max_count < 0: no limit.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to,
                       long max_count);

std::string HtmlEscape(std::string_view text);
// repr() of a string and of a float.
std::string ReprString(std::string_view text);
std::string ReprFloat(double value);
// A JSON string with quotes, as json.dumps writes it.
void AppendJsonString(std::string_view text, bool ensure_ascii, std::string* out);

}  // namespace phasor::jinja
