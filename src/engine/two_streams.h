// Source and target of a streamed task (simultaneous translation, live transcripts) in one session,
// by Group Position Encoding (2505.16983): both grow independently, source tokens never see the
// target, target tokens see the source that has arrived, and nothing is read twice.
//
// In the cache the source stands first and the target behind it, at positions of their own. When
// more source arrives, the target's span is taken off, the source is read on itself, and the span
// is put back as it was: O(pieces), no key changes. A target token thus keeps what it saw when it
// was read, as under the mask of the paper's batch form.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "contracts/position_plan.h"
#include "engine/engine.h"

namespace phasor {

class TwoStreams {
 public:
  // Takes an empty session. target_start: phi, the position of the first target token.
  // kInvalidArgument as the plan "gpe" gives it, and for a session that shifts its context.
  static Result<TwoStreams> Create(Session* session, PositionTicks target_start);

  // Reads more of one stream. Logits of the session are those of the newest target token as it was
  // read; after source tokens there are none until the next target token. An error or cancellation
  // may leave the first chunks of `tokens` read; both streams stay whole.
  // options.positions must be empty.
  Status Append(StreamRole role, std::span<const int32_t> tokens,
                const AppendOptions& options = {});

  int64_t n_source() const { return n_source_; }
  int64_t n_target() const { return session_->n_tokens() - n_source_; }
  Session& session() { return *session_; }

 private:
  TwoStreams(Session* session, PositionTicks target_start)
      : session_(session), target_start_(target_start) {}

  Session* session_;
  PositionTicks target_start_;
  int64_t n_source_ = 0;
};

// The order in which wait-k reads and writes: target token r (0 is the one that starts the target)
// is read when min(k + r, n_source) source tokens have been. The row that predicts a token is the
// one before it, so the first word written has seen k source tokens. [n_source + n_target]
std::vector<StreamRole> WaitKOrder(int64_t n_source, int64_t n_target, int64_t k);

}  // namespace phasor
