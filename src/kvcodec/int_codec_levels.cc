// Grids of the integer codecs, and the choice of a row's scale on the searched ones.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kvcodec/int_codec.h"
#include "tensor/half.h"

namespace phasor {

const IntLevels kLevels8 = {.bits = 8, .book_bits = 0, .level = {}};
const IntLevels kLevelsQ4_0 = {
    .bits = 4, .book_bits = 0, .level = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}};

// Fitted to Gaussian rows of 64 and 128 by scripts/fit_levels.py: codes, books and scales are
// chosen for the least squared error, then every level moves to the mean of what it stands for, and
// again (Lloyd 1982). Every book also serves mirrored, by a negative scale.
// clang-format off
const IntLevels kLevelsSearched4 = {
    .bits = 4,
    .book_bits = 1,
    .level = {-63, -48, -38, -30, -23, -17, -11, -6, 0, 5, 11, 17, 23, 31, 39, 50,
              -54, -40, -31, -24, -18, -13, -8, -3, 2, 7, 12, 18, 23, 30, 38, 49}};
const IntLevels kLevelsSearched3 = {
    .bits = 3,
    .book_bits = 2,
    .level = {-61, -40, -24, -11, 2, 15, 30, 51,
              -51, -30, -16, -5, 6, 18, 30, 47,
              -63, -39, -24, -12, -1, 10, 22, 39,
              -54, -29, -16, -6, 3, 13, 23, 38}};
// clang-format on

namespace {

// Numbers in quarters of a level, for the final choice of a code: |i| < kFine.
constexpr int kFine = kFineLevels;

struct SearchTables {
  SearchTables(const IntLevels& levels, float first, float step) {
    const int n_codes = 1 << levels.bits;
    for (int i = 0; i < kSearchSteps; ++i) reach[i] = first + step * static_cast<float>(i);
    for (int b = 0; b < 1 << levels.book_bits; ++b) {
      const int8_t* book = levels.level + b * n_codes;
      // The nearest level to i / unit; between two the lower one.
      auto closest = [&](int i, int unit) {
        int best = 0;
        for (int c = 1; c < n_codes; ++c) {
          if (std::abs(i - unit * book[c]) < std::abs(i - unit * book[best])) best = c;
        }
        return best;
      };
      for (int i = -64; i < 64; ++i) nearest[b][i & 127] = book[closest(i, 1)];
      for (int i = -kFine; i < kFine; ++i) {
        const int c = closest(i, 4);
        code[b][i + kFine] = static_cast<uint8_t>(c);
        level_and_code[b][i + kFine] = static_cast<int16_t>(book[c] * 256 + c);
      }
    }
  }
  // Candidates for kMaxLevel * |scale| / max|x|.
  float reach[kSearchSteps];
  int8_t nearest[kMaxBooks][128];
  uint8_t code[kMaxBooks][2 * kFine];
  int16_t level_and_code[kMaxBooks][2 * kFine];
};

// The f16 pattern nearest to d >= 0 whose low bits name the book.
uint16_t ScalePattern(float d, int book, int book_bits) {
  const int step = 1 << book_bits;
  const int base = (F32ToF16(d) & ~(step - 1)) | book;
  int best = base;
  for (int candidate : {base - step, base + step}) {
    if (candidate < 0 || candidate >= 0x7c00) continue;
    const float e = std::fabs(F16ToF32(static_cast<uint16_t>(candidate)) - d);
    if (e < std::fabs(F16ToF32(static_cast<uint16_t>(best)) - d)) best = candidate;
  }
  return static_cast<uint16_t>(best);
}

// fine[i] = kFine + x[i] / d in quarters of a level, inside the table.
void Refine(const float* x, int n, float d, int32_t* fine) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float inverse = d == 0 ? 0.0f : 4.0f / d;
  constexpr float kLow = -kFine, kHigh = kFine - 1;
  for (int i = 0; i < n; ++i) {
    float r = x[i] * inverse;
    r = r < kLow ? kLow : r;
    r = r > kHigh ? kHigh : r;
    r = r + kRound;
    r = r - kRound;
    fine[i] = static_cast<int32_t>(r) + kFine;
  }
}

// The size of a step at which the stored row times y is x times y: x.y / |level.y|. 0 where there
// is none.
float Lengthening(const float* x, const float* y, int n, const int8_t* level,
                  const uint8_t* codes) {
  constexpr int kLanes = 16;  // x and y are padded with zeros
  float square[kLanes] = {}, product[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    const int n_here = std::min(kLanes, n - i);
    int32_t levels[kLanes] = {};
    for (int l = 0; l < n_here; ++l) levels[l] = level[codes[i + l]];
    for (int l = 0; l < kLanes; ++l) {
      square[l] += x[i + l] * y[i + l];
      product[l] += y[i + l] * static_cast<float>(levels[l]);
    }
  }
  float squares = 0, products = 0;
  for (int l = 0; l < kLanes; ++l) {
    squares += square[l];
    products += product[l];
  }
  products = std::fabs(products);
  return products > 0 ? squares / products : 0.0f;
}

void Quantize(const IntLevels& levels, const SearchTables& tables, const float* x, int n,
              uint16_t* scale, uint8_t* codes) {
  // Below this, f16 cannot tell the scale from zero.
  constexpr float kSmallest = kMaxLevel * 0x1p-25f;
  const int n_books = 1 << levels.book_bits;
  float top = 0;
  for (int i = 0; i < n; ++i) top = std::max(top, std::fabs(x[i]));
  if (top < kSmallest) {
    *scale = 0;
    if (codes != nullptr) std::fill(codes, codes + n, tables.code[0][kFine]);
    return;
  }
  float inverse[kSearchSteps];
  int32_t error[kSearchSteps][2 * kMaxBooks];
  for (int i = 0; i < kSearchSteps; ++i) inverse[i] = kMaxLevel / (top * tables.reach[i]);
  GetIntKernels(ActiveCpuLevel()).search({x, n, n_books, tables.nearest, inverse, error});
  float best = 3e38f, d = 0;
  int book = 0;
  for (int v = 0; v < 2 * n_books; ++v) {
    for (int i = 0; i < kSearchSteps; ++i) {
      const float e = static_cast<float>(error[i][v]) * (tables.reach[i] * tables.reach[i]);
      if (e >= best) continue;
      best = e;
      book = v / 2;
      d = top * tables.reach[i] / ((v & 1) != 0 ? -kMaxLevel : kMaxLevel);
    }
  }
  // The step that fits these codes best, in whole numbers: the same at every CPU level.
  int32_t fine[1024];
  const int8_t* level = levels.level + (book << levels.bits);
  const uint8_t* code = tables.code[book];
  Refine(x, n, d, fine);
  int64_t product = 0, square = 0;
  for (int i = 0; i < n; ++i) {
    const int32_t l = level[code[fine[i]]];
    product += (fine[i] - kFine) * l;
    square += l * l;
  }
  if (product > 0 && square > 0) {
    d *= static_cast<float>(product) / static_cast<float>(4 * square);
  }
  *scale = ScalePattern(std::fabs(d), book, levels.book_bits);
  if (d < 0) *scale |= 0x8000;
  if (codes == nullptr) return;
  Refine(x, n, F16ToF32(*scale), fine);
  for (int i = 0; i < n; ++i) codes[i] = code[fine[i]];
  *scale = LengthenScale(levels, x, x, n, codes, *scale);
}

const SearchTables& TablesOf(const IntLevels& levels) {
  static const SearchTables four(kLevelsSearched4, 0.873f, 0.0563f);
  static const SearchTables three(kLevelsSearched3, 0.584f, 0.0841f);
  return levels.bits == 4 ? four : three;
}

}  // namespace

void QuantizeSearched4(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  Quantize(kLevelsSearched4, TablesOf(kLevelsSearched4), x, n, scale, codes);
}

void QuantizeSearched3(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  Quantize(kLevelsSearched3, TablesOf(kLevelsSearched3), x, n, scale, codes);
}

const int16_t* NearestLevels(const IntLevels& levels, int book) {
  return TablesOf(levels).level_and_code[book];
}

uint16_t LengthenScale(const IntLevels& levels, const float* x, const float* x_weighed, int n,
                       const uint8_t* codes, uint16_t scale) {
  // Nearest levels are shorter than what they stand for, by their error's share of the square. A
  // sum of values that are all too short is too short itself, so the step makes up for that; the
  // codes stay.
  const int book = scale & ((1 << levels.book_bits) - 1);
  const float longer = Lengthening(x, x_weighed, n, levels.level + (book << levels.bits), codes);
  const float fitted = std::fabs(F16ToF32(scale));
  // Beyond that a row is next to nothing, or its scale lies where f16 is coarse.
  constexpr float kMost = 1.25f;
  if (longer * kMost <= fitted || longer >= kMost * fitted) return scale;
  return static_cast<uint16_t>(ScalePattern(longer, book, levels.book_bits) | (scale & 0x8000));
}

void QuantizeQ8_0(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127.0f;
  const float inverse = d >= kSmallestWeight ? 1.0f / d : 0.0f;
  *scale = F32ToF16(d);
  for (int i = 0; i < n; ++i) {
    // std::round, halves away from zero, in steps that vectorise.
    const float a = std::fabs(x[i] * inverse);
    const int whole = static_cast<int>(a);
    const int up = a - static_cast<float>(whole) >= 0.5f ? whole + 1 : whole;
    codes[i] = static_cast<uint8_t>(x[i] < 0 ? -up : up);
  }
}

void QuantizeQ4_0(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  float largest = 0, extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > largest) {
      largest = std::fabs(x[i]);
      extreme = x[i];
    }
  }
  const float d = extreme / -8.0f;
  const float inverse = std::fabs(d) >= kSmallestWeight ? 1.0f / d : 0.0f;
  *scale = F32ToF16(d);
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(std::min(15, static_cast<int>(x[i] * inverse + 8.5f)));
  }
}

}  // namespace phasor
