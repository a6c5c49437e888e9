#include "eval/experiments/experiment.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace phasor::eval {
namespace {

constexpr const Experiment* kTable[] = {
    &kAnchorExperiment, &kUniEncoderExperiment, &kGpeExperiment,       &kV2peExperiment,
    &kApeExperiment,    &kPieExperiment,        &kSchedulesExperiment,
};

Table TextThenNumbers(const std::vector<std::string>& names) {
  std::vector<Table::Column> columns;
  for (const std::string& name : names) {
    columns.push_back({name, columns.empty() ? Table::Align::kLeft : Table::Align::kRight});
  }
  return Table(std::move(columns));
}

}  // namespace

ResultTable::ResultTable(std::string title, const std::vector<std::string>& columns,
                         const std::vector<std::vector<std::string>>& rows)
    : title(std::move(title)), table(TextThenNumbers(columns)) {
  for (const auto& row : rows) table.AddRow(row);
}

ResultTable::ResultTable(std::string title, Table table)
    : title(std::move(title)), table(std::move(table)) {}

Result<const Experiment*> FindExperiment(const std::string& id) {
  std::string known;
  for (const Experiment* e : kTable) {
    if (id == e->id) return e;
    known += (known.empty() ? "" : ", ") + std::string(e->id);
  }
  return NotFound("reproduce: expected an experiment out of " + known + ", found " + id);
}

Result<nlohmann::json> ParseSettings(const ExperimentInput& input) {
  nlohmann::json j = nlohmann::json::parse(input.settings, nullptr, false);
  if (!j.is_object()) return DataCorrupt(input.settings_name + ": expected a JSON object");
  return j;
}

Result<ExperimentNeeds> NeedsWithoutSettings(const ExperimentInput& input, int64_t n_tokens) {
  PHASOR_ASSIGN_OR_RETURN(const nlohmann::json j, ParseSettings(input));
  PHASOR_RETURN_IF_ERROR(Fields(j, input.settings_name).Finish());
  if (n_tokens == 0) return ExperimentNeeds{};
  return ExperimentNeeds{true, ExperimentText::kText, n_tokens};
}

Status CheckCancelled(const ExperimentInput& input) {
  if (input.cancel == nullptr || !input.cancel->load()) return Status::Ok();
  return Cancelled("reproduce: stopped by Ctrl-C");
}

Result<std::unique_ptr<Session>> PlainSession(const LoadedModel& model, int64_t n_ctx,
                                              const char* cache_type) {
  SessionOptions options;
  options.n_ctx = n_ctx;
  options.type_k = options.type_v = cache_type;
  return Session::Create(model, options);
}

double RelativeDifference(std::span<const float> a, std::span<const float> b) {
  PHASOR_CHECK(a.size() == b.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

}  // namespace phasor::eval
