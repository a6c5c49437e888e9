#include "position/position.h"

#include <gtest/gtest.h>

#include <limits>

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

// Settings of `method` under which it must change nothing.
RopeParams Neutral(const std::string& method, int n_rot, double theta_base) {
  RopeParams p = Params(method.c_str(), 1);
  p.n_rot = n_rot;
  p.theta_base = theta_base;
  p.power_exponent = 0;
  p.truncation_context = p.cut_context = INT64_MAX;
  p.short_factors.assign(static_cast<std::size_t>(n_rot / 2), 1.0f);
  p.long_factors = p.short_factors;
  return p;
}

TEST(Position, EveryMethodAtItsNeutralSettingEqualsRopeBitForBit) {
  for (int n_rot : {0, 2, 8, 64, 96, 128}) {
    for (double base : {10000.0, 100000.0, 500000.0}) {
      const PhaseTable rope = MakePhaseTable(Neutral("rope", n_rot, base)).value();
      for (const PositionMethodInfo* info : PositionMethods()) {
        if (std::string(info->id) == "nope") continue;  // it has no such setting
        const auto t = MakePhaseTable(Neutral(info->id, n_rot, base));
        ASSERT_TRUE(t.ok()) << info->id << ": " << t.status().message();
        EXPECT_EQ(t->step_P, rope.step_P) << info->id << " n_rot " << n_rot << " base " << base;
        EXPECT_EQ(t->attention_factor, 1.0f) << info->id;
      }
    }
  }
}

TEST(Position, FrequencyFactorsOfTheFileReachEveryMethod) {
  for (const PositionMethodInfo* info : PositionMethods()) {
    if (std::string(info->id) == "nope") continue;
    RopeParams p = Neutral(info->id, 64, 10000);
    const PhaseTable without = MakePhaseTable(p).value();
    p.freq_factors.assign(32, 2.0f);
    const PhaseTable with = MakePhaseTable(p).value();
    for (std::size_t j = 0; j < 32; ++j) {
      EXPECT_NEAR(TurnsOf(with.step_P[j]) * 2, TurnsOf(without.step_P[j]), 1e-15) << info->id;
    }
  }
}

TEST(Position, FieldsThatAMethodDoesNotReadDoNotChangeIt) {
  for (const PositionMethodInfo* info : PositionMethods()) {
    RopeParams p = Params(info->id, 2);
    p.short_factors.assign(32, 1.5f);
    p.long_factors.assign(32, 3.0f);
    const PhaseTable before = MakePhaseTable(p).value();
    const auto expect_read = [&](uint32_t field, const RopeParams& changed, const char* what) {
      const PhaseTable after = MakePhaseTable(changed).value();
      const bool same =
          after.step_P == before.step_P && after.attention_factor == before.attention_factor;
      EXPECT_EQ(same, (info->reads & field) == 0) << info->id << " " << what;
    };
    RopeParams c = p;
    c.factor = 3;
    // At its trained context dynamic_ntk has no use for the factor.
    if (std::string(info->id) != "dynamic_ntk") expect_read(kRopeFactor, c, "factor");
    c = p;
    c.context = 4 * p.original_context;
    expect_read(kRopeContext, c, "context");
    c = p;
    c.low_freq_factor = 2;
    expect_read(kRopeLowHighFreqFactor, c, "low_freq_factor");
    c = p;
    c.beta_fast = 8;
    expect_read(kRopeBetas, c, "beta_fast");
    c = p;
    c.attention_factor = 1.25;
    expect_read(kRopeAttentionFactor, c, "attention_factor");
    c = p;
    c.power_exponent = 2;
    expect_read(kRopePowerExponent, c, "power_exponent");
    c = p;
    c.truncation_context = 100;
    expect_read(kRopeTruncationContext, c, "truncation_context");
    c = p;
    c.cut_context = 100;
    expect_read(kRopeCutContext, c, "cut_context");
    c = p;
    c.short_factors[3] = 2.0f;
    expect_read(kRopeFactorLists, c, "short_factors");
  }
}

// DPRoPE chooses pair by pair and LongRoPE takes its factors from a file: they need not fall.
TEST(Position, FrequenciesNeverRiseFromPairToPair) {
  for (const PositionMethodInfo* info : PositionMethods()) {
    if (std::string(info->id) == "dprope" || std::string(info->id) == "longrope") continue;
    PhaseTable t = MakePhaseTable(Params(info->id, 4)).value();
    for (std::size_t j = 1; j < t.step_P.size(); ++j) {
      EXPECT_LE(t.step_P[j], t.step_P[j - 1]) << info->id << " pair " << j;
    }
  }
}

TEST(Position, BrokenSettingsAreRefusedWithTheMethodsName) {
  const double infinite = std::numeric_limits<double>::infinity();
  for (const PositionMethodInfo* info : PositionMethods()) {
    const auto refused = [&](RopeParams p, const char* what) {
      const Status s = MakePhaseTable(p).status();
      EXPECT_EQ(s.code(), StatusCode::kInvalidArgument) << info->id << " " << what;
      EXPECT_EQ(s.message().find(std::string(info->id) + ":"), 0u) << s.message();
      EXPECT_NE(s.message().find("expected"), std::string::npos) << s.message();
    };
    const RopeParams good = Neutral(info->id, 64, 10000);
    RopeParams p = good;
    p.n_rot = 63;
    refused(p, "n_rot");
    p = good;
    p.theta_base = -1;
    refused(p, "theta_base");
    p = good;
    p.original_context = 0;
    p.truncation_context = p.cut_context = -1;
    if (info->reads & kRopeOriginalContext) refused(p, "original_context");
    for (double factor : {0.0, -2.0, infinite, std::nan("")}) {
      p = good;
      p.factor = factor;
      if (info->reads & kRopeFactor) refused(p, "factor");
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

TEST(Position, YarnRefusesRampsThatRunBackwards) {
  for (auto [fast, slow] : {std::pair(1.0, 32.0), {32.0, 0.0}, {32.0, -1.0}, {HUGE_VAL, 1.0}}) {
    RopeParams p = Params("yarn", 4);
    p.beta_fast = fast;
    p.beta_slow = slow;
    EXPECT_NE(MakePhaseTable(p).status().message().find("beta_slow"), std::string::npos) << fast;
  }
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
