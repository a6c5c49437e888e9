// What: packed documents that see themselves and a shared first token; positions go on over all of
//   them, and only the anchor stands at 0.
// Source: AnchorAttention (2411.13476): key k is seen by query q where k <= q and
//   doc(k) = doc(q) or doc(k) = 0; the released code puts the anchor before every document and
//   forces its position to 0, which is the same because the anchor sees itself alone.
// Deviations: none; the anchor may be more than one token. What the paper gains by training with it
//   is not claimed for a model that was not.
// Shapes: token t of the sequence at position t.
// Exact or approximate: exact. Neutral setting: one document equals sequential (test).
// Cost: sum of n_i (n_i + 1) / 2 + n_i pairs, plus one for an anchor of one token.
// Limits: the anchor comes first.
// Rejected: interleaving chunks of documents, which hurt in the paper.
#include "position/plan.h"

namespace phasor {
namespace {

class AnchorPlan : public PositionPlan {
 public:
  Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) override {
    PHASOR_RETURN_IF_ERROR(CheckPlanLength("anchor", n_tokens_, span.n_tokens));
    if (span.document == 0 && has_documents_) {
      return InvalidArgument(
          "anchor: expected the anchor (document 0) before the first document, found it behind");
    }
    has_documents_ = has_documents_ || span.document != 0;
    AppendPositions(next_position(), span.n_tokens, positions);
    n_tokens_ += span.n_tokens;
    return Status::Ok();
  }
  PositionTicks next_position() const override { return n_tokens_ * kTicksPerPosition; }
  bool Sees(const PlanSpan& query, const PlanSpan& key) const override {
    return key.document == 0 || key.document == query.document;
  }

 private:
  int64_t n_tokens_ = 0;
  bool has_documents_ = false;
};

Result<std::unique_ptr<PositionPlan>> Make(const PositionPlanOptions&) {
  return std::unique_ptr<PositionPlan>(std::make_unique<AnchorPlan>());
}

}  // namespace

const PositionPlanInfo kAnchorPlan = {
    "anchor", "packed documents apart from each other on a shared first token, positions go on",
    "AnchorAttention, 2411.13476", Make};

}  // namespace phasor
