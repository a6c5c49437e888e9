#include "eval/parallel_quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/table.h"
#include "cache/kv_cache.h"
#include "engine/parallel_contexts.h"
#include "ops/vector_ops.h"

namespace phasor::eval {
namespace {

// A method of the table: how contexts were read, and the group scale they are attended with.
struct Method {
  const char* name;
  KvGroupScale scale;
};

struct Score {
  int64_t n = 0, exact = 0;
  double logprob = 0;
  void Add(const Score& o) {
    n += o.n;
    exact += o.exact;
    logprob += o.logprob;
  }
  double Mean() const { return logprob / static_cast<double>(n); }
};

std::vector<Method> Grid(const ParallelQualityOptions& options) {
  std::vector<Method> grid;
  for (const double t : options.temperatures) {
    for (const double s : options.scales) {
      grid.push_back({"grid", {static_cast<float>(t), static_cast<float>(s)}});
    }
  }
  const bool neutral = std::any_of(grid.begin(), grid.end(), [](const Method& m) {
    return m.scale.temperature == 1 && m.scale.scale == 1;
  });
  if (!neutral) grid.push_back({"grid", {1, 1}});
  return grid;
}

int64_t Length(const ParallelCase& c) {
  auto n = static_cast<int64_t>(c.prefix.size());
  for (const auto& context : c.contexts) n += static_cast<int64_t>(context.size());
  return n;
}

int64_t QuestionTokens(const ParallelCase& c) {
  int64_t n = 0;
  for (const ParallelQuestion& q : c.questions) {
    n += static_cast<int64_t>(q.query.size() + q.answer.size()) - 1;
  }
  return n;
}

class Runner {
 public:
  Runner(const LoadedModel& model, const ParallelQualityOptions& options, int64_t total)
      : model_(model), options_(options), grid_(Grid(options)), total_(total) {}

  // Scores of one case: none, sequential, then the grid.
  Result<std::vector<Score>> Run(const ParallelCase& c) {
    SessionOptions session_options = options_.session;
    session_options.n_ctx = Length(c) + QuestionTokens(c);
    PHASOR_ASSIGN_OR_RETURN(const auto prefix, Session::Create(model_, session_options));
    PHASOR_RETURN_IF_ERROR(Append(*prefix, c.prefix));
    std::vector<Score> scores;
    PHASOR_ASSIGN_OR_RETURN(scores.emplace_back(), Ask(*prefix, c));
    PHASOR_ASSIGN_OR_RETURN(const auto sequential, prefix->Fork());
    for (const auto& context : c.contexts) PHASOR_RETURN_IF_ERROR(Append(*sequential, context));
    PHASOR_ASSIGN_OR_RETURN(scores.emplace_back(), Ask(*sequential, c));
    PHASOR_RETURN_IF_ERROR(Attach(c, *prefix));
    for (const Method& m : grid_) {
      prefix->cache().SetGroupScale(m.scale);
      PHASOR_ASSIGN_OR_RETURN(scores.emplace_back(), Ask(*prefix, c));
    }
    return scores;
  }
  const std::vector<Method>& grid() const { return grid_; }

 private:
  Status Attach(const ParallelCase& c, Session& session) {
    std::vector<ParallelContext> contexts;
    for (const auto& context : c.contexts) contexts.push_back({.tokens = context});
    ParallelOptions parallel;
    parallel.temperature = parallel.scale = 1;
    parallel.cancel = options_.cancel;
    parallel.on_progress = [&](int64_t done, int64_t) { Report(done); };
    PHASOR_ASSIGN_OR_RETURN(const ParallelReport report,
                            AttachParallelContexts(session, contexts, parallel));
    done_ += report.n_read;
    return Status::Ok();
  }

  Result<Score> Ask(const Session& text, const ParallelCase& c) {
    Score sum;
    for (const ParallelQuestion& question : c.questions) {
      PHASOR_ASSIGN_OR_RETURN(const auto session, text.Fork());
      std::vector<int32_t> tokens = question.query;
      tokens.insert(tokens.end(), question.answer.begin(), question.answer.end() - 1);
      const auto first = static_cast<int64_t>(question.query.size()) - 1;
      Score score{.n = 1, .exact = 1};
      AppendOptions append;
      append.on_logits = [&](int64_t i, std::span<const float> logits) {
        if (i < first) return;
        const int32_t target = question.answer[static_cast<std::size_t>(i - first)];
        const auto top = std::max_element(logits.begin(), logits.end()) - logits.begin();
        if (top != target) score.exact = 0;
        score.logprob +=
            logits[target] - LogSumExp(logits.data(), static_cast<int64_t>(logits.size()));
      };
      PHASOR_RETURN_IF_ERROR(Append(*session, tokens, std::move(append)));
      sum.Add(score);
    }
    return sum;
  }

  Status Append(Session& session, std::span<const int32_t> tokens, AppendOptions append = {}) {
    append.cancel = options_.cancel;
    append.on_progress = [&](int64_t done, int64_t) { Report(done); };
    PHASOR_RETURN_IF_ERROR(session.Append(tokens, append));
    done_ += static_cast<int64_t>(tokens.size());
    return Status::Ok();
  }
  void Report(int64_t done) const {
    if (options_.on_progress) options_.on_progress(std::min(total_, done_ + done), total_);
  }

  const LoadedModel& model_;
  const ParallelQualityOptions& options_;
  const std::vector<Method> grid_;
  const int64_t total_;
  int64_t done_ = 0;
};

// Rows of one task. tune, test: per method, summed over the even and the odd cases.
void AddRows(const std::string& task, double tokens, const std::vector<Method>& grid,
             const std::vector<Score>& tune, const std::vector<Score>& test, Json* out) {
  constexpr std::size_t kFirst = 2;  // none, sequential
  std::size_t naive = 0, best = 0;
  for (std::size_t i = 0; i < grid.size(); ++i) {
    if (grid[i].scale.temperature == 1 && grid[i].scale.scale == 1) naive = i;
    if (tune[kFirst + i].Mean() > tune[kFirst + best].Mean()) best = i;
  }
  const double low = test[kFirst + naive].Mean(), high = test[1].Mean();
  const auto add = [&](const char* method, const KvGroupScale* scale, const Score& score) {
    // As it was given, not as float has it.
    const auto plain = [](float x) { return std::round(1e6 * static_cast<double>(x)) / 1e6; };
    out->push_back(
        {{"task", task},
         {"method", method},
         {"temperature", scale ? Json(plain(scale->temperature)) : Json()},
         {"scale", scale ? Json(plain(scale->scale)) : Json()},
         {"questions", score.n},
         {"exact", static_cast<double>(score.exact) / static_cast<double>(score.n)},
         {"logprob", score.Mean()},
         {"recovered", high != low ? Json((score.Mean() - low) / (high - low) + 0.0) : Json()},
         {"tokens", tokens}});
  };
  add("none", nullptr, test[0]);
  add("sequential", nullptr, test[1]);
  add("naive", &grid[naive].scale, test[kFirst + naive]);
  add("ape", &grid[best].scale, test[kFirst + best]);
  for (std::size_t i = 0; i < grid.size(); ++i) add("grid", &grid[i].scale, test[kFirst + i]);
}

}  // namespace

Result<Json> EvaluateParallelQuality(const LoadedModel& model,
                                     const ParallelQualityOptions& options) {
  if (options.sets.n_cases < 2) {
    return InvalidArgument(
        fmt::format("parallel: expected at least 2 cases, one to choose T and S on and one to "
                    "report, found {}",
                    options.sets.n_cases));
  }
  std::vector<std::vector<ParallelCase>> tasks;
  int64_t total = 0;
  const auto n_methods = static_cast<int64_t>(Grid(options).size()) + 2;
  for (const std::string& task : options.tasks) {
    PHASOR_ASSIGN_OR_RETURN(auto cases, MakeParallelCases(model.tokenizer(), task, options.sets));
    for (const ParallelCase& c : cases) {
      total += 2 * Length(c) - static_cast<int64_t>(c.prefix.size());
      total += n_methods * QuestionTokens(c);
    }
    tasks.push_back(std::move(cases));
  }
  Runner runner(model, options, total);
  Json out = Json::array();
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    std::vector<Score> halves[2];
    double tokens = 0;
    for (std::size_t k = 0; k < tasks[i].size(); ++k) {
      PHASOR_ASSIGN_OR_RETURN(const std::vector<Score> scores, runner.Run(tasks[i][k]));
      std::vector<Score>& sum = halves[k % 2];
      sum.resize(scores.size());
      for (std::size_t m = 0; m < scores.size(); ++m) sum[m].Add(scores[m]);
      tokens += static_cast<double>(Length(tasks[i][k])) / static_cast<double>(tasks[i].size());
    }
    AddRows(options.tasks[i], tokens, runner.grid(), halves[0], halves[1], &out);
  }
  return out;
}

Table ParallelQualityTable(const Json& results) {
  using Align = Table::Align;
  Table table({{"task", Align::kLeft},
               {"method", Align::kLeft},
               {"T", Align::kRight},
               {"S", Align::kRight},
               {"tokens", Align::kRight},
               {"questions", Align::kRight},
               {"exact", Align::kRight},
               {"log prob", Align::kRight},
               {"recovered", Align::kRight}});
  for (const Json& r : results) {
    const auto number = [&](const char* key, int digits) {
      return r[key].is_null() ? std::string("-")
                              : fmt::format("{:.{}f}", r[key].get<double>(), digits);
    };
    table.AddRow({r["task"], r["method"], number("temperature", 2), number("scale", 2),
                  number("tokens", 0), r["questions"].dump(), number("exact", 4),
                  number("logprob", 4), number("recovered", 2)});
  }
  return table;
}

}  // namespace phasor::eval
