// Every position plan phasor has. One line per plan in position_plan_table.cc.
#pragma once

#include <memory>
#include <span>

#include "contracts/position_plan.h"

namespace phasor {

std::span<const PositionPlanInfo* const> PositionPlans();
// kInvalidArgument lists the known ids.
Result<std::unique_ptr<PositionPlan>> MakePositionPlan(const PositionPlanOptions& options);

// Positions of all spans by a new plan, [sum of n_tokens].
Result<std::vector<PositionTicks>> PlanPositions(const PositionPlanOptions& options,
                                                 std::span<const PlanSpan> spans);
// (query, key) pairs that attention works on when these spans are read in this order under the
// plan, every token with itself included.
Result<int64_t> CountAttendedPairs(const PositionPlanOptions& options,
                                   std::span<const PlanSpan> spans);

}  // namespace phasor
