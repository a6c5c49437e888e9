#include "registry/position_plan_table.h"

#include "position/plan.h"

namespace phasor {
namespace {

constexpr const PositionPlanInfo* kTable[] = {
    &kSequentialPlan, &kDocumentResetPlan, &kAnchorPlan, &kGpePlan, &kV2pePlan, &kSharedIdsPlan,
};

}  // namespace

std::span<const PositionPlanInfo* const> PositionPlans() { return kTable; }

Result<std::unique_ptr<PositionPlan>> MakePositionPlan(const PositionPlanOptions& options) {
  std::string known;
  for (const PositionPlanInfo* info : kTable) {
    if (options.id == info->id) return info->make(options);
    known += (known.empty() ? "" : ", ") + std::string(info->id);
  }
  return InvalidArgument("position plan: expected one of " + known + ", found " + options.id);
}

Result<std::vector<PositionTicks>> PlanPositions(const PositionPlanOptions& options,
                                                 std::span<const PlanSpan> spans) {
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<PositionPlan> plan, MakePositionPlan(options));
  std::vector<PositionTicks> positions;
  for (const PlanSpan& span : spans) PHASOR_RETURN_IF_ERROR(plan->Extend(span, &positions));
  return positions;
}

Result<int64_t> CountAttendedPairs(const PositionPlanOptions& options,
                                   std::span<const PlanSpan> spans) {
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<PositionPlan> plan, MakePositionPlan(options));
  int64_t pairs = 0;
  for (std::size_t q = 0; q < spans.size(); ++q) {
    const int64_t n = spans[q].n_tokens;
    // Within a span a token sees those before it where its labels see themselves, and itself.
    pairs += plan->Sees(spans[q], spans[q]) ? n * (n + 1) / 2 : n;
    for (std::size_t k = 0; k < q; ++k) {
      if (plan->Sees(spans[q], spans[k])) pairs += n * spans[k].n_tokens;
    }
  }
  return pairs;
}

}  // namespace phasor
