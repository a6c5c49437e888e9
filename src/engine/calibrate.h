// Making a calibration: reads a text with an f16 cache, looks at what the queries ask of every
// channel, and gives the channels or pairs of each KV head their widths
// (kvcodec/frame_allocation.h, kvcodec/width_allocation.h). By default an error of a score counts
// the same in every head; CalibrateByLoss measures what it does to the model's predictions, head by
// head (sensitivity.h), and shares the bits of keys and values by that.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/recall_text.h"
#include "engine/sensitivity.h"
#include "model/calibration.h"

namespace phasor {

struct CalibrateBudget {
  std::string codec;        // "frame4", "frame3" or "polar"
  double bits_per_element;  // of the keys, metadata included
};

// Together with the value codecs of 4.25 and 3.25 bits, sinks and window, a cache of 32k tokens
// takes at most 4.3 and 3.3 bits per element.
std::vector<CalibrateBudget> DefaultBudgets();

struct CalibrateOptions {
  std::vector<CalibrateBudget> budgets = DefaultBudgets();
  bool joint = true;  // one budget over all heads instead of one per head
  int n_sink = 4;     // first tokens, which the cache keeps in 16 bit, are left out
  std::function<void(int64_t done, int64_t total)> on_progress;
  const std::atomic<bool>* cancel = nullptr;
};

// tokens: at least 256; 1,024 or more of ordinary text give a stable choice.
Result<Calibration> Calibrate(const LoadedModel& model, std::span<const int32_t> tokens,
                              const CalibrateOptions& options);

// The sets of `widths`, a calibration of this model, with query moments and value directions
// measured on these tokens. Budgets and `joint` of the options are not used.
Result<Calibration> CalibrateAround(const LoadedModel& model, std::span<const int32_t> tokens,
                                    const CalibrateOptions& options, const Calibration& widths);

// What every KV head's loss costs, at about 3 bits: keys in the widths that equal importance gives
// them, values in 3 bits. [n_layers * n_kv_heads]
struct HeadLosses {
  std::vector<HeadLoss> keys, values;
};

// Widths for keys and values of frame4 with q4_head and of frame3 with q3_head, as many bits
// together as the budgets of Calibrate, and for the keys of polar. Budgets and `joint` of the
// options are not used. Reads the rest of the text once for each side of every head. losses (may be
// null): gets what was measured.
Result<Calibration> CalibrateByLoss(const LoadedModel& model, const RecallText& text,
                                    const CalibrateOptions& options, HeadLosses* losses);

}  // namespace phasor
