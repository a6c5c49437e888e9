#include "cli/reproduce_experiment.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/table.h"
#include "eval/claim_report.h"
#include "eval/experiments/experiment.h"
#include "eval/text_windows.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

// What an input points into.
struct Loaded {
  std::unique_ptr<LoadedModel> model;
  std::string model_name;
  std::vector<int32_t> text;
  std::unique_ptr<ProgressBar> bar;
};

Result<std::string> TextPath(const std::string& given, eval::ExperimentText kind) {
  std::string path = given;
  if (path.empty()) {
    path = kind == eval::ExperimentText::kSources ? std::string(PHASOR_SOURCE_DIR) + "/src"
                                                  : UserCacheDir() + "/texts/emma.txt";
  }
  if (FileExists(path)) return path;
  return NotFound("reproduce: " + path +
                  ": expected a text, found none; get one with `make texts` or name one with "
                  "--text");
}

Result<std::vector<int32_t>> ReadTokens(const std::string& path, const LoadedModel& model,
                                        int64_t n_tokens) {
  PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const auto windows = eval::TextWindows(model.tokenizer(), text, n_tokens, n_tokens);
  const auto found = windows.empty() ? 0 : static_cast<int64_t>(windows[0].size());
  if (found < n_tokens) {
    return InvalidArgument(fmt::format(
        "reproduce: {}: expected a text of at least {} tokens, found {}", path, n_tokens, found));
  }
  return windows[0];
}

Status Load(const ExperimentFlags& flags, const eval::ExperimentNeeds& needs,
            eval::ExperimentInput* input, Loaded* loaded) {
  if (needs.text != eval::ExperimentText::kNone) {
    PHASOR_ASSIGN_OR_RETURN(input->text_path, TextPath(flags.text, needs.text));
  }
  if (needs.model) {
    PHASOR_ASSIGN_OR_RETURN(loaded->model, LoadModel(flags.model));
    loaded->model_name = loaded->model->path().substr(loaded->model->path().find_last_of('/') + 1);
    input->model = loaded->model.get();
  }
  if (needs.n_tokens > 0) {
    PHASOR_ASSIGN_OR_RETURN(loaded->text,
                            ReadTokens(input->text_path, *loaded->model, needs.n_tokens));
    input->text = loaded->text;
  }
  input->on_progress = [loaded, last = std::string()](const char* what, const char* unit,
                                                      int64_t done, int64_t total) mutable {
    if (loaded->bar == nullptr || last != what) {
      loaded->bar.reset();  // wipes its line before the next one draws
      loaded->bar = std::make_unique<ProgressBar>(what, total, unit);
      last = what;
    }
    loaded->bar->Set(done);
  };
  return Status::Ok();
}

Json ReportJson(const eval::Declaration& d, const eval::ExperimentReport& report,
                const Json& claims) {
  Json measured = Json::object(), tables = Json::array();
  for (const auto& [key, value] : report.measured) measured[key.first][key.second] = value;
  for (const eval::ResultTable& t : report.tables) {
    Json columns = Json::array();
    for (const Table::Column& c : t.table.columns()) columns.push_back(c.name);
    tables.push_back({{"title", t.title}, {"columns", columns}, {"rows", t.table.rows()}});
  }
  return {{"id", d.id},           {"title", d.title}, {"reference", d.reference},
          {"note", d.note},       {"cpu", CpuName()}, {"claims", claims},
          {"measured", measured}, {"tables", tables}, {"details", report.details}};
}

}  // namespace

Status ReproduceExperiment(const eval::Declaration& d, const ExperimentFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(const eval::Experiment* experiment, eval::FindExperiment(d.experiment));
  eval::ExperimentInput input;
  input.settings = d.settings;
  input.settings_name = d.file + ": settings";
  input.quick = flags.quick;
  input.max_tokens = flags.max_tokens;
  input.cancel = &InterruptFlag::flag();
  PHASOR_ASSIGN_OR_RETURN(const eval::ExperimentNeeds needs, experiment->needs(input));
  InterruptFlag::Install();
  Loaded loaded;
  PHASOR_RETURN_IF_ERROR(Load(flags, needs, &input, &loaded));
  PHASOR_ASSIGN_OR_RETURN(const eval::ExperimentReport report, experiment->run(input));
  loaded.bar.reset();
  PHASOR_ASSIGN_OR_RETURN(const Json claims, eval::JudgeClaims(d, report.measured));
  if (flags.output == "json") {
    Json j = ReportJson(d, report, claims);
    if (needs.model) j["model"] = loaded.model_name;
    if (!input.text_path.empty()) j["text"] = input.text_path;
    fmt::print("{}\n", j.dump(2));
    return Status::Ok();
  }
  std::string on = "Arithmetic, without a model";
  if (needs.model) {
    on = fmt::format(
        "Model {}, {}", loaded.model_name,
        report.ran_on.empty() ? fmt::format("{} tokens of text", needs.n_tokens) : report.ran_on);
  }
  const bool markdown = flags.output == "md";
  fmt::print("{}{}\n{}\n\n{}\n\n{}; {}.\n\n", markdown ? "## " : "", d.title, d.reference, d.note,
             on, CpuName());
  for (const eval::ResultTable& t : report.tables) {
    fmt::print("{}\n{}{}\n", t.title, markdown ? "\n" : "",
               t.table.Render(*ParseTableFormat(flags.output)));
  }
  fmt::print("{}", eval::ClaimText(claims, markdown));
  return Status::Ok();
}

}  // namespace phasor::cli
