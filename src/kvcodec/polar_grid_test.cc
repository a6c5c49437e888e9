#include "kvcodec/polar_grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "kvcodec/packed_field.h"
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr double kTwoPi = 6.283185307179586;
// What polar_grid.h promises for both polynomials.
constexpr double kPolynomialError = 1e-6;

double TurnsOf(double y, double x) {
  double turns = std::atan2(y, x) / kTwoPi;
  return turns < 0 ? turns + 1 : turns;
}

double CircularDistance(double a, double b) {
  double d = std::fabs(a - b);
  return std::min(d, 1 - d);
}

TEST(PolarGrid, ArcTangentIsExactToOneMillionthOfATurn) {
  Rng rng(1);
  double worst = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const double angle = rng.Uniform() * kTwoPi, r = std::exp(4 * rng.Normal());
    const float x = static_cast<float>(r * std::cos(angle));
    const float y = static_cast<float>(r * std::sin(angle));
    const float turns = Atan2Turns(y, x);
    ASSERT_GE(turns, 0.0f);
    ASSERT_LT(turns, 1.0f);
    worst = std::max(worst, CircularDistance(turns, TurnsOf(y, x)));
  }
  EXPECT_LT(worst, kPolynomialError);
  EXPECT_EQ(Atan2Turns(0, 0), 0.0f);
  EXPECT_EQ(Atan2Turns(0, -1), 0.5f);
  EXPECT_EQ(Atan2Turns(-1, 0), 0.75f);
}

TEST(PolarGrid, SineAndCosineAreExactToOneMillionth) {
  Rng rng(2);
  double worst = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const float turns = static_cast<float>(4 * rng.Uniform() - 1);
    float sine, cosine;
    SinCosTurns(turns, &sine, &cosine);
    worst = std::max({worst, std::fabs(sine - std::sin(kTwoPi * turns)),
                      std::fabs(cosine - std::cos(kTwoPi * turns))});
  }
  EXPECT_LT(worst, kPolynomialError);
}

TEST(PolarGrid, PairsFollowTheRopePairing) {
  auto halves = PolarPairs(8, 8, RopePairing::kHalfSplit);
  ASSERT_EQ(halves.size(), 4u);
  EXPECT_EQ(halves[1].x, 1);
  EXPECT_EQ(halves[1].y, 5);
  auto neighbours = PolarPairs(8, 8, RopePairing::kInterleaved);
  EXPECT_EQ(neighbours[1].x, 2);
  EXPECT_EQ(neighbours[1].y, 3);
  // Partial rotary: the tail 4..8 is paired among itself; its last dimension stays alone.
  auto partial = PolarPairs(9, 4, RopePairing::kHalfSplit);
  ASSERT_EQ(partial.size(), 5u);
  EXPECT_EQ(partial[1].y, 3);
  EXPECT_EQ(partial[2].x, 4);
  EXPECT_EQ(partial[2].y, 7);
  EXPECT_EQ(partial[4].x, 6);
  EXPECT_EQ(partial[4].y, -1);
}

TEST(PolarGrid, EveryWidthPacksWithoutWasteAndUnpacks) {
  Rng rng(3);
  for (int bits = 1; bits <= 15; ++bits) {
    uint16_t code[kPageTokens], back[kPageTokens];
    for (auto& c : code) c = static_cast<uint16_t>(rng.Below(1u << bits));
    PartOffsets parts;
    uint32_t at = 0;
    for (int p = 0; p < 4; ++p) {
      parts.at[p] = at;
      if (bits & kFieldParts[p]) at += PartBytes(kFieldParts[p]);
    }
    EXPECT_EQ(at, static_cast<uint32_t>(bits) * kPageTokens / 8);
    std::vector<std::byte> page(at);
    PackField(code, bits, parts, page.data());
    UnpackField(page.data(), bits, parts, back);
    EXPECT_EQ(std::memcmp(code, back, sizeof(code)), 0) << bits;
  }
}

// The largest gap over all tokens by sorting: what the 256 bins approximate.
double SortedArc(std::vector<int32_t> phases) {
  std::sort(phases.begin(), phases.end());
  int32_t gap = phases.front() + (1 << kPhaseBits) - phases.back();
  for (size_t i = 1; i < phases.size(); ++i) gap = std::max(gap, phases[i] - phases[i - 1]);
  return 1.0 - gap * 0x1p-24;
}

TEST(PolarGrid, TheCutFindsTheArcWithinOneBin) {
  Rng rng(4);
  for (int trial = 0; trial < 2000; ++trial) {
    const double width = rng.Uniform(), start = rng.Uniform();
    const int n = 1 + static_cast<int>(rng.Below(kPageTokens));
    std::vector<int32_t> phases;
    std::vector<float> r(n, 1.0f);
    for (int t = 0; t < n; ++t) {
      const double turns = start + width * rng.Uniform();
      phases.push_back(static_cast<int32_t>(turns * 0x1p24) & kPhaseMask);
    }
    const PolarGrid grid = FitGrid(phases.data(), r.data(), n, {4, 4}, CircleCut::kLargestGap);
    // One bin of 1/256 turn, and rounding both ends of the stored grid outwards.
    EXPECT_LE(grid.phi_range / 65536.0, SortedArc(phases) + 1.0 / 256 + 2.0 / 65536) << trial;
    for (int32_t phase : phases) {
      const int32_t d = (phase - (grid.phi_min << 8)) & kPhaseMask;
      EXPECT_LE(d, std::max(grid.phi_range, uint16_t{0}) * 256 + 256);
    }
  }
}

// One pair over a page: error of every token against half a cell, in both directions.
void ExpectHalfCellErrors(const std::vector<float>& x, const std::vector<float>& y,
                          PolarWidth width, CircleCut cut) {
  const int n = static_cast<int>(x.size());
  std::vector<int32_t> phase(n);
  std::vector<float> r(n);
  ToPolar(x.data(), y.data(), n, phase.data(), r.data());
  const PolarGrid grid = FitGrid(phase.data(), r.data(), n, width, cut);
  // Codes are computed in f32: 1e-5 of the range; a full circle is stored as 65535/65536.
  const double phi_slack = kPolynomialError + 2.0 / 65536 / 2 + 1e-5 * grid.phi_range / 65536;
  const double r_step = F16ToF32(grid.r_step);
  for (int t = 0; t < n; ++t) {
    double turns, radius;
    PolarCellCenter(grid, width, PolarCode(grid, width, phase[t], r[t]), &turns, &radius);
    EXPECT_LE(std::fabs(radius - r[t]), 0.5 * r_step * 1.0001 + 1e-6 * r[t]) << t;
    if (r[t] == 0) continue;
    EXPECT_LE(CircularDistance(turns, TurnsOf(y[t], x[t])),
              0.5 * grid.phi_range / 65536.0 / (1 << width.a_bits) + phi_slack)
        << t;
  }
}

TEST(PolarGrid, ErrorsStayWithinHalfACell) {
  Rng rng(5);
  for (PolarWidth width : {PolarWidth{4, 4}, {3, 5}, {1, 3}, {2, 8}, {5, 7}, {6, 2}}) {
    for (int trial = 0; trial < 50; ++trial) {
      std::vector<float> x(kPageTokens), y(kPageTokens);
      const double bias_x = 3 * rng.Normal(), bias_y = 3 * rng.Normal();
      for (int t = 0; t < kPageTokens; ++t) {
        x[t] = static_cast<float>(bias_x + rng.Normal());
        y[t] = static_cast<float>(bias_y + rng.Normal());
      }
      if (trial % 5 == 0) x[7] = 1000.0f;      // one outlier
      if (trial % 7 == 0) x[9] = y[9] = 0.0f;  // a zero vector
      ExpectHalfCellErrors(x, y, width, CircleCut::kLargestGap);
      ExpectHalfCellErrors(x, y, width, CircleCut::kAtZero);
    }
  }
}

TEST(PolarGrid, ConstantPairsAndSmallCountsHaveNoCodes) {
  for (int n : {1, 2, 127, 128}) {
    std::vector<float> x(n, -2.5f), y(n, 0.75f);
    std::vector<int32_t> phase(n);
    std::vector<float> r(n);
    ToPolar(x.data(), y.data(), n, phase.data(), r.data());
    const PolarGrid grid = FitGrid(phase.data(), r.data(), n, {4, 4}, CircleCut::kLargestGap);
    EXPECT_LE(grid.phi_range, 1);  // rounding phi_min down leaves at most one unit
    double turns, radius;
    PolarCellCenter(grid, {4, 4}, PolarCode(grid, {4, 4}, phase[0], r[0]), &turns, &radius);
    EXPECT_NEAR(radius, std::hypot(2.5, 0.75), 1e-4);
    EXPECT_NEAR(turns, TurnsOf(0.75, -2.5), 1.0 / 65536);
  }
}

TEST(PolarGrid, AZeroVectorTakesNoPartInTheArc) {
  std::vector<float> x = {0, -1, -1, 0}, y = {0, 0.01f, -0.01f, 0};
  std::vector<int32_t> phase(4);
  std::vector<float> r(4);
  ToPolar(x.data(), y.data(), 4, phase.data(), r.data());
  EXPECT_EQ(phase[0], phase[1]);
  EXPECT_EQ(phase[3], phase[1]);
}

TEST(PolarGrid, NotANumberCountsAsZeroAndInfinityAsTheLargestHalf) {
  EXPECT_EQ(SanitizeElement(std::numeric_limits<float>::quiet_NaN()), 0.0f);
  EXPECT_EQ(SanitizeElement(std::numeric_limits<float>::infinity()), 65504.0f);
  EXPECT_EQ(SanitizeElement(-std::numeric_limits<float>::infinity()), -65504.0f);
  EXPECT_EQ(SanitizeElement(-1.5f), -1.5f);
}

// Codes of a double-precision implementation of the paper's formulas. `exact_grid`: with its own
// unrounded minima and steps; otherwise with the stored grid.
struct Parity {
  int64_t equal = 0, near = 0, total = 0;
};
Parity CompareWithDoubles(bool exact_grid) {
  Rng rng(6);
  Parity parity;
  const PolarWidth width = {4, 4};
  for (int group = 0; group < 1'000'000 / kPageTokens; ++group) {
    float x[kPageTokens], y[kPageTokens], r[kPageTokens];
    int32_t phase[kPageTokens];
    double ref_phi[kPageTokens], ref_r[kPageTokens];
    const double bias = 2 * rng.Normal();
    for (int t = 0; t < kPageTokens; ++t) {
      x[t] = static_cast<float>(bias + rng.Normal());
      y[t] = static_cast<float>(rng.Normal());
      ref_phi[t] = TurnsOf(y[t], x[t]);
      ref_r[t] = std::hypot(static_cast<double>(x[t]), static_cast<double>(y[t]));
    }
    ToPolar(x, y, kPageTokens, phase, r);
    const PolarGrid grid = FitGrid(phase, r, kPageTokens, width, CircleCut::kAtZero);
    auto [phi_low, phi_high] = std::minmax_element(ref_phi, ref_phi + kPageTokens);
    auto [r_low, r_high] = std::minmax_element(ref_r, ref_r + kPageTokens);
    const double phi_min = exact_grid ? *phi_low : grid.phi_min / 65536.0;
    const double phi_step = (exact_grid ? *phi_high - *phi_low : grid.phi_range / 65536.0) / 16;
    const double r_min = exact_grid ? *r_low : F16ToF32(grid.r_min);
    const double r_step = exact_grid ? (*r_high - *r_low) / 16 : F16ToF32(grid.r_step);
    for (int t = 0; t < kPageTokens; ++t) {
      const int code = PolarCode(grid, width, phase[t], r[t]);
      const int theta = std::clamp(static_cast<int>((ref_phi[t] - phi_min) / phi_step), 0, 15);
      const int rho = std::clamp(static_cast<int>((ref_r[t] - r_min) / r_step), 0, 15);
      const int d_theta = std::abs(theta - (code & 15)), d_rho = std::abs(rho - (code >> 4));
      parity.equal += d_theta == 0 && d_rho == 0;
      parity.near += d_theta <= 1 && d_rho <= 1;
      ++parity.total;
    }
  }
  return parity;
}

TEST(PolarGrid, CodesEqualADoublePrecisionReference) {
  const Parity stored = CompareWithDoubles(false);
  EXPECT_GE(static_cast<double>(stored.equal), 0.999 * static_cast<double>(stored.total));
  EXPECT_EQ(stored.near, stored.total);
  // With an unrounded grid only cell borders move: an f16 step is up to 2^-10 too wide, so code 15
  // starts up to 1.5 % of a cell late, and codes near it go down by one that often.
  const Parity exact = CompareWithDoubles(true);
  EXPECT_GE(static_cast<double>(exact.equal), 0.98 * static_cast<double>(exact.total));
  EXPECT_EQ(exact.near, exact.total);
}

}  // namespace
}  // namespace phasor
