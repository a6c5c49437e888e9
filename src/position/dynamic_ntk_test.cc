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

RopeParams Params(int64_t context, double factor) {
  RopeParams p;
  p.n_rot = 64;
  p.method = "dynamic_ntk";
  p.original_context = 2048;
  p.context = context;
  p.factor = factor;
  return p;
}

TEST(DynamicNtkPosition, IsPlainRopeUpToTheTrainedContext) {
  RopeParams rope = Params(0, 1);
  rope.method = "rope";
  const std::vector<uint64_t> want = MakePhaseTable(rope).value().step_P;
  for (int64_t context : {0, 1, 2047, 2048}) {
    for (double factor : {1.0, 2.0, 3.7}) {
      EXPECT_EQ(MakePhaseTable(Params(context, factor)).value().step_P, want) << context;
    }
  }
}

TEST(DynamicNtkPosition, IsNtkWithTheFactorOfTheContext) {
  // s = a C / L - (a - 1)
  const struct {
    int64_t context;
    double factor, scale;
  } cases[] = {{4096, 1, 2}, {8192, 1, 4}, {8192, 2, 7}, {3072, 4, 3}};
  for (const auto& c : cases) {
    RopeParams ntk = Params(0, c.scale);
    ntk.method = "ntk";
    const std::vector<double> want = Omega(ntk), got = Omega(Params(c.context, c.factor));
    for (std::size_t j = 0; j < 32; ++j) EXPECT_NEAR(got[j] / want[j], 1, kRelative) << j;
  }
}

TEST(DynamicNtkPosition, RefusesWhatHasNoScale) {
  EXPECT_EQ(MakePhaseTable(Params(4096, 0.5)).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePhaseTable(Params(-1, 2)).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace phasor
