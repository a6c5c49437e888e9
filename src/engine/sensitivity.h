// How much the loss of a cache codec in one KV head changes what the model says.
//
// Measured, not derived: the keys and values of a text are put into a cache in which one head has
// the codec and all others 16 bits, the rest of the text is read on top of it, and what the model
// predicts is compared with the same over a cache of 16 bits alone. No gradients; one pass over the
// rest of the text per head and side.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "contracts/kv_codec.h"
#include "engine/engine.h"
#include "engine/recall_text.h"

namespace phasor {

// Mean KL divergence in nats over the counted tokens of a text.
struct HeadLoss {
  double recall = 0, prose = 0;
  // Mean log probability of the token that follows, in nats.
  double recall_logprob = 0, prose_logprob = 0;
};

// A codec in the place of 16 bits, made for that head and role.
struct HeadCodec {
  int layer = 0, head = 0;
  KvRole role = KvRole::kKey;
  std::unique_ptr<KvCodec> codec;
};

class SensitivityMeter {
 public:
  // Reads the text with 16 bits; `observer` (may be null) sees it once, from the first token to the
  // last.
  static Result<std::unique_ptr<SensitivityMeter>> Make(const LoadedModel& model, RecallText text,
                                                        const AttentionObserver* observer,
                                                        const std::atomic<bool>* cancel);
  ~SensitivityMeter();

  // The loss with these codecs; with none it is the floor.
  Result<HeadLoss> Measure(std::vector<HeadCodec> changed);

  // The values of the text's context, [n_context, D].
  std::span<const float> values(int layer, int head) const;

 private:
  struct Impl;
  explicit SensitivityMeter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace phasor
