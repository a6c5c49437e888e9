#include "cli/reproduce_experiment.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/table.h"
#include "eval/claim_report.h"
#include "eval/experiment.h"
#include "eval/text_windows.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

Result<std::vector<int32_t>> ReadTokens(ExperimentFlags* flags, const LoadedModel& model,
                                        int64_t n_tokens) {
  if (flags->text_file.empty()) flags->text_file = UserCacheDir() + "/texts/emma.txt";
  if (!FileExists(flags->text_file)) {
    return NotFound("reproduce: " + flags->text_file +
                    ": expected a text, found none; get one with `make texts` or name one with "
                    "--text");
  }
  PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags->text_file));
  const auto windows = eval::TextWindows(model.tokenizer(), text, n_tokens, n_tokens);
  const auto found = windows.empty() ? 0 : static_cast<int64_t>(windows[0].size());
  if (found < n_tokens) {
    return InvalidArgument(
        fmt::format("reproduce: {}: expected a text of at least {} tokens, found {}",
                    flags->text_file, n_tokens, found));
  }
  return windows[0];
}

std::string RenderTable(const eval::ResultTable& t, Table::Format format) {
  std::vector<Table::Column> columns;
  for (const std::string& name : t.columns) {
    columns.push_back({name, columns.empty() ? Table::Align::kLeft : Table::Align::kRight});
  }
  Table table(columns);
  for (const auto& row : t.rows) table.AddRow(row);
  const char* mark = format == Table::Format::kMarkdown ? "\n" : "";
  return fmt::format("{}\n{}{}", t.title, mark, table.Render(format));
}

Json ReportJson(const eval::Declaration& d, const ExperimentFlags& flags,
                const eval::ExperimentReport& report, const Json& claims) {
  Json measured = Json::object(), tables = Json::array();
  for (const auto& [key, value] : report.measured) measured[key.first][key.second] = value;
  for (const eval::ResultTable& t : report.tables) {
    tables.push_back({{"title", t.title}, {"columns", t.columns}, {"rows", t.rows}});
  }
  return {{"id", d.id},       {"title", d.title},        {"reference", d.reference},
          {"note", d.note},   {"text", flags.text_file}, {"cpu", CpuName()},
          {"claims", claims}, {"measured", measured},    {"tables", tables}};
}

}  // namespace

Status ReproduceExperiment(const eval::Declaration& d, ExperimentFlags flags) {
  PHASOR_ASSIGN_OR_RETURN(const eval::Experiment* experiment, eval::FindExperiment(d.experiment));
  InterruptFlag::Install();
  eval::ExperimentInput input;
  input.quick = flags.quick;
  input.cancel = &InterruptFlag::flag();
  std::unique_ptr<LoadedModel> model;
  std::vector<int32_t> text;
  std::string on = "Arithmetic, without a model";
  if (const int64_t n_tokens = experiment->n_tokens(flags.quick); n_tokens > 0) {
    PHASOR_ASSIGN_OR_RETURN(model, LoadModel(flags.model));
    PHASOR_ASSIGN_OR_RETURN(text, ReadTokens(&flags, *model, n_tokens));
    input.model = model.get();
    input.text = text;
    on = fmt::format("Model {}, {} tokens of text",
                     model->path().substr(model->path().find_last_of('/') + 1), n_tokens);
  }
  PHASOR_ASSIGN_OR_RETURN(const eval::ExperimentReport report, experiment->run(input));
  PHASOR_ASSIGN_OR_RETURN(const Json claims, eval::JudgeClaims(d, report.measured));
  if (flags.output == "json") {
    fmt::print("{}\n", ReportJson(d, flags, report, claims).dump(2));
    return Status::Ok();
  }
  const bool markdown = flags.output == "md";
  fmt::print("{}{}\n{}\n\n{}\n\n{}; {}.\n\n", markdown ? "## " : "", d.title, d.reference, d.note,
             on, CpuName());
  for (const eval::ResultTable& t : report.tables) {
    fmt::print("{}\n", RenderTable(t, *ParseTableFormat(flags.output)));
  }
  fmt::print("{}", eval::ClaimText(claims, markdown));
  return Status::Ok();
}

}  // namespace phasor::cli
