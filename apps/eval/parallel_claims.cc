#include "eval/parallel_claims.h"

#include <algorithm>

#include "eval/parallel_quality.h"
#include "eval/parallel_speed.h"

namespace phasor::eval {

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

Result<ParallelFindings> MeasureParallelClaims(const LoadedModel& model,
                                               const ParallelSettings& settings,
                                               const ParallelClaimOptions& options) {
  ParallelQualityOptions quality;
  quality.session.type_k = quality.session.type_v = "f16";
  quality.tasks = settings.tasks;
  quality.sets.n_cases = options.quick_speed ? 2 : static_cast<int>(settings.cases);
  quality.sets.n_contexts = static_cast<int>(settings.contexts);
  quality.sets.n_items = static_cast<int>(settings.items);
  quality.sets.n_questions = static_cast<int>(settings.questions);
  quality.temperatures = settings.temperatures;
  quality.scales = settings.scales;
  ParallelSpeedOptions speed;
  const auto cut = [&](int64_t n) {
    return options.max_tokens > 0 ? std::min(n, options.max_tokens) : n;
  };
  speed.lengths.clear();
  for (const double length : settings.lengths) {
    const int64_t n = cut(static_cast<int64_t>(length));
    if (speed.lengths.empty() || n != speed.lengths.back()) speed.lengths.push_back(n);
  }
  speed.context_tokens = settings.context_tokens;
  speed.query_tokens = settings.query_tokens;
  speed.n_generate = settings.generate;
  speed.n_rounds = options.quick_speed ? 1 : static_cast<int>(settings.rounds);
  speed.filled_tokens = cut(settings.filled);
  quality.cancel = speed.cancel = options.cancel;
  if (options.on_progress) {
    quality.on_progress = [&](int64_t done, int64_t total) {
      options.on_progress("answering", done, total);
    };
    speed.on_progress = [&](int64_t done, int64_t total) {
      options.on_progress("timing", done, total);
    };
  }
  ParallelFindings found;
  PHASOR_ASSIGN_OR_RETURN(found.quality, EvaluateParallelQuality(model, quality));
  PHASOR_ASSIGN_OR_RETURN(found.speed, MeasureParallelSpeed(model, speed));
  found.measured = ParallelMeasurements(found.quality, found.speed);
  return found;
}

}  // namespace phasor::eval
