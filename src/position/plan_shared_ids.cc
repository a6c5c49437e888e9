// What: tokens of an image share positions: one per expert, one per row, or one each.
// Source: MouSi (2401.17221), which compresses the 4,096 positions of a 64 x 64 feature to 64 (a
//   position per row) or 1 (a position per expert).
// Deviations: the fourth scheme, a row position plus a learned column embedding, changes the
//   features and is not a matter of positions; no code was released, so the schemes follow the
//   text.
// Shapes: an image of e experts with n_rows x n_columns tokens each takes e n_rows n_columns,
//   e n_rows or e positions.
// Exact or approximate: exact. Neutral setting: one position per token equals sequential (test).
// Cost: as sequential.
// Limits: tokens at one position are told apart by their features alone, in no order.
// Rejected: nothing yet.
#include "position/plan.h"

namespace phasor {
namespace {

class SharedIdsPlan : public PositionPlan {
 public:
  explicit SharedIdsPlan(PositionSharing sharing) : sharing_(sharing) {}

  Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) override {
    PHASOR_RETURN_IF_ERROR(CheckPlanLength("shared_ids", n_tokens_, span.n_tokens));
    const bool image = span.kind == SpanKind::kImage;
    if (image && (span.n_rows < 1 || span.n_columns < 1)) {
      return InvalidArgument(
          "shared_ids: expected an image of at least one row and column, found " +
          std::to_string(span.n_rows) + " x " + std::to_string(span.n_columns));
    }
    const bool goes_on = image && in_image_ && span.image == image_;
    if (goes_on && (span.n_rows != n_rows_ || span.n_columns != n_columns_)) {
      return InvalidArgument("shared_ids: image " + std::to_string(span.image) + ": expected " +
                             std::to_string(n_rows_) + " x " + std::to_string(n_columns_) +
                             " as before, found " + std::to_string(span.n_rows) + " x " +
                             std::to_string(span.n_columns));
    }
    if (span.n_tokens == 0) return Status::Ok();
    if (!goes_on) {
      first_ = next_;
      done_ = 0;
    }
    const int64_t run = image ? RunLength(span) : 1;
    for (int64_t t = 0; t < span.n_tokens; ++t) {
      positions->push_back(first_ + done_++ / run * kTicksPerPosition);
    }
    next_ = positions->back() + kTicksPerPosition;
    in_image_ = image;
    image_ = span.image;
    n_rows_ = span.n_rows;
    n_columns_ = span.n_columns;
    n_tokens_ += span.n_tokens;
    return Status::Ok();
  }
  PositionTicks next_position() const override { return next_; }

 private:
  // Tokens at one position.
  int64_t RunLength(const PlanSpan& span) const {
    if (sharing_ == PositionSharing::kToken) return 1;
    if (sharing_ == PositionSharing::kRow) return span.n_columns;
    return static_cast<int64_t>(span.n_rows) * span.n_columns;
  }

  PositionSharing sharing_;
  PositionTicks next_ = 0;
  // The present image, or run of text: where it starts, and tokens of it so far.
  PositionTicks first_ = 0;
  int64_t done_ = 0;
  bool in_image_ = false;
  int64_t image_ = 0, n_tokens_ = 0;
  int n_rows_ = 1, n_columns_ = 1;
};

Result<std::unique_ptr<PositionPlan>> Make(const PositionPlanOptions& options) {
  return std::unique_ptr<PositionPlan>(std::make_unique<SharedIdsPlan>(options.sharing));
}

}  // namespace

const PositionPlanInfo kSharedIdsPlan = {
    "shared_ids", "tokens of an image share a position per expert or per row", "MouSi, 2401.17221",
    Make};

}  // namespace phasor
