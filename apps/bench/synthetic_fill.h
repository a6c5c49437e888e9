// Fills a session's cache to a depth without computing the model at every token, so that decode
// speed at 128k tokens can be measured in seconds.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::bench {

struct SyntheticFillOptions {
  int64_t n_tokens = 0;  // that the cache holds at the end; it must be empty before
  uint64_t seed = 1;
  std::function<void(int64_t done, int64_t total)> on_progress;  // in tokens; may be empty
  const std::atomic<bool>* cancel = nullptr;
};

// The first tokens (256, or all where there are fewer) are random ids that the model really reads.
// Mean and deviation of every channel of their keys (after RoPE) and values, per layer and KV head,
// are those of the normal numbers that make up all further rows. These take the cache's own way: as
// rows into the 16-bit window, from there page by page through the codecs. What the session says
// about its tokens (ids, logits) is meaningless afterwards.
// Errors: those of Session::Append and KvCache::Reserve, kCancelled.
Status FillSynthetic(Session& session, const SyntheticFillOptions& options);

}  // namespace phasor::bench
