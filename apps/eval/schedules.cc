#include "eval/schedules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "registry/position_table.h"

namespace phasor::eval {
namespace {

struct Bucket {
  int64_t from, to;  // positions [from, to)
};

// Halves of the trained context, then quarters of it up to the last position.
std::vector<Bucket> PositionBuckets(int64_t trained, int64_t n_positions) {
  std::vector<Bucket> buckets;
  for (int64_t from = 0; from < n_positions;) {
    const int64_t width = std::max<int64_t>(1, from < trained ? (trained + 1) / 2 : trained / 4);
    const int64_t to = from < trained ? std::min(from + width, trained) : from + width;
    buckets.push_back({from, to});
    from = to;
  }
  return buckets;
}

std::string BucketName(int64_t from, int64_t to) {
  const auto name = [](int64_t n) {
    return n >= 1024 && n % 1024 == 0 ? fmt::format("{}k", n / 1024) : fmt::format("{}", n);
  };
  return name(from) + "-" + name(to);
}

Json Summarize(const std::vector<TokenScore>& tokens, const Bucket& bucket) {
  double nll = 0, nll2 = 0;
  int64_t n = 0;
  for (const TokenScore& s : tokens) {
    if (s.position < bucket.from || s.position >= bucket.to) continue;
    ++n;
    nll += s.nll;
    nll2 += static_cast<double>(s.nll) * s.nll;
  }
  if (n == 0) return {{"tokens", 0}, {"nll", 0.0}, {"ppl", 0.0}, {"ppl_error", 0.0}};
  const auto count = static_cast<double>(n);
  const double mean = nll / count, ppl = std::exp(mean);
  return {{"tokens", n},
          {"nll", mean},
          {"ppl", ppl},
          {"ppl_error", ppl * std::sqrt(std::max(0.0, nll2 / count - mean * mean) / count)}};
}

// The first of `tables` that equals the last: schedules that coincide are run once (dynamic_ntk at
// a fixed context is ntk).
std::size_t FirstWithTable(std::span<const PhaseTable> tables) {
  std::size_t i = 0;
  while (tables[i].step_P != tables.back().step_P ||
         tables[i].attention_factor != tables.back().attention_factor) {
    ++i;
  }
  return i;
}

std::string Number(double value) {
  return value < 1000 ? fmt::format("{:.2f}", value) : fmt::format("{:.4g}", value);
}

}  // namespace

RopeParams ExtensionSchedule(const std::string& method, const RopeParams& own, int64_t n_ctx) {
  RopeParams rope = own;
  rope.method = method;
  rope.factor = 1;
  rope.context = n_ctx;
  if (method != "longrope" || own.method != "longrope") rope.attention_factor = 0;
  const PositionMethodInfo* info = FindPositionMethod(method);
  if (info == nullptr || (info->reads & kRopeFactor) == 0) return rope;
  if (method == "longrope" && own.method == "longrope") {
    rope.factor = own.factor;
  } else if (method != "dynamic_ntk" && method.rfind("giraffe", 0) != 0) {
    // dynamic_ntk takes its scale from the context.
    rope.factor = std::max(1.0, static_cast<double>(n_ctx) / static_cast<double>(std::max<int64_t>(
                                                                 1, own.original_context)));
  }
  return rope;
}

Result<std::vector<ScheduleScores>> EvaluateSchedules(
    const LoadedModel& model, const std::vector<std::vector<int32_t>>& windows,
    const ScheduleEvalOptions& options) {
  RopeParams own = model.config().rope;
  if (!options.long_factors.empty()) {
    own.short_factors = options.short_factors;
    own.long_factors = options.long_factors;
  }
  std::vector<ScheduleScores> scores;
  std::vector<PhaseTable> tables;  // of scores; empty where refused
  int64_t n_runs = 0, window_tokens = 0;
  for (const auto& w : windows) window_tokens += static_cast<int64_t>(w.size());
  for (const std::string& id : options.methods) {
    if (FindPositionMethod(id) == nullptr) {
      RopeParams unknown;
      unknown.method = id;
      return MakePhaseTable(unknown).status();
    }
    ScheduleScores s;
    s.rope = ExtensionSchedule(id, own, options.session.n_ctx);
    tables.emplace_back();
    tables.back().attention_factor = 0;  // equals no table that runs
    if (auto table = MakePhaseTable(s.rope); !table.ok()) {
      s.refused = table.status().message();
    } else {
      tables.back() = std::move(table).value();
      if (FirstWithTable(tables) + 1 == tables.size()) ++n_runs;
    }
    scores.push_back(std::move(s));
  }
  int64_t done_before = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    ScheduleScores& s = scores[i];
    if (!s.refused.empty()) continue;
    const std::size_t first = FirstWithTable({tables.data(), i + 1});
    if (first < i) {
      s.tokens = scores[first].tokens;
      continue;
    }
    CacheEvalOptions eval;
    eval.session = options.session;
    eval.session.rope = s.rope;
    eval.types = {{options.session.type_k, options.session.type_v}};
    eval.cancel = options.cancel;
    eval.on_progress = [&](int64_t done, int64_t) {
      if (options.on_progress) options.on_progress(done_before + done, n_runs * window_tokens);
    };
    PHASOR_ASSIGN_OR_RETURN(auto result, EvaluateCaches(model, windows, eval));
    s.tokens = std::move(result[0].tokens);
    done_before += window_tokens;
  }
  return scores;
}

Json ScheduleReport(const std::vector<ScheduleScores>& scores, int64_t trained_context) {
  Json out = Json::array();
  for (const ScheduleScores& s : scores) {
    Json j = {{"method", s.rope.method}};
    if (!s.refused.empty()) {
      j["refused"] = s.refused;
      out.push_back(std::move(j));
      continue;
    }
    int64_t n_positions = 0;
    for (const TokenScore& t : s.tokens) n_positions = std::max(n_positions, t.position + 1);
    const Json inside = Summarize(s.tokens, {0, trained_context});
    const Json past = Summarize(s.tokens, {trained_context, n_positions});
    const double ppl_inside = inside["ppl"].get<double>(), ppl_past = past["ppl"].get<double>();
    j["factor"] = s.rope.factor;
    j["ppl_inside"] = ppl_inside;
    j["ppl_past"] = ppl_past;
    j["ppl_growth"] = ppl_inside > 0 ? ppl_past / ppl_inside : 0.0;
    j["tokens_past"] = past["tokens"];
    j["by_position"] = Json::array();
    for (const Bucket& b : PositionBuckets(trained_context, n_positions)) {
      Json row = {{"from", b.from}, {"to", b.to}};
      row.update(Summarize(s.tokens, b));
      j["by_position"].push_back(std::move(row));
    }
    out.push_back(std::move(j));
  }
  return out;
}

Table ScheduleTable(const Json& report) {
  std::vector<Table::Column> columns = {{"schedule", Table::Align::kLeft},
                                        {"factor", Table::Align::kRight},
                                        {"ppl inside", Table::Align::kRight},
                                        {"ppl past", Table::Align::kRight}};
  const auto ran = std::find_if(report.begin(), report.end(),
                                [](const Json& j) { return !j.contains("refused"); });
  if (ran != report.end()) {
    for (const Json& b : (*ran)["by_position"]) {
      columns.push_back(
          {BucketName(b["from"].get<int64_t>(), b["to"].get<int64_t>()), Table::Align::kRight});
    }
  }
  Table table(columns);
  for (const Json& j : report) {
    if (j.contains("refused")) continue;
    std::vector<std::string> cells = {j["method"], fmt::format("{:.4g}", j["factor"].get<double>()),
                                      Number(j["ppl_inside"].get<double>()),
                                      Number(j["ppl_past"].get<double>())};
    for (const Json& b : j["by_position"]) cells.push_back(Number(b["ppl"].get<double>()));
    table.AddRow(std::move(cells));
  }
  return table;
}

std::string RefusedSchedules(const Json& report) {
  std::string out;
  for (const Json& j : report) {
    if (j.contains("refused")) {
      out += fmt::format("not run: {}\n", j["refused"].get<std::string>());
    }
  }
  return out;
}

}  // namespace phasor::eval
