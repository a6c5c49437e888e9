#include <gtest/gtest.h>

#include <cmath>

#include "registry/position_table.h"

namespace phasor {
namespace {

// Radians per position of every pair.
std::vector<double> Omega(const RopeParams& params) {
  const PhaseTable table = MakePhaseTable(params).value();
  std::vector<double> omega;
  for (uint64_t step : table.step_P) {
    omega.push_back(static_cast<double>(step) * 0x1.0p-64 * 6.283185307179586);
  }
  return omega;
}

// Doubles in the expectation: a few roundings of 2^-53; and steps are whole, 2 pi / 2^64 radians.
constexpr double kRelative = 1e-13, kStep = 6.283185307179586 * 0x1.0p-64;

RopeParams Params(double exponent, double factor) {
  RopeParams p;
  p.n_rot = 128;
  p.method = "giraffe_power";
  p.power_exponent = exponent;
  p.factor = factor;
  return p;
}

TEST(GiraffePowerPosition, EqualsTheClosedForm) {
  for (double exponent : {0.1, 0.5, 2.0}) {
    for (double factor : {1.0, 4.0}) {
      const std::vector<double> got = Omega(Params(exponent, factor));
      for (int j = 0; j < 64; ++j) {
        const double want =
            std::pow(10000.0, -2.0 * j / 128) / factor * std::pow(1 - j / 64.0, exponent);
        EXPECT_NEAR(got[j], want, kStep + kRelative * want) << j;
      }
    }
  }
}

TEST(GiraffePowerPosition, TheReleasedExponentIsTheDefault) {
  EXPECT_EQ(RopeParams().power_exponent, 0.5);
}

TEST(GiraffePowerPosition, RefusesExponentsThatSpeedUp) {
  for (double bad : {-0.5, std::nan(""), HUGE_VAL}) {
    EXPECT_EQ(MakePhaseTable(Params(bad, 1)).status().code(), StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace phasor
