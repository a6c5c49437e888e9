#include "eval/schedules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "registry/position_table.h"

namespace phasor::eval {
namespace {

RopeParams Own() {
  RopeParams own;
  own.n_rot = 64;
  own.original_context = 8192;
  return own;
}

TEST(Schedules, EveryMethodIsSetForTheWindow) {
  for (const PositionMethodInfo* info : PositionMethods()) {
    const std::string id = info->id;
    const RopeParams rope = ExtensionSchedule(id, Own(), 16384);
    EXPECT_EQ(rope.method, id);
    EXPECT_EQ(rope.context, 16384);
    const bool stretched = id == "linear" || id == "ntk" || id == "yarn" || id == "llama3" ||
                           id == "dprope" || id == "longrope";
    EXPECT_EQ(rope.factor, stretched ? 2.0 : 1.0) << id;
    // Only with lists of factors, a model's or a file's, there is a longrope schedule.
    EXPECT_EQ(MakePhaseTable(rope).ok(), id != "longrope") << id;
  }
}

TEST(Schedules, AModelsOwnLongRopeKeepsItsFactors) {
  RopeParams own = Own();
  own.method = "longrope";
  own.factor = 32;
  own.attention_factor = 1.19;
  own.short_factors.assign(32, 1.0f);
  own.long_factors.assign(32, 2.0f);
  const RopeParams rope = ExtensionSchedule("longrope", own, 16384);
  EXPECT_EQ(rope.factor, 32);
  EXPECT_EQ(rope.attention_factor, 1.19);
  EXPECT_EQ(ExtensionSchedule("yarn", own, 16384).attention_factor, 0);
}

// Tokens at positions 1 .. n with the same loss up to the trained context and another one beyond.
ScheduleScores Scores(int64_t n, int64_t trained, float inside, float past) {
  ScheduleScores s;
  s.rope = Own();
  for (int64_t p = 1; p <= n; ++p)
    s.tokens.push_back({p, p < trained ? inside : past, 0, 0, false});
  return s;
}

TEST(Schedules, ReportSplitsAtTheTrainedContext) {
  const Json report = ScheduleReport({Scores(199, 100, 2.0f, 3.0f)}, 100);
  const Json& j = report.at(0);
  EXPECT_NEAR(j["ppl_inside"].get<double>(), std::exp(2.0), 1e-9);
  EXPECT_NEAR(j["ppl_past"].get<double>(), std::exp(3.0), 1e-9);
  EXPECT_NEAR(j["ppl_growth"].get<double>(), std::exp(1.0), 1e-9);
  EXPECT_EQ(j["tokens_past"], 100);
  const std::vector<std::pair<int, int>> want = {{0, 50},    {50, 100},  {100, 125},
                                                 {125, 150}, {150, 175}, {175, 200}};
  ASSERT_EQ(j["by_position"].size(), want.size());
  int64_t tokens = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const Json& b = j["by_position"][i];
    EXPECT_EQ(b["from"], want[i].first);
    EXPECT_EQ(b["to"], want[i].second);
    EXPECT_NEAR(b["nll"].get<double>(), i < 2 ? 2.0 : 3.0, 1e-6);
    tokens += b["tokens"].get<int64_t>();
  }
  EXPECT_EQ(tokens, 199);
}

TEST(Schedules, OddTrainedContextsLoseNoToken) {
  for (int64_t trained : {1, 2, 3, 5, 7, 101}) {
    const Json report = ScheduleReport({Scores(250, trained, 1.0f, 1.0f)}, trained);
    int64_t tokens = 0, end = 0;
    for (const Json& b : report[0]["by_position"]) {
      EXPECT_EQ(b["from"], end);
      end = b["to"].get<int64_t>();
      tokens += b["tokens"].get<int64_t>();
    }
    EXPECT_EQ(tokens, 250) << trained;
  }
}

TEST(Schedules, WhatWasRefusedIsToldBesideTheTable) {
  ScheduleScores refused;
  refused.rope.method = "longrope";
  refused.refused = "longrope: expected 32 factors, found none";
  const Json report = ScheduleReport({Scores(30, 16, 1.0f, 2.0f), refused}, 16);
  const std::string table = ScheduleTable(report).Render(Table::Format::kCsv);
  EXPECT_EQ(table.find("longrope"), std::string::npos);
  EXPECT_NE(table.find("rope,1,2.72,7.39,2.72"), std::string::npos) << table;
  EXPECT_EQ(RefusedSchedules(report), "not run: longrope: expected 32 factors, found none\n");
}

}  // namespace
}  // namespace phasor::eval
