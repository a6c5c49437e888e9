// What can be said of a position schedule without a model: how many pairs it keeps, changes and
// stops, and how much it disturbs the distribution of angles. For `phasor reproduce`.
#pragma once

#include <string>
#include <vector>

#include "base/table.h"
#include "contracts/position_method.h"
#include "eval/claims.h"
#include "eval/kld.h"

namespace phasor::eval {

// One position schedule to be looked at without a model.
struct ScheduleCase {
  std::string id;
  RopeParams rope;
};

// One row per case: id, method, factor, pairs, pairs_kept (step as in rope), pairs_changed,
// pairs_still (not turned, but by rope), disturbance (MeanDisturbance of factor * original_context
// positions against rope's original_context; absent without an original context). The figures also
// go into *measured under (name, id). Errors are those of MakePhaseTable.
Result<Json> MeasureScheduleTables(const std::vector<ScheduleCase>& cases, Measurements* measured);
Table ScheduleCaseTable(const Json& rows);

}  // namespace phasor::eval
