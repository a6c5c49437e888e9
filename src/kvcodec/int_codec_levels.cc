// Grids of the integer codecs, and the choice of a row's scale on the searched ones.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "kvcodec/int_codec.h"
#include "kvcodec/nearest_level.h"
#include "kvcodec/row_codec.h"
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

struct SearchTables {
  SearchTables(const IntLevels& levels, float first, float step) : quarters(levels) {
    for (int i = 0; i < kSearchSteps; ++i) reach[i] = first + step * static_cast<float>(i);
    for (int b = 0; b < 1 << levels.book_bits; ++b) {
      for (int i = -64; i < 64; ++i) {
        nearest[b][i & 127] = levels.level[(b << levels.bits) + quarters.NearestCode(b, 4 * i)];
      }
    }
  }
  // Candidates for kMaxLevel * |scale| / max|x|.
  float reach[kSearchSteps];
  int8_t nearest[kMaxBooks][128];
  NearestTables quarters;  // for the final choice of a code
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

// Sum of a[i] b[i], n padded to kLanes with zeros; the same bits everywhere.
float Dot(const float* a, const float* b, int n) {
  constexpr int kLanes = 16;
  float sum[kLanes] = {}, total = 0;
  for (int i = 0; i < n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) sum[l] += a[i + l] * b[i + l];
  }
  for (float s : sum) total += s;
  return total;
}

void Quantize(const IntLevels& levels, const SearchTables& tables, const float* x, int n,
              uint16_t* scale, uint8_t* codes) {
  // Below this, f16 cannot tell the scale from zero.
  constexpr float kSmallest = kMaxLevel * 0x1p-25f;
  const int n_books = 1 << levels.book_bits;
  const float top = LargestOfRow(x, n);
  if (top < kSmallest) {
    *scale = 0;
    if (codes != nullptr) std::fill(codes, codes + n, tables.quarters.NearestCode(0, 0));
    return;
  }
  float inverse[kSearchSteps];
  int32_t error[kSearchSteps][2 * kMaxBooks] = {};
  for (int i = 0; i < kSearchSteps; ++i) inverse[i] = kMaxLevel / (top * tables.reach[i]);
  GetIntKernels(ActiveCpuLevel())
      .search({x, n, n_books, tables.nearest, &tables.quarters, inverse, error});
  // The best step of every book and sign first, side by side; no branches.
  float least[2 * kMaxBooks];
  int step[2 * kMaxBooks] = {};
  std::fill(std::begin(least), std::end(least), 3e38f);
  for (int i = 0; i < kSearchSteps; ++i) {
    const float weight = tables.reach[i] * tables.reach[i];
    for (int v = 0; v < 2 * kMaxBooks; ++v) {
      const float e = static_cast<float>(error[i][v]) * weight;
      step[v] = e < least[v] ? i : step[v];
      least[v] = e < least[v] ? e : least[v];
    }
  }
  int best = 0;
  for (int v = 1; v < 2 * n_books; ++v) best = least[v] < least[best] ? v : best;
  const int book = best / 2;
  float d = top * tables.reach[step[best]] / (best % 2 == 1 ? -kMaxLevel : kMaxLevel);
  // The step that fits these codes best.
  alignas(64) float quarters[kMaxHeadDim], level[kMaxHeadDim];
  const NearestRowSums sums =
      NearestRow({&tables.quarters, book, x, n, d, quarters, level, nullptr});
  if (sums.product > 0 && sums.square > 0) d *= sums.product / (4 * sums.square);
  *scale = ScalePattern(std::fabs(d), book, levels.book_bits);
  if (d < 0) *scale |= 0x8000;
  if (codes == nullptr) return;
  NearestRow({&tables.quarters, book, x, n, F16ToF32(*scale), quarters, level, codes});
  *scale = LengthenScale(levels, Dot(x, x, n), Dot(x, level, n), *scale);
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

const NearestTables& NearestTablesOf(const IntLevels& levels) { return TablesOf(levels).quarters; }

uint16_t LengthenScale(const IntLevels& levels, float square, float product, uint16_t scale) {
  // Nearest levels are shorter than what they stand for, by their error's share of the square. A
  // sum of values that are all too short is too short itself, so the step makes up for that; the
  // codes stay.
  product = std::fabs(product);
  const float longer = product > 0 ? square / product : 0.0f;
  const float fitted = std::fabs(F16ToF32(scale));
  // Beyond that a row is next to nothing, or its scale lies where f16 is coarse.
  constexpr float kMost = 1.25f;
  if (longer * kMost <= fitted || longer >= kMost * fitted) return scale;
  const int book = scale & ((1 << levels.book_bits) - 1);
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
