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

// Doubles in the expectation: a few roundings of 2^-53.
constexpr double kRelative = 1e-13;

RopeParams Params(double factor) {
  RopeParams p;
  p.n_rot = 128;
  p.method = "ntk";
  p.factor = factor;
  return p;
}

TEST(NtkPosition, EqualsRopeWithTheRaisedBase) {
  for (double factor : {0.5, 2.0, 4.0, 32.0}) {
    RopeParams rope = Params(1);
    rope.method = "rope";
    rope.theta_base = 10000 * std::pow(factor, 128.0 / 126.0);
    const std::vector<double> want = Omega(rope), got = Omega(Params(factor));
    // The base in double is raised to powers up to one: one more rounding, times ln(base).
    for (std::size_t j = 0; j < 64; ++j) EXPECT_NEAR(got[j] / want[j], 1, 1e-12) << j;
  }
}

TEST(NtkPosition, KeepsTheFastestPairAndDividesTheSlowestByTheFactor) {
  const std::vector<double> rope = Omega(Params(1)), ntk = Omega(Params(8));
  EXPECT_EQ(ntk.front(), rope.front());
  EXPECT_NEAR(rope.back() / ntk.back(), 8, 1e-10);
}

}  // namespace
}  // namespace phasor
