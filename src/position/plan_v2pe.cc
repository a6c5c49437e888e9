// What: image tokens stand closer together than text tokens, so that many of them fit into the
//   positions a model was trained on.
// Source: V2PE (2412.09616) and its code: text advances by 1; a token of an image by
//   delta = stride / 256, stride one of 1, 2, 4 ... 256; after an image positions go on at
//   ceil(last) + 1 for text and ceil(last) + delta for another image.
// Deviations: positions are integers of 1/65536, where the released code has 32-bit floats, whose
//   steps of 1/256 vanish past position 65,536. The stride is one of the sequence; drawing one per
//   image (v2pe_rnd) belongs to training.
// Shapes: n tokens of an image take n stride / 256 positions, rounded up.
// Exact or approximate: exact to 2^40 tokens. Neutral setting: stride 256 equals sequential (test).
// Cost: as sequential.
// Limits: a model that was not tuned for it runs, but no gain is claimed. An image before any text
//   starts at delta - 1, as if a token at -1 had come before.
// Rejected: nothing yet.
#include "position/plan.h"

namespace phasor {
namespace {

constexpr int kStridesPerPosition = 256;

class V2pePlan : public PositionPlan {
 public:
  explicit V2pePlan(int stride) : step_(kTicksPerPosition / kStridesPerPosition * stride) {}

  Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) override {
    PHASOR_RETURN_IF_ERROR(CheckPlanLength("v2pe", n_tokens_, span.n_tokens));
    if (span.n_tokens == 0) return Status::Ok();
    const bool image = span.kind == SpanKind::kImage;
    const bool goes_on = image && in_image_ && span.image == image_;
    if (!goes_on) last_ = CeilPosition(last_);
    const PositionTicks step = image ? step_ : kTicksPerPosition;
    for (int64_t t = 0; t < span.n_tokens; ++t) positions->push_back(last_ += step);
    in_image_ = image;
    image_ = span.image;
    n_tokens_ += span.n_tokens;
    return Status::Ok();
  }
  PositionTicks next_position() const override { return CeilPosition(last_) + kTicksPerPosition; }

 private:
  PositionTicks step_;
  PositionTicks last_ = -kTicksPerPosition;
  bool in_image_ = false;
  int64_t image_ = 0, n_tokens_ = 0;
};

Result<std::unique_ptr<PositionPlan>> Make(const PositionPlanOptions& options) {
  const int stride = options.stride;
  if (stride < 1 || stride > kStridesPerPosition || (stride & (stride - 1)) != 0) {
    return InvalidArgument("v2pe: expected a stride of 1, 2, 4 ... 256, found " +
                           std::to_string(stride));
  }
  return std::unique_ptr<PositionPlan>(std::make_unique<V2pePlan>(stride));
}

}  // namespace

const PositionPlanInfo kV2pePlan = {"v2pe",
                                    "image tokens a fraction of a position apart, exact to 1/65536",
                                    "V2PE, 2412.09616", Make};

}  // namespace phasor
