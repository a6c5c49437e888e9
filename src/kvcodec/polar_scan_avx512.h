// The loop of AVX-512 scores of polar codecs over slots and tokens (polar_scan_avx512-inl.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/polar_layout.h"
#include "simd/line_fetcher.h"

namespace phasor {

inline constexpr int kPolarBlocks = 2;     // of tokens, one after the other
inline constexpr int kPolarPassHeads = 4;  // most heads of one scan: 4 x 4 accumulators
// Words of a head in a table; steps of 64 levels have two tables.
inline constexpr int kPolarTableWords = 64;
constexpr int PolarTables(PolarStepKind kind) { return kind == PolarStepKind::kLevels64 ? 2 : 1; }

// Radii of a step's slots in turn. A radius code, in the upper byte of a word, times range is 2^16
// times the radius above first.
struct PolarStepRadii {
  uint32_t range, first;
};

struct PolarScan {
  const std::byte* page;
  const PolarStep* step;
  const PolarStepRadii* radii;
  int n;
  const int16_t*
      table;  // of all steps: [PolarTables][all heads][kPolarTableWords], from the first head on
  std::ptrdiff_t plane;  // words of a table of all heads
  const int16_t* fine;   // [n][16][cos, sin]
  int32_t* sum;          // [n_heads][kPageTokens]
  LineFetcher* fetcher;  // a step per step and block
};

// Adds what the steps contribute to the sums of n_heads (1 .. kPolarPassHeads) and a page of
// tokens.
void ScanPolarAvx512(const PolarScan& scan, int n_heads);
void ScanPolarAvx512Vnni(const PolarScan& scan, int n_heads);

}  // namespace phasor
