#include "position/position.h"

#include <gtest/gtest.h>

#include "registry/position_table.h"

namespace phasor {
namespace {

RopeParams Params(const char* method, double factor) {
  RopeParams p;
  p.n_rot = 64;
  p.theta_base = 500000;
  p.method = method;
  p.factor = factor;
  p.original_context = 8192;
  return p;
}

double TurnsOf(uint64_t step) { return static_cast<double>(step) * 0x1.0p-64; }

TEST(Position, EveryMethodAtItsNeutralSettingEqualsRope) {
  PhaseTable rope = MakePhaseTable(Params("rope", 1)).value();
  for (const PositionMethodInfo* info : PositionMethods()) {
    PhaseTable t = MakePhaseTable(Params(info->id, 1)).value();
    ASSERT_EQ(t.step_P.size(), rope.step_P.size());
    for (std::size_t j = 0; j < t.step_P.size(); ++j) {
      // One unit in 2^64 turns may differ where the frequency went through a blend.
      EXPECT_LE(std::abs(static_cast<int64_t>(t.step_P[j] - rope.step_P[j])), 4) << info->id;
    }
    EXPECT_EQ(t.attention_factor, 1.0f) << info->id;
  }
}

TEST(Position, FrequenciesFallMonotonically) {
  for (const PositionMethodInfo* info : PositionMethods()) {
    PhaseTable t = MakePhaseTable(Params(info->id, 4)).value();
    for (std::size_t j = 1; j < t.step_P.size(); ++j) {
      EXPECT_LT(t.step_P[j], t.step_P[j - 1]) << info->id << " pair " << j;
    }
  }
}

TEST(Position, LinearDividesEveryFrequency) {
  PhaseTable a = MakePhaseTable(Params("rope", 1)).value();
  PhaseTable b = MakePhaseTable(Params("linear", 8)).value();
  for (std::size_t j = 0; j < a.step_P.size(); ++j) {
    EXPECT_NEAR(TurnsOf(b.step_P[j]) * 8, TurnsOf(a.step_P[j]), 1e-15);
  }
}

TEST(Position, Llama3KeepsShortWavelengthsAndDividesLongOnes) {
  PhaseTable a = MakePhaseTable(Params("rope", 1)).value();
  PhaseTable b = MakePhaseTable(Params("llama3", 8)).value();
  EXPECT_EQ(a.step_P.front(), b.step_P.front());
  EXPECT_NEAR(TurnsOf(a.step_P.back()) / TurnsOf(b.step_P.back()), 8.0, 1e-9);
}

TEST(Position, YarnSharpensAttentionByItsDefaultFactor) {
  PhaseTable t = MakePhaseTable(Params("yarn", 8)).value();
  EXPECT_NEAR(t.attention_factor, 0.1 * std::log(8.0) + 1.0, 1e-6);
}

TEST(Position, FrequencyFactorsDivideAndBadOnesAreRefused) {
  RopeParams p = Params("rope", 1);
  p.freq_factors.assign(32, 2.0f);
  PhaseTable a = MakePhaseTable(Params("rope", 1)).value(), b = MakePhaseTable(p).value();
  EXPECT_NEAR(TurnsOf(b.step_P[3]) * 2, TurnsOf(a.step_P[3]), 1e-15);
  p.freq_factors[5] = 0;
  EXPECT_EQ(MakePhaseTable(p).status().code(), StatusCode::kInvalidArgument);
  p.freq_factors.resize(7);
  EXPECT_NE(MakePhaseTable(p).status().message().find("expected 32"), std::string::npos);
}

TEST(Position, UnknownMethodListsTheKnownOnes) {
  Status s = MakePhaseTable(Params("ropee", 1)).status();
  EXPECT_NE(s.message().find("yarn"), std::string::npos);
}

}  // namespace
}  // namespace phasor
