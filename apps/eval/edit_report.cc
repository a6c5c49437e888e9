// Results of edits as figures and tables.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/median.h"
#include "eval/edit_eval.h"
#include "eval/text_windows.h"

namespace phasor::eval {
namespace {

using Align = Table::Align;

// Over the results that `keep` accepts; "edits" is 0 where it accepts none.
Json Summarize(const std::vector<EditResult>& results,
               const std::function<bool(const EditResult&)>& keep) {
  double kl = 0, same_top = 0, same_line = 0, read = 0, distance = 0;
  std::vector<double> kls, times, full, saved;
  int64_t n_edits = 0, n_predicted = 0, n_tokens = 0;
  for (const EditResult& r : results) {
    if (!keep(r)) continue;
    ++n_edits;
    n_predicted += static_cast<int64_t>(r.kl.size());
    n_tokens += r.n_tokens;
    for (const float x : r.kl) {
      kl += x;
      kls.push_back(x);
    }
    same_top += static_cast<double>(r.n_same_top);
    same_line += r.same_line ? 1 : 0;
    read += static_cast<double>(r.n_read) / static_cast<double>(r.n_tokens);
    distance += static_cast<double>(r.distance);
    times.push_back(r.milliseconds);
    full.push_back(r.full_milliseconds);
    saved.push_back(1 - r.milliseconds / r.full_milliseconds);
  }
  const double edits = std::max<double>(1, static_cast<double>(n_edits));
  const double predicted = std::max<double>(1, static_cast<double>(n_predicted));
  return {{"edits", n_edits},
          {"predicted_tokens", n_predicted},
          {"mean_tokens", static_cast<double>(n_tokens) / edits},
          {"mean_distance", distance / edits},
          {"mean_kl", kl / predicted},
          {"median_kl", Median(kls)},
          {"same_top", same_top / predicted},
          {"same_line", same_line / edits},
          {"read", read / edits},
          {"milliseconds", Median(times)},
          {"full_milliseconds", Median(full)},
          {"time_saved", Median(saved)}};
}

std::string Number(const Json& row, const char* key, int digits) {
  return fmt::format("{:.{}f}", row[key].get<double>(), digits);
}

// Up to 128 tokens, to 256, to 512 and so on.
constexpr int64_t kNearest = 128;

int DistanceBucket(int64_t distance) {
  int bucket = 0;
  for (int64_t limit = kNearest; distance >= limit; limit *= 2) ++bucket;
  return bucket;
}

std::string DistanceName(int bucket) {
  const int64_t end = kNearest << bucket;
  return fmt::format("{}-{}", bucket == 0 ? 0 : end / 2, end);
}

}  // namespace

Json EditReport(const std::vector<EditResult>& results) {
  std::vector<std::string> methods, kinds;
  std::vector<int> buckets;
  const auto add = [](auto* list, const auto& value) {
    if (std::find(list->begin(), list->end(), value) == list->end()) list->push_back(value);
  };
  for (const EditResult& r : results) {
    add(&methods, r.method.id);
    add(&kinds, r.kind);
    add(&buckets, DistanceBucket(r.distance));
  }
  std::sort(buckets.begin(), buckets.end());
  Json out = Json::array();
  for (const std::string& id : methods) {
    Json j = {{"method", id}};
    j.update(Summarize(results, [&](const EditResult& r) { return r.method.id == id; }));
    j["by_kind"] = j["by_distance"] = Json::array();
    for (const std::string& kind : kinds) {
      Json row = {{"kind", kind}};
      row.update(Summarize(
          results, [&](const EditResult& r) { return r.method.id == id && r.kind == kind; }));
      j["by_kind"].push_back(std::move(row));
    }
    for (const int bucket : buckets) {
      Json row = {{"distance", DistanceName(bucket)}};
      row.update(Summarize(results, [&](const EditResult& r) {
        return r.method.id == id && DistanceBucket(r.distance) == bucket;
      }));
      j["by_distance"].push_back(std::move(row));
    }
    out.push_back(std::move(j));
  }
  return out;
}

Table EditGroupTable(const Json& report) {
  Table table({{"method", Align::kLeft},
               {"kind", Align::kLeft},
               {"distance", Align::kLeft},
               {"edits", Align::kRight},
               {"predicted tokens", Align::kRight},
               {"mean KL", Align::kRight},
               {"median KL", Align::kRight},
               {"same top", Align::kRight},
               {"same line", Align::kRight},
               {"read", Align::kRight},
               {"time saved", Align::kRight}});
  const auto add = [&](const Json& run, const Json& row, const std::string& kind,
                       const std::string& distance) {
    table.AddRow(
        {run["method"], kind, distance, row["edits"].dump(), row["predicted_tokens"].dump(),
         Number(row, "mean_kl", 6), Number(row, "median_kl", 6), Number(row, "same_top", 4),
         Number(row, "same_line", 4), Number(row, "read", 4), Number(row, "time_saved", 4)});
  };
  for (const Json& run : report) {
    add(run, run, "all", "all");
    for (const Json& row : run["by_kind"]) add(run, row, row["kind"], "all");
    for (const Json& row : run["by_distance"]) add(run, row, "all", row["distance"]);
  }
  return table;
}

Table EditKindTable(const Json& report) {
  std::vector<Table::Column> columns = {
      {"method", Align::kLeft}, {"mean KL", Align::kRight}, {"median KL", Align::kRight}};
  for (const Json& row : report.empty() ? Json::array() : report[0]["by_kind"]) {
    columns.push_back({"KL " + row["kind"].get<std::string>(), Align::kRight});
  }
  for (const char* name : {"same top", "same line", "read", "time saved"}) {
    columns.push_back({name, Align::kRight});
  }
  Table table(columns);
  for (const Json& run : report) {
    std::vector<std::string> cells = {run["method"], Number(run, "mean_kl", 5),
                                      Number(run, "median_kl", 5)};
    for (const Json& row : run["by_kind"]) cells.push_back(Number(row, "mean_kl", 5));
    cells.push_back(Number(run, "same_top", 4));
    cells.push_back(Number(run, "same_line", 3));
    cells.push_back(fmt::format("{:.1f} %", 100 * run["read"].get<double>()));
    cells.push_back(fmt::format("{:.1f} %", 100 * run["time_saved"].get<double>()));
    table.AddRow(std::move(cells));
  }
  return table;
}

Table EditDistanceTable(const Json& report) {
  std::vector<Table::Column> columns = {{"method", Align::kLeft}};
  for (const char* what : {"KL ", "same top "}) {
    for (const Json& row : report.empty() ? Json::array() : report[0]["by_distance"]) {
      columns.push_back({what + row["distance"].get<std::string>(), Align::kRight});
    }
  }
  Table table(columns);
  for (const Json& run : report) {
    std::vector<std::string> cells = {run["method"]};
    for (const Json& row : run["by_distance"]) cells.push_back(Number(row, "mean_kl", 5));
    for (const Json& row : run["by_distance"]) cells.push_back(Number(row, "same_top", 4));
    table.AddRow(std::move(cells));
  }
  return table;
}

Table EditSpeedTable(const Json& report) {
  Table table({{"tokens", Align::kRight},
               {"new", Align::kRight},
               {"recomputed", Align::kRight},
               {"read", Align::kRight},
               {"full reading / edit", Align::kRight},
               {"time saved", Align::kRight}});
  for (const Json& row : report) {
    table.AddRow({row["n_tokens"].dump(), row["n_edit"].dump(),
                  fmt::format("{:g} %", 100 * row["share"].get<double>()), row["n_read"].dump(),
                  Number(row, "speedup", 2),
                  fmt::format("{:.1f} %", 100 * row["time_saved"].get<double>())});
  }
  return table;
}

}  // namespace phasor::eval
