// Making a calibration: reads a text with an f16 cache, looks at what the queries ask of every
// pair, and gives each pair of each KV head its width (kvcodec/width_allocation.h).
#pragma once

#include <atomic>
#include <functional>
#include <span>

#include "engine/engine.h"
#include "model/calibration.h"

namespace phasor {

struct CalibrateOptions {
  double bits_per_element = 4.2;  // of the keys, metadata included
  bool joint = false;             // one budget over all heads instead of one per head
  int n_sink = 4;                 // first tokens, which the cache keeps in 16 bit, are left out
  std::function<void(int64_t done, int64_t total)> on_progress;
  const std::atomic<bool>* cancel = nullptr;
};

// tokens: at least 256; 1,024 or more of ordinary text give a stable choice.
Result<Calibration> Calibrate(const LoadedModel& model, std::span<const int32_t> tokens,
                              const CalibrateOptions& options);

}  // namespace phasor
