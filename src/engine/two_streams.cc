#include "engine/two_streams.h"

#include <algorithm>

#include "base/check.h"
#include "registry/position_plan_table.h"

namespace phasor {

Result<TwoStreams> TwoStreams::Create(Session* session, PositionTicks target_start) {
  PHASOR_CHECK(session->n_tokens() == 0);
  if (session->options().context_shift) {
    return InvalidArgument("streams: expected a session without context shift, found one with it");
  }
  const Status valid = MakePositionPlan({.id = "gpe", .target_start = target_start}).status();
  if (!valid.ok()) return valid;
  return TwoStreams(session, target_start);
}

Status TwoStreams::Append(StreamRole role, std::span<const int32_t> tokens,
                          const AppendOptions& options) {
  PHASOR_CHECK(options.positions.empty());
  const bool source = role == StreamRole::kSource;
  const auto n = static_cast<int64_t>(tokens.size());
  if (session_->n_tokens() + n > session_->n_ctx()) {
    return OutOfRange("streams: expected at most " + std::to_string(session_->n_ctx()) +
                      " tokens, found " + std::to_string(session_->n_tokens() + n));
  }
  std::vector<PositionTicks> positions;
  const PositionTicks first =
      (source ? n_source_ : n_target()) * kTicksPerPosition + (source ? 0 : target_start_);
  for (int64_t t = 0; t < n; ++t) positions.push_back(first + t * kTicksPerPosition);
  AppendOptions append = options;
  append.positions = positions;
  if (!source || n_target() == 0) {
    const int64_t before = session_->n_tokens();
    const Status status = session_->Append(tokens, append);
    if (source) n_source_ += session_->n_tokens() - before;
    return status;
  }
  PHASOR_ASSIGN_OR_RETURN(const TextSpan target, session_->Slice(n_source_, session_->n_tokens()));
  PHASOR_RETURN_IF_ERROR(session_->Pin(n_source_, session_->n_tokens(), false));
  PHASOR_RETURN_IF_ERROR(session_->Truncate(n_source_));
  const Status status = session_->Append(tokens, append);
  n_source_ = session_->n_tokens();
  // There is room, and the span is of the session's own store: this cannot fail.
  const Status back = session_->Attach(
      target, {.position = target_start_, .same_left_context = true, .keep_pinned = true});
  PHASOR_CHECK(back.ok());
  return status;
}

std::vector<StreamRole> WaitKOrder(int64_t n_source, int64_t n_target, int64_t k) {
  std::vector<StreamRole> order;
  int64_t read = 0;
  const auto read_to = [&](int64_t n) {
    for (; read < std::clamp<int64_t>(n, 0, n_source); ++read) {
      order.push_back(StreamRole::kSource);
    }
  };
  for (int64_t r = 0; r < n_target; ++r) {
    read_to(k + r);
    order.push_back(StreamRole::kTarget);
  }
  read_to(n_source);
  return order;
}

}  // namespace phasor
