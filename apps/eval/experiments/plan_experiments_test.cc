#include "eval/experiments/experiment.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "eval/experiments/bf16_drift.h"

namespace phasor::eval {
namespace {

TEST(Bf16Drift, TurnsDependOnTheDistanceAloneAtAnyDistance) {
  // Cosines and sines are within 1e-7; 128 products of size one, over sqrt(128).
  for (int64_t distance : {0, 16, 65536, 100000000}) {
    EXPECT_LT(MeanDrift(RopeArithmetic::kTurns, distance, {}), 2e-6) << distance;
  }
  EXPECT_EQ(MeanDrift(RopeArithmetic::kTurns, 100, {.shift = 0}), 0);
}

TEST(Bf16Drift, Bf16PositionsAreExactTo256AndUselessBeyond) {
  const double within = MeanDrift(RopeArithmetic::kBf16Positions, 200, {});
  EXPECT_EQ(within, MeanDrift(RopeArithmetic::kFp32, 200, {}));
  // At 16,000 neighbours are 64 apart, so that a move by 16 is lost; up to 4,096 they are 16 apart.
  EXPECT_GT(MeanDrift(RopeArithmetic::kBf16Positions, 16000, {}), 0.3);
}

TEST(Bf16Drift, Bf16CosinesHaveAFloorThatDoesNotGrow) {
  for (int64_t distance : {16, 1000, 65536}) {
    const double drift = MeanDrift(RopeArithmetic::kBf16, distance, {});
    // q and k are rounded by 2^-9 each after turning: 2^-9 sqrt(2) of a logit near one, and as much
    // again from cosines and sines.
    EXPECT_GT(drift, 1e-3) << distance;
    EXPECT_LT(drift, 6e-3) << distance;
  }
}

TEST(Experiment, EveryShippedDeclarationNamesOneThatExists) {
  for (const char* id : {"anchor", "uniencoder", "gpe", "v2pe"}) {
    const auto text = ReadFile(std::string(PHASOR_SOURCE_DIR) + "/reproduce/" + id + ".json");
    ASSERT_TRUE(text.ok()) << text.status().message();
    const auto d = ParseDeclaration(*text, id);
    ASSERT_TRUE(d.ok()) << d.status().message();
    EXPECT_EQ(d->experiment, id);
    EXPECT_TRUE(FindExperiment(d->experiment).ok());
    EXPECT_TRUE(d->key_types.empty());
  }
  EXPECT_EQ(FindExperiment("nothing").status().code(), StatusCode::kNotFound);
}

TEST(Experiment, ArithmeticOfV2peHoldsWithoutAModel) {
  ExperimentInput input;
  const auto report = kV2peExperiment.run(input);
  ASSERT_TRUE(report.ok()) << report.status().message();
  const Measurements& m = report->measured;
  EXPECT_EQ(m.at({"steps_lost", "ticks"}), 0);
  EXPECT_GT(m.at({"steps_lost", "fp32"}), 0);
  EXPECT_EQ(m.at({"wrong_extents", "random"}), 0);
}

TEST(Experiment, DifferencesAreRelativeToTheLargestAndNaNIsInfinite) {
  const std::vector<float> a = {1, 2, -4}, b = {1, 2.5f, -5};
  EXPECT_DOUBLE_EQ(RelativeDifference(a, b), 0.2);
  const std::vector<float> c = {1, NAN, -4};
  EXPECT_TRUE(std::isinf(RelativeDifference(c, b)));
}

}  // namespace
}  // namespace phasor::eval
