// What: source and target of a streamed task count their positions independently of each other:
//   source from 0, target from phi, in whatever order their tokens arrive.
// Source: Group Position Encoding (2505.16983): source tokens never see the target, target tokens
//   see the source that has arrived, and nothing is read again when more of it does.
// Deviations: none. phi is an option of the whole sequence (target_start).
// Shapes: source token i at i, target token j at phi + j.
// Exact or approximate: exact. Neutral setting: phi = source length, source first, equals
//   sequential (test).
// Cost: as sequential; src/engine/two_streams.h carries it out without reading anything twice.
// Limits: |phi| up to 2^31. Quality at small phi needs a model tuned for it.
// Rejected: interleaved positions, which shift the target whenever source arrives.
#include <cstdlib>

#include "position/plan.h"

namespace phasor {
namespace {

constexpr PositionTicks kMaxTargetStart = (int64_t{1} << 31) * kTicksPerPosition;

class GpePlan : public PositionPlan {
 public:
  explicit GpePlan(PositionTicks target_start) : start_{0, target_start} {}

  Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) override {
    const auto role = static_cast<std::size_t>(span.role);
    PHASOR_RETURN_IF_ERROR(CheckPlanLength("gpe", n_tokens_[role], span.n_tokens));
    AppendPositions(start_[role] + n_tokens_[role] * kTicksPerPosition, span.n_tokens, positions);
    n_tokens_[role] += span.n_tokens;
    last_role_ = role;
    return Status::Ok();
  }
  PositionTicks next_position() const override {
    return start_[last_role_] + n_tokens_[last_role_] * kTicksPerPosition;
  }
  bool Sees(const PlanSpan& query, const PlanSpan& key) const override {
    return query.role == StreamRole::kTarget || key.role == StreamRole::kSource;
  }

 private:
  PositionTicks start_[2];  // by role
  int64_t n_tokens_[2] = {};
  std::size_t last_role_ = 0;
};

Result<std::unique_ptr<PositionPlan>> Make(const PositionPlanOptions& options) {
  if (options.target_start < -kMaxTargetStart || options.target_start > kMaxTargetStart) {
    return InvalidArgument("gpe: expected a start of the target within 2^31 positions, found " +
                           std::to_string(options.target_start / kTicksPerPosition));
  }
  return std::unique_ptr<PositionPlan>(std::make_unique<GpePlan>(options.target_start));
}

}  // namespace

const PositionPlanInfo kGpePlan = {
    "gpe", "source from 0 and target from phi, each by itself, in any order of arrival",
    "Group Position Encoding, 2505.16983", Make};

}  // namespace phasor
