// How much a schedule disturbs the distribution of rotary angles: DPRoPE's measure (2410.01490).
#pragma once

#include <cstdint>

#include "contracts/position_method.h"

namespace phasor {

// Bins of the circle, and what every bin holds before the first angle, so that none is empty: the
// smallest normal half-precision number, as released.
inline constexpr int kDisturbanceBins = 360;
inline constexpr double kDisturbanceFloor = 0x1.0p-14;
// Longest sequence that is counted through; bounds the time of a file's settings to seconds.
inline constexpr int64_t kDisturbanceMaxTokens = int64_t{1} << 24;

// KL(P || Q) in nats, summed over the bins: P is the histogram of the angles of a pair that turns
// by reference_step per position over positions 0 .. n_reference - 1, Q that of `step` over
// positions 0 .. n - 1, each divided by its number of positions. 1 <= n_reference, n <=
// kDisturbanceMaxTokens.
double AngleDisturbance(uint64_t reference_step, int64_t n_reference, uint64_t step, int64_t n);

// Mean over the pairs of two tables of the same size: 0 without pairs.
double MeanDisturbance(const PhaseTable& reference, int64_t n_reference, const PhaseTable& table,
                       int64_t n);

}  // namespace phasor
