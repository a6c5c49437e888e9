// What: packed documents that see themselves and what they share; each starts at the same position.
// Source: the baseline "intra-document attention + reset" of AnchorAttention (2411.13476); in exact
//   arithmetic the same as reading every document by itself.
// Deviations: none. The shared text (document 0) may be empty or longer than one token.
// Shapes: document i's tokens at n_shared, n_shared + 1, ...; documents may come in pieces, in any
//   order.
// Exact or approximate: exact. Neutral setting: one document equals sequential (test).
// Cost: a document of n tokens attends to n (n + 1) / 2 + n n_shared pairs instead of all before
// it. Limits: the shared text comes first. Rejected: positions of a document that overlap the
// shared text's, which would put two keys at one
//   distance.
#include <map>

#include "position/plan.h"

namespace phasor {
namespace {

class DocumentResetPlan : public PositionPlan {
 public:
  Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) override {
    PHASOR_RETURN_IF_ERROR(CheckPlanLength("document_reset", n_tokens_, span.n_tokens));
    if (span.document == 0 && !lengths_.empty()) {
      return InvalidArgument(
          "document_reset: expected what all documents share (document 0) before the first of "
          "them, found it behind");
    }
    int64_t& length = span.document == 0 ? n_shared_ : lengths_[span.document];
    const int64_t first = length + (span.document == 0 ? 0 : n_shared_);
    AppendPositions(first * kTicksPerPosition, span.n_tokens, positions);
    length += span.n_tokens;
    n_tokens_ += span.n_tokens;
    next_ = (first + span.n_tokens) * kTicksPerPosition;
    return Status::Ok();
  }
  PositionTicks next_position() const override { return next_; }
  bool Sees(const PlanSpan& query, const PlanSpan& key) const override {
    return key.document == 0 || key.document == query.document;
  }

 private:
  int64_t n_shared_ = 0, n_tokens_ = 0;
  std::map<int, int64_t> lengths_;  // by document
  PositionTicks next_ = 0;
};

Result<std::unique_ptr<PositionPlan>> Make(const PositionPlanOptions&) {
  return std::unique_ptr<PositionPlan>(std::make_unique<DocumentResetPlan>());
}

}  // namespace

const PositionPlanInfo kDocumentResetPlan = {
    "document_reset", "packed documents apart from each other, each from the same position",
    "AnchorAttention's baseline, 2411.13476", Make};

}  // namespace phasor
