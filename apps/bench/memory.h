// How fast this machine reads and copies memory with the engine's threads: the limit of decode,
// which reads every weight and every cached token once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "phasor/status.h"

namespace phasor::bench {

struct MemoryOptions {
  int n_threads = 0;       // 0: DefaultThreadCount()
  int64_t buffer_mib = 0;  // 0: the larger of 1 GiB and 8 times the last cache, at most 4 GiB
  int n_passes = 5;        // over the whole buffer; the best counts
};

struct MemoryRow {
  std::string what;  // "read" or "copy"
  bool huge_pages;   // asked for; the system may give none
  int n_threads;
  double best_gb_s;  // 10^9 bytes per second; a copy counts what it reads and what it writes
  double median_gb_s;
};

struct MemoryResult {
  int64_t buffer_bytes = 0, last_cache_bytes = 0;
  int64_t huge_bytes = 0;  // of the buffer that really lies on huge pages; -1: unknown
  std::vector<MemoryRow> rows;
};

// kResourceExhausted when the buffers cannot be had, kCancelled after Ctrl-C.
Result<MemoryResult> MeasureMemory(const MemoryOptions& options);

}  // namespace phasor::bench
