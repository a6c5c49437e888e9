#include "eval/experiments/experiment.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "eval/experiments/schedule_tables.h"

namespace phasor::eval {
namespace {

Declaration Shipped(const std::string& id) {
  const Result<std::string> text =
      ReadFile(std::string(PHASOR_SOURCE_DIR) + "/reproduce/" + id + ".json");
  EXPECT_TRUE(text.ok());
  const Result<Declaration> d = ParseDeclaration(*text, id + ".json");
  EXPECT_TRUE(d.ok()) << d.status().message();
  return d.ok() ? *d : Declaration();
}

ExperimentInput InputOf(const Declaration& d) {
  ExperimentInput input;
  input.settings = d.settings;
  input.settings_name = d.file + ": settings";
  input.quick = true;
  return input;
}

// What needs() says of `from` in the settings of a shipped declaration replaced by `to`.
std::string ErrorOf(const std::string& id, const std::string& from, const std::string& to) {
  const Declaration d = Shipped(id);
  ExperimentInput input = InputOf(d);
  const std::size_t at = input.settings.find(from);
  EXPECT_NE(at, std::string::npos) << from << " in " << input.settings;
  if (at == std::string::npos) return "";
  input.settings.replace(at, from.size(), to);
  const Result<const Experiment*> experiment = FindExperiment(d.experiment);
  EXPECT_TRUE(experiment.ok());
  const Result<ExperimentNeeds> needs = (*experiment)->needs(input);
  return needs.ok() ? "" : needs.status().message();
}

void ExpectHas(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" in \"" << text << "\"";
}

// Without a model an experiment is arithmetic: then all that its claims name must come out.
TEST(Experiments, EveryShippedDeclarationNamesOneThatTakesItsSettings) {
  int n_experiments = 0, n_arithmetic = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(PHASOR_SOURCE_DIR) + "/reproduce")) {
    if (entry.path().extension() != ".json") continue;
    const Declaration d = Shipped(entry.path().stem().string());
    EXPECT_EQ(d.id, entry.path().stem().string());
    if (d.experiment.empty()) continue;
    ++n_experiments;
    const Result<const Experiment*> experiment = FindExperiment(d.experiment);
    ASSERT_TRUE(experiment.ok()) << experiment.status().message();
    const ExperimentInput input = InputOf(d);
    const Result<ExperimentNeeds> needs = (*experiment)->needs(input);
    ASSERT_TRUE(needs.ok()) << needs.status().message();
    // A text is nothing without a tokenizer.
    EXPECT_TRUE(needs->model || needs->text == ExperimentText::kNone) << d.id;
    if (needs->model) continue;
    ++n_arithmetic;
    const Result<ExperimentReport> report = (*experiment)->run(input);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_FALSE(report->tables.empty());
    for (const Claim& claim : d.claims) {
      const Result<Verdict> v = Judge(claim, report->measured);
      EXPECT_TRUE(v.ok()) << claim.id << ": " << v.status().message();
    }
  }
  EXPECT_GE(n_experiments, 8);
  EXPECT_GE(n_arithmetic, 2);
}

TEST(Experiments, AnUnknownOneIsToldTheOthers) {
  const Result<const Experiment*> experiment = FindExperiment("magic");
  ASSERT_FALSE(experiment.ok());
  ExpectHas(experiment.status().message(), "anchor, uniencoder, gpe, v2pe, ape, pie, schedules");
  ExpectHas(experiment.status().message(), "found magic");
}

TEST(Experiments, SettingsOfOneWithoutAnyAreAnError) {
  for (const char* id : {"anchor", "uniencoder", "gpe", "v2pe"}) {
    EXPECT_EQ(ErrorOf(id, "{}", R"({"rounds":1})"),
              std::string(id) + ".json: settings: expected no fields, found rounds");
    EXPECT_EQ(ErrorOf(id, "{}", "{"), std::string(id) + ".json: settings: expected a JSON object");
  }
}

TEST(Experiments, DamagedSettingsOfPieNameTheField) {
  ExpectHas(ErrorOf("pie", R"("depths":[0.5)", R"("depths":["a")"), "pie.json: settings: depths");
  ExpectHas(ErrorOf("pie", R"("depths":[0.5)", R"("depths":[1.5)"), "depths");
  ExpectHas(ErrorOf("pie", R"("speed_shares":[0)", R"("speed_shares":[-1)"), "speed_shares");
  ExpectHas(ErrorOf("pie", R"("insert")", R"("add")"), "found add");
  ExpectHas(ErrorOf("pie", R"("behind:0.05")", R"("behind:2")"), R"(found "behind:2")");
  ExpectHas(ErrorOf("pie", R"("tokens":)", R"("tokens":20,"x":)"), "tokens: expected an integer");
  ExpectHas(ErrorOf("pie", R"("documents":)", R"("documents":4294967297,"x":)"), "documents");
  ExpectHas(ErrorOf("pie", R"("lines":3)", R"("line":3)"), "lines: expected this field");
  ExpectHas(ErrorOf("pie", R"("lines":3)", R"("lines":3,"words":3)"), "found words");
}

TEST(Experiments, DamagedSettingsOfSchedulesNameTheField) {
  const std::string factor = R"("factor":1)", n_rot = R"("n_rot":128)";
  ExpectHas(ErrorOf("giraffe", n_rot, R"("n_rot":0)"),
            "giraffe.json: settings: case 1: n_rot: expected an integer of 2 to 65536");
  ExpectHas(ErrorOf("giraffe", factor, R"("factor":"1")"), "case 1: factor: expected a number");
  ExpectHas(ErrorOf("giraffe", factor, R"("faktor":1)"), "found faktor");
  ExpectHas(ErrorOf("giraffe", R"("id":"truncated")", R"("name":"truncated")"), "case 1: id");
  ExpectHas(ErrorOf("giraffe", R"("trained_contexts":2)", R"("trained_contexts":1)"),
            "extension: trained_contexts");
  ExpectHas(ErrorOf("giraffe", R"("methods":["rope")", R"("methods":["magic")"), "found magic");
  ExpectHas(ErrorOf("giraffe", R"("extension":)", R"("extended":)"), "found extended");
  ExperimentInput input;
  for (const char* bad : {"{}", R"({"cases":[]})", R"({"cases":{"a":{}}})", R"({"cases":["a"]})",
                          R"({"extension":{}})", R"({"extension":[]})", "[]", ""}) {
    input.settings = bad;
    EXPECT_EQ(kSchedulesExperiment.needs(input).status().code(), StatusCode::kDataCorrupt) << bad;
  }
}

// dprope: all of it is arithmetic, and holds.
TEST(Experiments, EveryClaimOfDpropeHolds) {
  const Declaration d = Shipped("dprope");
  const Result<ExperimentReport> report = kSchedulesExperiment.run(InputOf(d));
  ASSERT_TRUE(report.ok()) << report.status().message();
  for (const Claim& claim : d.claims) {
    EXPECT_EQ(*Judge(claim, report->measured), Verdict::kReproduced) << claim.id;
  }
}

// giraffe and hope: claims on cases are arithmetic and hold; the others name methods that are run.
TEST(Experiments, GiraffeAndHopeAskOnlyForWhatIsMeasured) {
  for (const char* id : {"giraffe", "hope"}) {
    const Declaration d = Shipped(id);
    nlohmann::json settings = nlohmann::json::parse(d.settings);
    const nlohmann::json methods = settings.at("extension").at("methods");
    settings.erase("extension");
    ExperimentInput input;
    input.settings = settings.dump();
    const Result<ExperimentReport> report = kSchedulesExperiment.run(input);
    ASSERT_TRUE(report.ok()) << report.status().message();
    Measurements m = report->measured;
    for (const std::string method : methods) {
      for (const char* metric : {"ppl_inside", "ppl_past", "ppl_growth"}) m[{metric, method}] = 1;
    }
    for (const Claim& claim : d.claims) {
      const Result<Verdict> v = Judge(claim, m);
      ASSERT_TRUE(v.ok()) << claim.id << ": " << v.status().message();
      if (claim.null_if.empty()) {
        EXPECT_EQ(*v, Verdict::kReproduced) << id << ": " << claim.id;
      }
    }
  }
}

TEST(Experiments, ClaimsOfPieAskOnlyForWhatIsMeasured) {
  const Declaration d = Shipped("pie");
  const nlohmann::json settings = nlohmann::json::parse(d.settings);
  Measurements m;
  for (const std::string id : settings.at("methods")) {
    for (const char* metric : {"mean_kl", "same_top", "same_line", "read"}) m[{metric, id}] = 1;
  }
  for (const char* id : {"pie", "behind:0.05", "behind:0.15"}) {
    m[{"speedup", id}] = m[{"time_saved", id}] = 1;
  }
  for (const Claim& claim : d.claims) {
    const Result<Verdict> v = Judge(claim, m);
    EXPECT_TRUE(v.ok()) << claim.id << ": " << v.status().message();
  }
}

TEST(ResultTable, TheFirstColumnIsTextAndTheRestAreNumbers) {
  const ResultTable t("title", {"name", "n"}, {{"a", "1"}, {"bcdef", "23"}});
  ASSERT_EQ(t.table.columns().size(), 2);
  EXPECT_EQ(t.table.columns()[0].align, Table::Align::kLeft);
  EXPECT_EQ(t.table.columns()[1].align, Table::Align::kRight);
  EXPECT_EQ(t.table.rows()[1][1], "23");
}

TEST(ScheduleTables, CountsOfPairsAddUp) {
  ScheduleCase c;
  c.id = "case";
  c.rope.n_rot = 128;
  c.rope.original_context = 2048;
  c.rope.method = "giraffe_truncated";
  Measurements m;
  const auto rows = MeasureScheduleTables({c}, &m);
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ((m[{"pairs_kept", "case"}]), 41);
  EXPECT_EQ((m[{"pairs_changed", "case"}]), 14);
  EXPECT_EQ((m[{"pairs_still", "case"}]), 9);
  EXPECT_GT((m[{"disturbance", "case"}]), 0);
  c.rope.method = "magic";
  EXPECT_FALSE(MeasureScheduleTables({c}, &m).ok());
}

}  // namespace
}  // namespace phasor::eval
