#include "eval/experiments/ape.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "eval/experiments/experiment.h"

namespace phasor::eval {
namespace {

// Rows as `eval parallel` makes them, for one task and its methods.
Json QualityRows(const std::string& task) {
  Json rows;
  double logprob = -4;
  for (const char* method : {"none", "naive", "ape", "sequential"}) {
    rows.push_back({{"task", task},
                    {"method", method},
                    {"exact", -1 / logprob},
                    {"logprob", logprob},
                    {"recovered", std::string(method) == "ape" ? Json(0.5) : nullptr}});
    logprob += 1;
  }
  rows.push_back({{"task", task}, {"method", "grid"}, {"exact", 1.0}, {"logprob", 0.0}});
  return rows;
}

Json SpeedRow(int64_t tokens, bool filled, int64_t cached_read, double speedup) {
  return {{"tokens", tokens},
          {"filled", filled},
          {"query_tokens", 32},
          {"cached_read", cached_read},
          {"cached_speedup", speedup},
          {"fresh_speedup", speedup / 10},
          {"end_to_end_speedup", speedup / 2}};
}

TEST(Ape, MeasurementsAreThoseOfTheRows) {
  const Measurements m = ParallelMeasurements(
      QualityRows("lookup"), {SpeedRow(1024, false, 32, 8), SpeedRow(4096, false, 40, 20),
                              SpeedRow(512, false, 32, 3), SpeedRow(131072, true, 32, 500)});
  EXPECT_EQ(m.at({"gap", "lookup"}), 2);  // from naive's -3 to -1
  EXPECT_EQ(m.at({"recovered", "lookup"}), 0.5);
  EXPECT_EQ(m.at({"exact", "lookup ape"}), 0.5);
  EXPECT_EQ(m.at({"context_tokens_read", "cached"}), 8);  // 40 - 32: something was read
  EXPECT_EQ(m.at({"speedup", "cached"}), 20);
  EXPECT_EQ(m.at({"speedup", "fresh"}), 2);
  EXPECT_EQ(m.at({"speedup", "cached filled"}), 500);
  EXPECT_EQ(m.at({"speedup", "end to end filled"}), 250);
  EXPECT_EQ(m.at({"tokens", "filled"}), 131072);
}

TEST(Ape, ShippedDeclarationAsksOnlyForWhatIsMeasured) {
  const Result<std::string> text = ReadFile(std::string(PHASOR_SOURCE_DIR) + "/reproduce/ape.json");
  ASSERT_TRUE(text.ok());
  const Result<Declaration> d = ParseDeclaration(*text, "ape.json");
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->experiment, "ape");
  Json quality;
  for (const char* task : {"lookup", "shots"}) {
    for (const auto& row : QualityRows(task)) quality.push_back(row);
  }
  const Measurements m = ParallelMeasurements(
      quality, {SpeedRow(4096, false, 32, 20), SpeedRow(131072, true, 32, 500)});
  for (const Claim& claim : d->claims) {
    const Result<Verdict> v = Judge(claim, m);
    EXPECT_TRUE(v.ok()) << claim.id << ": " << v.status().message();
  }
  ExperimentInput input;
  input.settings = d->settings;
  ASSERT_TRUE(kApeExperiment.needs(input).ok());
  input.settings.replace(input.settings.find("lengths"), 7, "length_");
  EXPECT_NE(kApeExperiment.needs(input).status().message().find("lengths"), std::string::npos);
}

}  // namespace
}  // namespace phasor::eval
