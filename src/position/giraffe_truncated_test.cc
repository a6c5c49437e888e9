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

RopeParams Params(int64_t length) {
  RopeParams p;
  p.n_rot = 128;
  p.method = "giraffe_truncated";
  p.truncation_context = length;
  return p;
}

// The published setting: t = 2048, head 128, base 10000 keeps 41 pairs, slows 14, stops 9.
TEST(GiraffeTruncatedPosition, Keeps41Slows14AndStops9PairsAtThePublishedSetting) {
  RopeParams rope = Params(0);
  rope.method = "rope";
  const std::vector<double> base = Omega(rope), got = Omega(Params(2048));
  const double slow = 6.283185307179586 / 2048 / 16;
  int kept = 0, slowed = 0, stopped = 0;
  for (std::size_t j = 0; j < 64; ++j) {
    kept += got[j] == base[j];
    slowed += std::abs(got[j] / slow - 1) < kRelative;
    stopped += got[j] == 0;
  }
  EXPECT_EQ(kept, 41);
  EXPECT_EQ(slowed, 14);
  EXPECT_EQ(stopped, 9);
}

TEST(GiraffeTruncatedPosition, ItsLengthIsTheOriginalContextUnlessGiven) {
  RopeParams p = Params(-1);
  p.original_context = 2048;
  EXPECT_EQ(Omega(p), Omega(Params(2048)));
  EXPECT_NE(Omega(p), Omega(Params(4096)));
}

TEST(GiraffeTruncatedPosition, ScalesBeforeItTruncates) {
  RopeParams p = Params(2048), linear = Params(0);
  p.factor = linear.factor = 4;
  linear.method = "linear";
  const std::vector<double> scaled = Omega(linear), got = Omega(p);
  for (std::size_t j = 0; j < 64; ++j) {
    if (scaled[j] >= 6.283185307179586 / 2048) {
      EXPECT_EQ(got[j], scaled[j]) << j;
    } else {
      EXPECT_LT(got[j], 6.283185307179586 / 2048 / 8) << j;
    }
  }
}

TEST(GiraffeTruncatedPosition, RefusesALengthBelowOneToken) {
  EXPECT_EQ(MakePhaseTable(Params(0)).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePhaseTable(Params(-1)).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace phasor
