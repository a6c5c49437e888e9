// Position schedules (dprope, giraffe, hope): what is arithmetic of them ("cases"), and perplexity
// past the trained context on a model as it is ("extension"). Settings hold one of them or both.
#include "eval/schedules.h"

#include <fmt/format.h>

#include "base/file.h"
#include "eval/experiments/experiment.h"
#include "eval/experiments/schedule_tables.h"
#include "eval/text_windows.h"
#include "registry/position_table.h"

namespace phasor::eval {
namespace {

constexpr int64_t kMostRotated = 1 << 16, kMostContexts = 1 << 10;
constexpr int64_t kMostContext = int64_t{1} << 40;

struct Settings {
  std::vector<ScheduleCase> cases;
  std::vector<std::string> methods;  // position method ids; empty: no extension
  int64_t trained_contexts = 0;      // the window, in trained contexts
};

Status ReadCases(const nlohmann::json& list, const std::string& where,
                 std::vector<ScheduleCase>* out) {
  if (!list.is_array() || list.empty()) return DataCorrupt(where + ": cases: expected a list");
  for (const nlohmann::json& entry : list) {
    ScheduleCase c;
    Fields f(entry, fmt::format("{}: case {}", where, out->size() + 1));
    int64_t n_rot = 0;
    f.String("id", &c.id);
    f.String("method", &c.rope.method);
    f.Integer("n_rot", 2, &n_rot, kMostRotated);
    f.OptionalNumber("theta_base", &c.rope.theta_base);
    f.OptionalNumber("factor", &c.rope.factor);
    f.OptionalNumber("power_exponent", &c.rope.power_exponent);
    f.OptionalInteger("original_context", 1, &c.rope.original_context, kMostContext);
    PHASOR_RETURN_IF_ERROR(f.Finish());
    c.rope.n_rot = static_cast<int>(n_rot);
    out->push_back(std::move(c));
  }
  return Status::Ok();
}

Result<Settings> ReadSettings(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(const nlohmann::json j, ParseSettings(input));
  Settings s;
  Fields f(j, input.settings_name);
  const nlohmann::json& cases = f.Member("cases", false);
  const nlohmann::json& extension = f.Member("extension", false);
  if (!j.contains("cases") && !j.contains("extension")) {
    f.Fail("expected cases or extension, found neither");
  }
  PHASOR_RETURN_IF_ERROR(f.Finish());
  if (j.contains("cases")) {
    PHASOR_RETURN_IF_ERROR(ReadCases(cases, input.settings_name, &s.cases));
  }
  if (j.contains("extension")) {
    Fields e(extension, input.settings_name + ": extension");
    e.Strings("methods", &s.methods);
    e.Integer("trained_contexts", 2, &s.trained_contexts, kMostContexts);
    for (const std::string& id : s.methods) {
      if (FindPositionMethod(id) == nullptr) {
        e.Fail("methods: expected ids out of `phasor methods`, found " + id);
      }
    }
    PHASOR_RETURN_IF_ERROR(e.Finish());
  }
  return s;
}

Result<ExperimentNeeds> Needs(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(const Settings settings, ReadSettings(input));
  if (settings.methods.empty()) return ExperimentNeeds{};
  return ExperimentNeeds{true, ExperimentText::kText, 0};
}

// One window, 16-bit cache.
Status MeasureExtension(const ExperimentInput& input, const Settings& settings,
                        ExperimentReport* report) {
  const int64_t trained = input.model->config().rope.original_context;
  const int64_t n_ctx = settings.trained_contexts * trained;
  PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(input.text_path));
  const auto windows = TextWindows(input.model->tokenizer(), text, n_ctx,
                                   input.max_tokens > 0 ? input.max_tokens : n_ctx);
  int64_t n_tokens = 0;
  for (const auto& w : windows) n_tokens += static_cast<int64_t>(w.size());
  if (n_tokens <= trained) {
    return InvalidArgument(
        fmt::format("reproduce: {}: expected more tokens than the trained context of {}, found {}",
                    input.text_path, trained, n_tokens));
  }
  ScheduleEvalOptions options;
  options.session.n_ctx = n_ctx;
  options.session.type_k = options.session.type_v = "f16";
  options.methods = settings.methods;
  options.cancel = input.cancel;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (input.on_progress) input.on_progress("evaluating", "tokens", done, total);
  };
  PHASOR_ASSIGN_OR_RETURN(auto scores, EvaluateSchedules(*input.model, windows, options));
  const Json rows = ScheduleReport(scores, trained);
  for (const Json& run : rows) {
    if (run.contains("refused")) return InvalidArgument(run["refused"].get<std::string>());
    for (const char* metric : {"ppl_inside", "ppl_past", "ppl_growth"}) {
      report->measured[{metric, run["method"].get<std::string>()}] = run[metric].get<double>();
    }
  }
  report->ran_on = fmt::format("{} tokens in windows of {}, cache in f16", n_tokens, n_ctx);
  report->tables.emplace_back("Perplexity within and past the trained context",
                              ScheduleTable(rows));
  report->details["extension"] = rows;
  return Status::Ok();
}

Result<ExperimentReport> Run(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(const Settings settings, ReadSettings(input));
  ExperimentReport report;
  if (!settings.cases.empty()) {
    PHASOR_ASSIGN_OR_RETURN(Json rows, MeasureScheduleTables(settings.cases, &report.measured));
    report.tables.emplace_back("Rotary pairs of each schedule against plain RoPE",
                               ScheduleCaseTable(rows));
    report.details["cases"] = std::move(rows);
  }
  if (!settings.methods.empty()) {
    PHASOR_RETURN_IF_ERROR(MeasureExtension(input, settings, &report));
  }
  return report;
}

}  // namespace

const Experiment kSchedulesExperiment = {"schedules", Needs, Run};

}  // namespace phasor::eval
