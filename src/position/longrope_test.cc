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

RopeParams Params(int64_t context) {
  RopeParams p;
  p.n_rot = 8;
  p.method = "longrope";
  p.original_context = 4096;
  p.factor = 32;  // 131,072 / 4,096, as Phi-3-mini-128k
  p.context = context;
  p.short_factors = {1.0f, 1.25f, 1.5f, 2.0f};
  p.long_factors = {1.0f, 4.0f, 16.0f, 64.0f};
  return p;
}

TEST(LongRopePosition, TakesTheShortListUpToTheOriginalContextAndTheLongOneBeyond) {
  RopeParams rope = Params(0);
  rope.method = "rope";
  const std::vector<double> base = Omega(rope);
  for (int64_t context : {0, 1, 4096, 4097, 131072}) {
    const RopeParams p = Params(context);
    const auto& list = context > 4096 ? p.long_factors : p.short_factors;
    const std::vector<double> got = Omega(p);
    for (std::size_t j = 0; j < 4; ++j) {
      EXPECT_NEAR(got[j] * list[j] / base[j], 1, kRelative) << context << " " << j;
    }
  }
}

TEST(LongRopePosition, AttentionFactorIsThePublishedOne) {
  // Phi-3-mini-128k: sqrt(1 + ln 32 / ln 4096) = 1.1902380714238083, the value of its config.
  EXPECT_NEAR(MakePhaseTable(Params(0)).value().attention_factor, 1.1902380714238083, 1e-7);
  RopeParams p = Params(8192);
  p.attention_factor = 1.5;
  EXPECT_EQ(MakePhaseTable(p).value().attention_factor, 1.5f);
  p.attention_factor = 0;
  p.factor = 1;
  EXPECT_EQ(MakePhaseTable(p).value().attention_factor, 1.0f);
}

TEST(LongRopePosition, ListsThatDoNotFitAreRefused) {
  const auto message = [](const RopeParams& p) { return MakePhaseTable(p).status().message(); };
  RopeParams p = Params(0);
  p.long_factors.clear();
  EXPECT_NE(message(p).find("long factors: expected 4 of them, found none"), std::string::npos);
  p = Params(0);
  p.short_factors.pop_back();
  EXPECT_NE(message(p).find("short factors: expected 4 of them, found 3"), std::string::npos);
  for (float bad : {0.0f, -1.0f, INFINITY, NAN}) {
    p = Params(0);
    p.long_factors[2] = bad;
    EXPECT_NE(message(p).find("positive"), std::string::npos) << bad;
  }
  p = Params(0);
  p.original_context = 1;  // ln 1 = 0 in the default attention factor
  EXPECT_NE(message(p).find("at least 2"), std::string::npos);
}

}  // namespace
}  // namespace phasor
