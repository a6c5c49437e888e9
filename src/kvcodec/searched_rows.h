// Rows of numbers on the grids whose scales are searched (kLevelsSearched3, kLevelsSearched4), 16
// rows at a time, rows in lanes.
//
// The scale of a row: the book, sign and size with the least squared error in whole levels, among 8
// sizes; then the size that fits the nearest levels best, by least squares; then the f16 pattern
// nearest to it whose low bits name the book. The same at every CPU level.
#pragma once

#include <cstdint>

#include "kvcodec/int_kernels.h"
#include "kvcodec/nearest_level.h"

namespace phasor {

inline constexpr int kStripRows = 16;

// [D][16] with D padded to a multiple of 4, zero beyond the head and the last row; finite numbers,
// |x| <= 65504.
struct SearchedStrip {
  const IntLevels* levels;
  const float* x_DT;
  int head_dim;
  uint16_t* scale;    // [16]; 0 where f16 cannot tell it from zero
  uint8_t* codes_DT;  // [D][16]: the nearest of every number by itself; null: scales alone, and
                      // not the last step below
};
// With codes, every scale becomes the one at which the stored row times the row is the row's
// square.
void QuantizeStrip(const SearchedStrip& strip);

// Of 16 rows: the scale at which the stored row times y is the row x times y, from square = x . y
// and product = level . y, where it is not far from `scale`.
void LengthenScales(const IntLevels& levels, const float* square, const float* product,
                    uint16_t* scale);

// rows x_TD [n][D], n <= 16, to columns x_DT [padded][16] for a padded size of a multiple of 4:
// NaN becomes 0, everything else comes into the range of f16; what there is no row or channel for
// becomes 0.
void FiniteColumns(const float* x_TD, int n, int head_dim, int padded, float* x_DT);

// Of kLevelsSearched3 and kLevelsSearched4.
const NearestTables& NearestTablesOf(const IntLevels& levels);

}  // namespace phasor
