// Documents packed into one sequence that see themselves and what they share, without a mask: each
// is read on a fork of the shared text, and the forks' spans are attached one behind the other. The
// keys and values are those of a masked pass over the whole sequence (AnchorAttention, 2411.13476,
// and its baseline with positions reset); pairs that a mask would forbid are never computed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "contracts/position_plan.h"
#include "engine/engine.h"

namespace phasor {

struct PackOptions {
  // One that keeps documents apart: "anchor" or "document_reset".
  PositionPlanOptions plan = {.id = "anchor"};
  // What all documents see: one token (BOS) for AnchorAttention; may be empty.
  std::span<const int32_t> anchor = {};
  const std::atomic<bool>* cancel = nullptr;
  // When set: called with the logits [vocab] of every token of every document.
  std::function<void(int document, int64_t index, std::span<const float> logits)> on_logits = {};
};

struct PackReport {
  int64_t n_tokens = 0;              // anchor and documents
  int64_t n_pairs = 0;               // (query, key) pairs attended per head
  std::vector<int64_t> first_token;  // of every document, in the session
  double milliseconds = 0;
};

// Reads the documents into an empty session; weights are read once for n_batch tokens of however
// many documents. Documents must hold at least one token (kInvalidArgument); a plan under which
// they see each other is kUnsupported. After an error the session is empty.
Result<PackReport> ReadPacked(std::span<const std::vector<int32_t>> documents,
                              const PackOptions& options, Session* session);

}  // namespace phasor
