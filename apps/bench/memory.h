// How fast this machine reads and copies memory with the engine's threads: the limit of decode,
// which reads every weight and every cached token once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
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

// The same plain reads in small doses, to be taken right beside what they are compared with: on a
// shared machine, memory gives twice as much in one second as in another.
class MemoryReader {
 public:
  // buffer_mib: as MemoryOptions has it, on huge pages where the system gives them. pool: reads,
  // and must outlive this. kResourceExhausted when the buffer cannot be had.
  static Result<std::unique_ptr<MemoryReader>> Make(int64_t buffer_mib, ThreadPool& pool);
  virtual ~MemoryReader() = default;
  // 10^9 bytes per second over the next part of the buffer, with or without prefetch instructions,
  // whichever is faster.
  virtual double Read() = 0;
};

}  // namespace phasor::bench
