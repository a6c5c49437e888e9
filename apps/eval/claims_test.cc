#include "eval/claims.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "eval/parallel_claims.h"
#include "registry/kv_codec_table.h"

namespace phasor::eval {
namespace {

Claim OneClaim() {
  Claim c;
  c.id = "c";
  c.reproduced_if = {{"mean_kl", "a", "b", std::nullopt, 0.95}};
  c.null_if = {{"mean_kl", "a", "b", 0.95, 1.05}};
  return c;
}

Verdict JudgeRatio(double a, double b) {
  const Result<Verdict> v = Judge(OneClaim(), {{{"mean_kl", "a"}, a}, {{"mean_kl", "b"}, b}});
  EXPECT_TRUE(v.ok());
  return v.ok() ? *v : Verdict::kNull;
}

TEST(Claims, VerdictFollowsFromTheRatio) {
  EXPECT_EQ(JudgeRatio(1, 2), Verdict::kReproduced);
  EXPECT_EQ(JudgeRatio(2, 2), Verdict::kNull);
  EXPECT_EQ(JudgeRatio(3, 2), Verdict::kNotReproduced);
  // Nothing was lost on either side: no ratio, so nothing is reproduced.
  EXPECT_EQ(JudgeRatio(0, 0), Verdict::kNotReproduced);
}

TEST(Claims, AMeasurementThatCannotTellIsNullEvenWhereTheNumberWouldDo) {
  Claim c;
  c.reproduced_if = {{"ppl_ratio", "fine", "", std::nullopt, 1.005}};
  c.null_if = {{"ppl_ratio", "crude", "", std::nullopt, 1.005}};
  Measurements m = {{{"ppl_ratio", "fine"}, 1.001}, {{"ppl_ratio", "crude"}, 1.002}};
  EXPECT_EQ(*Judge(c, m), Verdict::kNull);
  m[{"ppl_ratio", "crude"}] = 1.2;
  EXPECT_EQ(*Judge(c, m), Verdict::kReproduced);
}

TEST(Claims, WithoutNullConditionsNothingIsNull) {
  Claim c = OneClaim();
  c.null_if.clear();
  const Measurements m = {{{"mean_kl", "a"}, 1}, {{"mean_kl", "b"}, 1}};
  EXPECT_EQ(*Judge(c, m), Verdict::kNotReproduced);
}

TEST(Claims, WhatWasNotMeasuredIsAnError) {
  const Result<Verdict> v = Judge(OneClaim(), {{{"mean_kl", "a"}, 1}});
  ASSERT_FALSE(v.ok());
  EXPECT_NE(v.status().message().find("mean_kl of b"), std::string::npos) << v.status().message();
}

TEST(Claims, DescriptionSaysWhatWasNeeded) {
  EXPECT_EQ(Describe(OneClaim().null_if[0], 1), "mean_kl a / b = 1 (>= 0.95, <= 1.05)");
  // Four digits would look like the bound that was missed.
  EXPECT_EQ(Describe({"ppl_ratio", "a", "", std::nullopt, 1.005}, 1.00527),
            "ppl_ratio a = 1.0053 (<= 1.005)");
}

std::string Shipped() {
  const Result<std::string> text =
      ReadFile(std::string(PHASOR_SOURCE_DIR) + "/reproduce/polarquant.json");
  EXPECT_TRUE(text.ok());
  return text.ok() ? *text : "";
}

// Every quantity a shipped claim needs must be one that `phasor reproduce` measures.
TEST(Claims, ShippedDeclarationAsksOnlyForWhatIsMeasured) {
  const Result<Declaration> d = ParseDeclaration(Shipped(), "polarquant.json");
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->id, "polarquant");
  Measurements m;
  for (const std::string& k : d->key_types) {
    const KvCodecInfo* info = FindKvCodec(k);
    ASSERT_NE(info, nullptr) << k;
    EXPECT_TRUE(info->for_keys) << k;
    for (const char* metric : {"ppl_ratio", "mean_kl", "same_top"}) m[{metric, k}] = 1;
  }
  for (const std::string& k : d->speed_types) {
    ASSERT_NE(FindKvCodec(k), nullptr) << k;
    m[{"cached_ns", k}] = m[{"stream_ns", k}] = 1;
  }
  for (const Claim& claim : d->claims) {
    const Result<Verdict> v = Judge(claim, m);
    EXPECT_TRUE(v.ok()) << claim.id << ": " << v.status().message();
  }
}

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

TEST(Claims, ParallelMeasurementsAreThoseOfTheRows) {
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

TEST(Claims, ShippedParallelDeclarationAsksOnlyForWhatIsMeasured) {
  const Result<std::string> text = ReadFile(std::string(PHASOR_SOURCE_DIR) + "/reproduce/ape.json");
  ASSERT_TRUE(text.ok());
  const Result<Declaration> d = ParseDeclaration(*text, "ape.json");
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->kind, "parallel");
  Json quality;
  for (const std::string& task : d->parallel.tasks) {
    for (const auto& row : QualityRows(task)) quality.push_back(row);
  }
  const Measurements m = ParallelMeasurements(
      quality, {SpeedRow(4096, false, 32, 20), SpeedRow(d->parallel.filled, true, 32, 500)});
  for (const Claim& claim : d->claims) {
    const Result<Verdict> v = Judge(claim, m);
    EXPECT_TRUE(v.ok()) << claim.id << ": " << v.status().message();
  }
  std::string bad = *text;
  bad.replace(bad.find("\"lengths\""), 9, "\"length\"");
  EXPECT_NE(ParseDeclaration(bad, "x.json").status().message().find("lengths"), std::string::npos);
  bad = *text;
  bad.replace(bad.find("\"kind\": \"parallel\""), 18, "\"kind\": \"sideways\"");
  EXPECT_NE(ParseDeclaration(bad, "x.json").status().message().find("kind"), std::string::npos);
}

TEST(Claims, DamagedDeclarationsNameTheField) {
  const std::string good = Shipped();
  const auto expect_error = [&](const std::string& from, const std::string& to,
                                const std::string& text) {
    std::string bad = good;
    const std::size_t at = bad.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    bad.replace(at, from.size(), to);
    const Result<Declaration> d = ParseDeclaration(bad, "x.json");
    ASSERT_FALSE(d.ok()) << from;
    EXPECT_NE(d.status().message().find(text), std::string::npos) << d.status().message();
  };
  expect_error("phasor-reproduce", "other", "phasor-reproduce");
  expect_error("\"version\": 1", "\"version\": 2", "expected version 1, found 2");
  expect_error("\"n_ctx\": 8192", "\"n_ctx\": \"all\"", "n_ctx");
  expect_error("\"base_type\"", "\"base\"", "base_type");
  expect_error("\"at_most\": 1.005", "\"most\": 1.005", "at_least or at_most");
  expect_error("\"reproduced_if\"", "\"if\"", "reproduced_if");
  for (std::size_t n = 0; n + 2 < good.size(); n += 97) {
    EXPECT_FALSE(ParseDeclaration(good.substr(0, n), "x.json").ok()) << n;
  }
}

}  // namespace
}  // namespace phasor::eval
