// Texts of several sessions read together, in passes of bounded size.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "engine/engine.h"

namespace phasor {

struct BatchedReadOptions {
  int n_batch = 512;                          // most tokens of a pass, over all sessions
  const std::atomic<bool>* cancel = nullptr;  // checked before every pass
  // As in AppendBatch; `index` counts within the item.
  std::function<void(int item, int64_t index, std::span<const float> logits)> on_logits = {};
};

// AppendBatch for items of any size: a pass takes tokens of the first items that are not through,
// so that weights are read once for n_batch tokens. Every session's logits() are those of its
// newest token afterwards. After an error or kCancelled some items hold a part of their tokens.
Status ReadBatched(std::span<const BatchAppend> items, const BatchedReadOptions& options);

}  // namespace phasor
