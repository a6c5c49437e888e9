#include "position/dprope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "registry/position_table.h"

namespace phasor {
namespace {

// LLaMA-2 as in the paper: head 128, base 10000, trained on 4096 tokens.
RopeParams Params(const char* method, double factor) {
  RopeParams p;
  p.n_rot = 128;
  p.method = method;
  p.factor = factor;
  p.original_context = 4096;
  return p;
}

PhaseTable Make(const char* method, double factor) {
  return MakePhaseTable(Params(method, factor)).value();
}

double Disturbance(const char* method, double factor) {
  return MeanDisturbance(Make("rope", 1), 4096, Make(method, factor),
                         static_cast<int64_t>(4096 * factor));
}

int PairsInterpolated(double factor) {
  const PhaseTable rope = Make("rope", 1), linear = Make("linear", factor);
  const PhaseTable chosen = Make("dprope", factor);
  int n = 0;
  for (std::size_t j = 0; j < 64; ++j) {
    EXPECT_TRUE(chosen.step_P[j] == rope.step_P[j] || chosen.step_P[j] == linear.step_P[j]);
    n += chosen.step_P[j] != rope.step_P[j];
  }
  return n;
}

// The golden numbers are given to five decimals.
constexpr double kDecimals = 0.5e-5;
// They were counted in radians with doubles. The slowest pair of ntk turns by exactly 1/s of its
// trained angle, so many of its angles lie on the border of a bin up to rounding; an angle counted
// on the other side moves the mean by about 1 / (8192 positions * 64 pairs) times a logarithm.
constexpr double kBorders = 2e-5;

TEST(DpropePosition, InterpolatesAsManyPairsAsThePublishedChoice) {
  EXPECT_EQ(PairsInterpolated(2), 46);
  EXPECT_EQ(PairsInterpolated(4), 42);
}

TEST(DpropePosition, DisturbsTheAnglesAsMuchLessAsThePaperSays) {
  // Abstract: 72 % and 32 % less at 8k and 16k.
  EXPECT_NEAR(1 - Disturbance("dprope", 2) / Disturbance("linear", 2), 0.721, 0.0005);
  EXPECT_NEAR(1 - Disturbance("dprope", 4) / Disturbance("linear", 4), 0.317, 0.0005);
}

TEST(DpropePosition, DisturbanceOfTheOtherSchedulesIsTheKnownOne) {
  EXPECT_NEAR(Disturbance("rope", 2), 0.18235, kDecimals);
  EXPECT_NEAR(Disturbance("linear", 2), 0.02406, kDecimals);
  EXPECT_NEAR(Disturbance("ntk", 2), 0.26976, kBorders);
  EXPECT_NEAR(Disturbance("dprope", 2), 0.00672, kDecimals);
  EXPECT_NEAR(Disturbance("rope", 4), 0.30225, kDecimals);
  EXPECT_NEAR(Disturbance("linear", 4), 0.03362, kDecimals);
  EXPECT_NEAR(Disturbance("ntk", 4), 0.08700, kBorders);
  EXPECT_NEAR(Disturbance("dprope", 4), 0.02295, kDecimals);
}

TEST(DpropePosition, EveryPairIsTheLesserOfTwoDisturbances) {
  const PhaseTable rope = Make("rope", 1), linear = Make("linear", 3), got = Make("dprope", 3);
  for (std::size_t j = 0; j < 64; ++j) {
    const double kept = AngleDisturbance(rope.step_P[j], 4096, rope.step_P[j], 3 * 4096);
    const double interpolated = AngleDisturbance(rope.step_P[j], 4096, linear.step_P[j], 3 * 4096);
    EXPECT_EQ(AngleDisturbance(rope.step_P[j], 4096, got.step_P[j], 3 * 4096),
              std::min(kept, interpolated))
        << j;
  }
}

// Histograms counted in radians with doubles, as the definition reads. Steps with low bits set, so
// that no angle lies on the border of a bin.
TEST(DpropePosition, DisturbanceEqualsItsDefinition) {
  const auto histogram = [](double omega, int n) {
    std::vector<double> bins(kDisturbanceBins, kDisturbanceFloor);
    for (int p = 0; p < n; ++p) {
      const double turns = p * omega / 6.283185307179586;
      ++bins[static_cast<std::size_t>((turns - std::floor(turns)) * kDisturbanceBins)];
    }
    for (double& b : bins) b /= n;
    return bins;
  };
  for (double omega : {0.9, 0.0123, 0.00045}) {
    const auto p = histogram(omega, 500), q = histogram(omega / 3, 1500);
    double kl = 0;
    for (int b = 0; b < kDisturbanceBins; ++b) kl += p[b] * std::log(p[b] / q[b]);
    const auto step = [](double w) {
      return static_cast<uint64_t>(w / 6.283185307179586 * 0x1.0p64);
    };
    EXPECT_NEAR(AngleDisturbance(step(omega), 500, step(omega / 3), 1500), kl, 1e-9) << omega;
  }
}

TEST(DpropePosition, RefusesContextsThatWouldTakeMinutesToCount) {
  RopeParams p = Params("dprope", 2);
  p.original_context = int64_t{1} << 40;
  EXPECT_EQ(MakePhaseTable(p).status().code(), StatusCode::kInvalidArgument);
  p = Params("dprope", 0.5);
  EXPECT_EQ(MakePhaseTable(p).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace phasor
