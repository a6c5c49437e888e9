#include "eval/experiments/schedule_tables.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "position/dprope.h"
#include "registry/position_table.h"

namespace phasor::eval {
namespace {

Result<Json> MeasureCase(const ScheduleCase& c) {
  RopeParams plain = c.rope;
  plain.method = "rope";
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable rope, MakePhaseTable(plain));
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable table, MakePhaseTable(c.rope));
  int64_t kept = 0, changed = 0, still = 0;
  for (std::size_t j = 0; j < rope.step_P.size(); ++j) {
    if (table.step_P[j] == rope.step_P[j]) {
      ++kept;
    } else {
      ++(table.step_P[j] == 0 ? still : changed);
    }
  }
  Json row = {{"id", c.id},
              {"method", c.rope.method},
              {"factor", c.rope.factor},
              {"original_context", c.rope.original_context},
              {"pairs", rope.step_P.size()},
              {"pairs_kept", kept},
              {"pairs_changed", changed},
              {"pairs_still", still}};
  const double n = c.rope.factor * static_cast<double>(c.rope.original_context);
  if (n >= 1 && n <= static_cast<double>(kDisturbanceMaxTokens) && c.rope.original_context >= 1 &&
      c.rope.original_context <= kDisturbanceMaxTokens) {
    row["disturbance"] = MeanDisturbance(rope, c.rope.original_context, table, std::llround(n));
  }
  return row;
}

}  // namespace

Result<Json> MeasureScheduleTables(const std::vector<ScheduleCase>& cases, Measurements* measured) {
  Json rows = Json::array();
  for (const ScheduleCase& c : cases) {
    PHASOR_ASSIGN_OR_RETURN(Json row, MeasureCase(c));
    for (const char* metric : {"pairs_kept", "pairs_changed", "pairs_still", "disturbance"}) {
      if (row.contains(metric)) (*measured)[{metric, c.id}] = row[metric].get<double>();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Table ScheduleCaseTable(const Json& rows) {
  Table table({{"case", Table::Align::kLeft},
               {"schedule", Table::Align::kLeft},
               {"trained", Table::Align::kRight},
               {"factor", Table::Align::kRight},
               {"pairs", Table::Align::kRight},
               {"kept", Table::Align::kRight},
               {"changed", Table::Align::kRight},
               {"not turned", Table::Align::kRight},
               {"disturbance", Table::Align::kRight}});
  for (const Json& r : rows) {
    table.AddRow(
        {r["id"], r["method"], r["original_context"].dump(),
         fmt::format("{:g}", r["factor"].get<double>()), r["pairs"].dump(), r["pairs_kept"].dump(),
         r["pairs_changed"].dump(), r["pairs_still"].dump(),
         r.contains("disturbance") ? fmt::format("{:.5f}", r["disturbance"].get<double>()) : "-"});
  }
  return table;
}

}  // namespace phasor::eval
