// How long a saved session takes to come back from disk, beside reading its text again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::bench {

struct RestoreTimeOptions {
  std::vector<int64_t> depths = {8192, 32768};  // tokens of the saved sessions
  SessionOptions session;                       // n_ctx is set
  // How a session gets its tokens. prefill: all are read, and that is the time compared with.
  // synthetic: the cache is filled (synthetic_fill.h), and prefill time is the sum of chunks that
  // are read in the middle of four stretches of equal length. A chunk's time grows with its depth
  // at least linearly, so the sum is at most what a prefill takes.
  bool prefill = false;
  int n_rounds = 5;    // loads of each kind
  std::string folder;  // where the sessions are saved; made where missing
};

struct RestoreTime {
  int64_t n_tokens = 0;
  uint64_t file_bytes = 0;
  double prefill_ms = 0;
  bool prefill_measured = false;  // else a sum of chunks
  double save_ms = 0;
  // Medians. cold: the system was told to drop the file from its page cache before; cold_cached is
  // the share of the file that was in it all the same (the largest of the rounds; the device's own
  // caches are not seen). warm: right after.
  double cold_ms = 0, cold_worst_ms = 0, cold_cached = 0;
  double warm_ms = 0;
};

// Every load is checked against what was saved: tokens and logits, bit for bit (kInternal).
// Errors: those of Session::Append, Save and Load, kCancelled.
Result<std::vector<RestoreTime>> MeasureRestoreTime(const LoadedModel& model,
                                                    const RestoreTimeOptions& options);

// format: md, plain, csv, json or jsonl.
void PrintRestoreTimes(const std::vector<RestoreTime>& rows, const LoadedModel& model,
                       const RestoreTimeOptions& options, const std::string& cpu_name,
                       const std::string& format);

}  // namespace phasor::bench
