// The width classes of `polar`, shared with the allocation that chooses among them.
#pragma once

#include <span>

#include "kvcodec/polar_grid.h"

namespace phasor {

// Class index (KvCodecParams::classes, calibration files) -> radius + angle bits. Every split
// of 4, 6, 8, 10 and 12 bits per pair with 1..5 radius and 2..8 angle bits. The order is part of
// the calibration file format: append, never reorder.
inline constexpr PolarWidth kPolarClasses[] = {
    {1, 3}, {2, 2},                          // 4 bits
    {1, 5}, {2, 4}, {3, 3}, {4, 2},          // 6
    {1, 7}, {2, 6}, {3, 5}, {4, 4}, {5, 3},  // 8
    {2, 8}, {3, 7}, {4, 6}, {5, 5},          // 10
    {4, 8}, {5, 7},                          // 12
};
inline constexpr int kNumPolarClasses = static_cast<int>(std::size(kPolarClasses));
// What every pair gets without calibration: 3 + 5 (index into kPolarClasses).
inline constexpr uint8_t kUniformPolarClass = 8;

// Bits per element of the grids, 64 bits per pair and page.
inline constexpr double kPolarGridBits = 64.0 / (2 * kPageTokens);

}  // namespace phasor
