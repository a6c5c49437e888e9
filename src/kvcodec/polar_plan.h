// What scores of a polar page in integers have in common, whatever the level: every query in a unit
// of its own, every radius in parts of its slot's largest, and whether that is exact enough.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/aligned.h"
#include "kvcodec/polar_layout.h"

namespace phasor {

// What the integers of a kernel can hold and what they add to the error.
struct PolarPlanLimits {
  float radius_units;  // the largest radius of a slot
  float largest_sum;   // of the lengths of one head's queries, in its unit
  // Squared error that a slot adds to a score, times the square of a query's unit.
  float slot_error;
  // Mean square of the error of radii, cosines and sines of 1.
  float level_error;
  int last_middle_bits;  // angle levels of 5 to so many bits count from the middle of the arc
};

// Of one page, per thread. S: padded slots.
struct PolarPlan {
  AlignedBuffer<float> scale;  // [S]: what a radius unit is
  // [S]: mean square of what a code adds to the score of a query of length 1.
  AlignedBuffer<float> code_error;
  // [S][x, y]: what turns a query by the angle its slot's levels count from and scales it. Levels
  // count from the start of the arc, or from its middle.
  AlignedBuffer<float> scale_cos, scale_sin;
  AlignedBuffer<int32_t> r_first, r_range;  // [S], in radius units, twice in 16 bits
  AlignedBuffer<int32_t> q16;               // [g][S][x, y], each twice in 16 bits
  AlignedBuffer<float> unit;                // [g]: a score is a sum of radius times query times it
};

// Fills *plan. prepared: as PreparePolarWords wrote it. False, and q16 is not set, where
// the integers would add too much to the error of the codes: narrow pages far from the origin.
// Runs on CPUs with AVX2.
bool PlanPolarScores(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
                     const PolarPlanLimits& limits, PolarPlan* plan);

// prepared: [g][S][x, y] and then lengths of (x, y) [g][S]; S = PaddedPolarSlots.
void PreparePolarWords(const PolarLayout& layout, const float* q_GD, int g, float* prepared);

// sin(pi/2 z) - z = z (c0 + c1 z^2 + c2 z^4) in units of 2^-15. Lawson fit; with rounding the sine
// is within 3.6 units.
inline constexpr int16_t kPolarSine[3] = {18688, -21040, 2355};

}  // namespace phasor
