// APE (2502.05431): answers over contexts read apart, as in `phasor eval parallel`, over a 16-bit
// cache, so that only the way of reading differs; times over the default one.
#include "eval/experiments/ape.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "eval/experiments/experiment.h"
#include "eval/parallel_quality.h"
#include "eval/parallel_speed.h"

namespace phasor::eval {
namespace {

constexpr int64_t kMostTokens = 1 << 24, kMostCount = 1 << 16;

struct Settings {
  ParallelQualityOptions quality;
  ParallelSpeedOptions speed;
};

// The names are those of the flags of `eval parallel`.
Result<Settings> ReadSettings(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(const nlohmann::json j, ParseSettings(input));
  Settings s;
  int64_t cases = 0, contexts = 0, items = 0, questions = 0, rounds = 0;
  std::vector<double> lengths;
  Fields f(j, input.settings_name);
  f.Strings("tasks", &s.quality.tasks);
  f.Integer("cases", 2, &cases, kMostCount);
  f.Integer("contexts", 1, &contexts, kMostCount);
  f.Integer("items", 1, &items, kMostCount);
  f.Integer("questions", 1, &questions, kMostCount);
  f.Numbers("temperatures", 1e-6, 1, &s.quality.temperatures);
  f.Numbers("scales", 1e-6, 1, &s.quality.scales);
  f.Numbers("lengths", 1, kMostTokens, &lengths);
  f.Integer("context_tokens", 1, &s.speed.context_tokens, kMostTokens);
  f.Integer("query_tokens", 1, &s.speed.query_tokens, kMostTokens);
  f.Integer("generate", 0, &s.speed.n_generate, kMostCount);
  f.Integer("rounds", 1, &rounds, kMostCount);
  f.Integer("filled", 1, &s.speed.filled_tokens, kMostTokens);
  PHASOR_RETURN_IF_ERROR(f.Finish());
  s.quality.session.type_k = s.quality.session.type_v = "f16";
  s.quality.sets.n_cases = input.quick ? 2 : static_cast<int>(cases);
  s.quality.sets.n_contexts = static_cast<int>(contexts);
  s.quality.sets.n_items = static_cast<int>(items);
  s.quality.sets.n_questions = static_cast<int>(questions);
  s.speed.n_rounds = input.quick ? 1 : static_cast<int>(rounds);
  const auto cut = [&](int64_t n) {
    return input.max_tokens > 0 ? std::min(n, input.max_tokens) : n;
  };
  s.speed.lengths.clear();
  for (const double length : lengths) {
    const int64_t n = cut(static_cast<int64_t>(length));
    if (s.speed.lengths.empty() || n != s.speed.lengths.back()) s.speed.lengths.push_back(n);
  }
  s.speed.filled_tokens = cut(s.speed.filled_tokens);
  return s;
}

Result<ExperimentNeeds> Needs(const ExperimentInput& input) {
  PHASOR_RETURN_IF_ERROR(ReadSettings(input).status());
  return ExperimentNeeds{true, ExperimentText::kNone, 0};
}

Result<ExperimentReport> Run(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(Settings s, ReadSettings(input));
  s.quality.cancel = s.speed.cancel = input.cancel;
  s.quality.on_progress = [&](int64_t done, int64_t total) {
    if (input.on_progress) input.on_progress("answering", "tokens", done, total);
  };
  s.speed.on_progress = [&](int64_t done, int64_t total) {
    if (input.on_progress) input.on_progress("timing", "tokens", done, total);
  };
  ExperimentReport report;
  PHASOR_ASSIGN_OR_RETURN(const Json quality, EvaluateParallelQuality(*input.model, s.quality));
  PHASOR_ASSIGN_OR_RETURN(const Json speed, MeasureParallelSpeed(*input.model, s.speed));
  report.measured = ParallelMeasurements(quality, speed);
  report.ran_on = "answers over a 16-bit cache, times over the default one";
  report.tables.emplace_back("Answers", ParallelQualityTable(quality));
  report.tables.emplace_back("Times, as ratios", ParallelSpeedTable(speed));
  report.details["quality"] = quality;
  report.details["speed"] = speed;
  return report;
}

}  // namespace

Measurements ParallelMeasurements(const Json& quality, const Json& speed) {
  Measurements m;
  std::map<std::string, std::map<std::string, double>> logprob;
  for (const Json& row : quality) {
    const auto task = row["task"].get<std::string>(), method = row["method"].get<std::string>();
    if (method == "grid") continue;
    m[{"exact", task + " " + method}] = row["exact"].get<double>();
    logprob[task][method] = row["logprob"].get<double>();
    if (method == "ape") {
      // Nothing to recover: the gap says so.
      m[{"recovered", task}] = row["recovered"].is_null() ? 0.0 : row["recovered"].get<double>();
    }
  }
  for (const auto& [task, of] : logprob) m[{"gap", task}] = of.at("sequential") - of.at("naive");
  int64_t longest = 0, most_read = 0;
  for (const Json& row : speed) {
    const auto tokens = row["tokens"].get<int64_t>();
    most_read =
        std::max(most_read, row["cached_read"].get<int64_t>() - row["query_tokens"].get<int64_t>());
    if (row["filled"].get<bool>()) {
      m[{"tokens", "filled"}] = static_cast<double>(tokens);
      m[{"speedup", "cached filled"}] = row["cached_speedup"].get<double>();
      m[{"speedup", "end to end filled"}] = row["end_to_end_speedup"].get<double>();
    } else if (tokens > longest) {
      longest = tokens;
      m[{"speedup", "cached"}] = row["cached_speedup"].get<double>();
      m[{"speedup", "fresh"}] = row["fresh_speedup"].get<double>();
    }
  }
  m[{"context_tokens_read", "cached"}] = static_cast<double>(most_read);
  return m;
}

const Experiment kApeExperiment = {"ape", Needs, Run};

}  // namespace phasor::eval
