// What: tokens stand one apart, whatever they are.
// Source: every decoder-only model; the plan that all others equal at their neutral setting.
// Deviations: none.
// Shapes: one position per token.
// Exact or approximate: exact. Neutral setting: itself.
// Cost: none.
// Limits: none.
// Rejected: nothing yet.
#include "position/plan.h"

namespace phasor {
namespace {

class SequentialPlan : public PositionPlan {
 public:
  Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) override {
    PHASOR_RETURN_IF_ERROR(CheckPlanLength("sequential", n_tokens_, span.n_tokens));
    AppendPositions(next_position(), span.n_tokens, positions);
    n_tokens_ += span.n_tokens;
    return Status::Ok();
  }
  PositionTicks next_position() const override { return n_tokens_ * kTicksPerPosition; }

 private:
  int64_t n_tokens_ = 0;
};

Result<std::unique_ptr<PositionPlan>> Make(const PositionPlanOptions&) {
  return std::unique_ptr<PositionPlan>(std::make_unique<SequentialPlan>());
}

}  // namespace

const PositionPlanInfo kSequentialPlan = {"sequential", "tokens stand one apart", "-", Make};

}  // namespace phasor
