#include "formats/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "formats/utf8.h"

namespace phasor {
namespace {

// Longest decomposition of one code point (U+FDFA under NFKD).
constexpr int kMaxDecomposition = 18;

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

int CombiningClass(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Orders every run of combining marks by class, in n log n (utf8proc_decompose itself is quadratic
// in the length of a run).
void OrderMarks(std::vector<utf8proc_int32_t>* points) {
  auto is_mark = [](utf8proc_int32_t c) { return c >= 0x300 && CombiningClass(c) != 0; };
  for (auto it = points->begin(); it != points->end();) {
    it = std::find_if(it, points->end(), is_mark);
    auto end = std::find_if_not(it, points->end(), is_mark);
    if (end - it > 1) {
      std::stable_sort(it, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
        return CombiningClass(a) < CombiningClass(b);
      });
    }
    it = end;
  }
}

}  // namespace

bool IsNumeric(uint32_t c) {
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsPunctuation(uint32_t c) {
  if (c < 0x80) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
           (c >= 123 && c <= 126);
  }
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsWordCharacter(uint32_t c) {
  if (c == 0x200C || c == 0x200D) return true;
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189)) {
    return true;  // Other_Alphabetic symbols: letters in circles and squares
  }
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
         category == UTF8PROC_CATEGORY_PC;
}

std::string Normalize(std::string_view text, NormalForm form) {
  if (IsAscii(text)) return std::string(text);
  bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE |
                                                (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  int boundary_class = UTF8PROC_BOUNDCLASS_START;
  for (std::size_t i = 0; i < text.size(); i += Utf8Length(text[i])) {
    utf8proc_int32_t out[kMaxDecomposition];
    auto c = static_cast<utf8proc_int32_t>(DecodeUtf8(text, i));
    auto n = utf8proc_decompose_char(c, out, kMaxDecomposition, options, &boundary_class);
    if (n < 0 || n > kMaxDecomposition) {
      points.push_back(c);
    } else {
      points.insert(points.end(), out, out + n);
    }
  }
  OrderMarks(&points);
  auto n_points = static_cast<utf8proc_ssize_t>(points.size());
  if (compose) {
    auto composed = utf8proc_normalize_utf32(
        points.data(), n_points,
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    if (composed >= 0) n_points = composed;
  }
  std::string result;
  result.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < n_points; ++i) {
    AppendUtf8(static_cast<uint32_t>(points[i]), &result);
  }
  return result;
}

}  // namespace phasor
