// The position plans of this folder; src/registry/position_plan_table.cc lists them.
#pragma once

#include <string>
#include <vector>

#include "contracts/position_plan.h"

namespace phasor {

extern const PositionPlanInfo kSequentialPlan;
extern const PositionPlanInfo kDocumentResetPlan;
extern const PositionPlanInfo kAnchorPlan;
extern const PositionPlanInfo kGpePlan;
extern const PositionPlanInfo kV2pePlan;
extern const PositionPlanInfo kSharedIdsPlan;

// Sequences longer than this are refused, so that no sum of positions leaves 64 bits.
inline constexpr int64_t kMaxPlannedTokens = int64_t{1} << 40;

// kInvalidArgument for a negative length, or one past kMaxPlannedTokens with the tokens before it.
inline Status CheckPlanLength(const char* plan, int64_t n_before, int64_t n_tokens) {
  if (n_tokens >= 0 && n_tokens <= kMaxPlannedTokens - n_before) return Status::Ok();
  return InvalidArgument(std::string(plan) + ": expected from 0 to " +
                         std::to_string(kMaxPlannedTokens - n_before) + " tokens, found " +
                         std::to_string(n_tokens));
}

// n positions, one apart from `first` on.
inline void AppendPositions(PositionTicks first, int64_t n, std::vector<PositionTicks>* positions) {
  for (int64_t t = 0; t < n; ++t) positions->push_back(first + t * kTicksPerPosition);
}

// The next whole position, itself for a whole one.
inline PositionTicks CeilPosition(PositionTicks position) {
  const PositionTicks rest = position & (kTicksPerPosition - 1);
  return rest == 0 ? position : position - rest + kTicksPerPosition;
}

}  // namespace phasor
