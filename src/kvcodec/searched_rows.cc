#include "kvcodec/searched_rows.h"

#include "base/check.h"
#include "kvcodec/int_codec.h"
#include "simd/cpu.h"
#include "simd/lanes.h"

#define PHASOR_LEVEL_FILE "kvcodec/searched_rows-inl.h"
#include "simd/each_level-inl.h"

namespace phasor {
namespace {

struct Functions {
  decltype(&plain::Quantize) quantize;
  decltype(&plain::Lengthen) lengthen;
  decltype(&plain::Columns) columns;
};

Functions ChooseFunctions() {
#if defined(__x86_64__)
  if (IsAvx512(ActiveCpuLevel())) return {avx512::Quantize, avx512::Lengthen, avx512::Columns};
  if (ActiveCpuLevel() == CpuLevel::kAvx2) return {avx2::Quantize, avx2::Lengthen, avx2::Columns};
#endif
  return {plain::Quantize, plain::Lengthen, plain::Columns};
}

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

const SearchTables& TablesOf(const IntLevels& levels) {
  static const SearchTables four(kLevelsSearched4, 0.873f, 0.0563f);
  static const SearchTables three(kLevelsSearched3, 0.584f, 0.0841f);
  return levels.bits == 4 ? four : three;
}

}  // namespace

void QuantizeStrip(const SearchedStrip& strip) {
  const SearchTables& tables = TablesOf(*strip.levels);
  ChooseFunctions().quantize(strip, tables.quarters, tables.nearest, tables.reach);
}

void LengthenScales(const IntLevels& levels, const float* square, const float* product,
                    uint16_t* scale) {
  ChooseFunctions().lengthen(levels, square, product, scale);
}

void FiniteColumns(const float* x_TD, int n, int head_dim, int padded, float* x_DT) {
  PHASOR_CHECK(n <= kStripRows && padded % 4 == 0);
  ChooseFunctions().columns(x_TD, n, head_dim, padded, x_DT);
}

const NearestTables& NearestTablesOf(const IntLevels& levels) { return TablesOf(levels).quarters; }

}  // namespace phasor
