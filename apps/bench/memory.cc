#include "bench/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <system_error>

#include "base/cancel.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "bench/memory_kernels.h"

namespace phasor::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMib = int64_t{1} << 20;
constexpr int64_t kHugePageBytes = 2 * kMib;
constexpr int64_t kPieceBytes = 2 * kMib;            // what a thread takes at a time
constexpr std::size_t kPrefetchBytes[] = {0, 2048};  // how far ahead reads ask for lines

// Zeroed memory, touched by the pool's threads so that every page exists before anything is timed.
class Buffer {
 public:
  static Result<std::unique_ptr<Buffer>> Map(int64_t size_bytes, bool huge, ThreadPool& pool) {
    auto b = std::make_unique<Buffer>();
    b->mapped_bytes_ = static_cast<std::size_t>(size_bytes + kHugePageBytes);
    b->mapped_ = ::mmap(nullptr, b->mapped_bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->mapped_ == MAP_FAILED) {
      b->mapped_ = nullptr;
      return ResourceExhausted(
          fmt::format("memory: expected {} MiB for a buffer, found less", size_bytes / kMib));
    }
    const auto start = reinterpret_cast<uintptr_t>(b->mapped_);
    const uintptr_t aligned = (start + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    b->data_ = static_cast<std::byte*>(b->mapped_) + (aligned - start);
#if defined(MADV_HUGEPAGE)
    // Either advice may be refused, where the system has no huge pages or only such.
    (void)::madvise(b->data_, size_bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    std::byte* data = b->data_;
    pool.ParallelFor(size_bytes / kPieceBytes, 1, [data](int64_t begin, int64_t end) {
      for (int64_t at = begin * kPieceBytes; at < end * kPieceBytes; at += 8) {
        const auto word = static_cast<uint64_t>(at) * 0x9e3779b97f4a7c15u;
        std::memcpy(data + at, &word, sizeof(word));
      }
    });
    return b;
  }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (mapped_ != nullptr) ::munmap(mapped_, mapped_bytes_);
  }
  std::byte* data() { return data_; }

 private:
  void* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::byte* data_ = nullptr;
};

int64_t LastCacheBytes() {
  int64_t most = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  most = std::max<int64_t>(::sysconf(_SC_LEVEL2_CACHE_SIZE), ::sysconf(_SC_LEVEL3_CACHE_SIZE));
#endif
  return std::max<int64_t>(most, 0);
}

// Anonymous memory of this process on huge pages.
int64_t HugeBytes() {
  std::ifstream in("/proc/self/smaps_rollup");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("AnonHugePages:", 0) == 0) return std::stoll(line.substr(14)) * 1024;
  }
  return -1;
}

class Meter {
 public:
  Meter(const MemoryOptions& options, int64_t buffer_bytes, ProgressBar* bar)
      : options_(options), buffer_bytes_(buffer_bytes), bar_(bar) {}

  // pass(begin, end): the work of one pass on pieces [begin, end).
  Status Measure(MemoryRow row, int64_t moved_bytes, ThreadPool& pool,
                 const std::function<void(int64_t, int64_t)>& pass, std::vector<MemoryRow>* rows) {
    std::vector<double> gb_s;
    for (int i = 0; i < options_.n_passes; ++i) {
      if (InterruptFlag::flag().load()) return Cancelled("bench: stopped by Ctrl-C");
      const auto start = Clock::now();
      pool.ParallelFor(buffer_bytes_ / kPieceBytes, 1, pass);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      gb_s.push_back(static_cast<double>(moved_bytes) / seconds / 1e9);
      bar_->Set(++done_);
    }
    std::sort(gb_s.begin(), gb_s.end());
    row.best_gb_s = gb_s.back();
    row.median_gb_s = gb_s[gb_s.size() / 2];
    rows->push_back(row);
    return Status::Ok();
  }

 private:
  const MemoryOptions& options_;
  const int64_t buffer_bytes_;
  ProgressBar* bar_;
  int64_t done_ = 0;
};

Status MeasureReads(Meter& meter, int64_t size, bool huge, std::byte* data, ThreadPool& pool,
                    std::vector<MemoryRow>* rows) {
  const CpuLevel level = ActiveCpuLevel();
  std::vector<MemoryRow> found;
  std::atomic<uint64_t> sink{0};  // the sums are used, so no read can be left out
  for (std::size_t prefetch : kPrefetchBytes) {
    PHASOR_RETURN_IF_ERROR(meter.Measure(
        {"read", huge, pool.size(), 0, 0}, size, pool,
        [&](int64_t begin, int64_t end) {
          sink ^=
              ReadMemory(level, data + begin * kPieceBytes, (end - begin) * kPieceBytes, prefetch);
        },
        &found));
  }
  rows->push_back(found[0].best_gb_s >= found[1].best_gb_s ? found[0] : found[1]);
  return Status::Ok();
}

int64_t BufferBytes(int64_t buffer_mib) {
  const int64_t wanted = buffer_mib > 0
                             ? buffer_mib * kMib
                             : std::clamp(8 * LastCacheBytes(), 1024 * kMib, 4096 * kMib);
  return (wanted + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
}

Result<MemoryResult> Measure(const MemoryOptions& options) {
  MemoryResult result;
  result.last_cache_bytes = LastCacheBytes();
  const int64_t size = result.buffer_bytes = BufferBytes(options.buffer_mib);
  ThreadPool all(options.n_threads > 0 ? options.n_threads : DefaultThreadCount()), one(1);
  // Two kinds of pages, one thread and all, reads twice over (with and without prefetch), and the
  // copy.
  const int n_measures = all.size() > 1 ? 10 : 5;
  ProgressBar bar("memory", int64_t{n_measures} * options.n_passes, "passes");
  Meter meter(options, size, &bar);
  for (bool huge : {true, false}) {
    const int64_t huge_before = HugeBytes();
    PHASOR_ASSIGN_OR_RETURN(auto buffer, Buffer::Map(size, huge, all));
    if (huge) result.huge_bytes = huge_before < 0 ? -1 : HugeBytes() - huge_before;
    for (ThreadPool* pool : {&one, &all}) {
      if (pool == &one && all.size() == 1) continue;
      PHASOR_RETURN_IF_ERROR(MeasureReads(meter, size, huge, buffer->data(), *pool, &result.rows));
    }
    if (!huge) continue;
    PHASOR_ASSIGN_OR_RETURN(auto target, Buffer::Map(size, huge, all));
    for (ThreadPool* pool : {&one, &all}) {
      if (pool == &one && all.size() == 1) continue;
      PHASOR_RETURN_IF_ERROR(meter.Measure(
          {"copy", huge, pool->size(), 0, 0}, 2 * size, *pool,
          [&](int64_t begin, int64_t end) {
            CopyMemory(ActiveCpuLevel(), buffer->data() + begin * kPieceBytes,
                       target->data() + begin * kPieceBytes, (end - begin) * kPieceBytes);
          },
          &result.rows));
    }
  }
  return result;
}

class PieceReader : public MemoryReader {
 public:
  PieceReader(std::unique_ptr<Buffer> buffer, int64_t size, ThreadPool& pool)
      : buffer_(std::move(buffer)), n_pieces_(size / kPieceBytes), pool_(pool) {}

  double Read() override {
    double best = 0;
    for (std::size_t prefetch : kPrefetchBytes) {
      const int64_t n = std::min(kDosePieces, n_pieces_);
      const auto start = Clock::now();
      pool_.ParallelFor(n, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const std::byte* piece = buffer_->data() + (next_ + i) % n_pieces_ * kPieceBytes;
          sink_ ^= ReadMemory(level_, piece, kPieceBytes, prefetch);
        }
      });
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      best = std::max(best, static_cast<double>(n * kPieceBytes) / seconds / 1e9);
      next_ += n;
    }
    return best;
  }

 private:
  static constexpr int64_t kDosePieces = 64;
  const std::unique_ptr<Buffer> buffer_;
  const int64_t n_pieces_;
  ThreadPool& pool_;
  const CpuLevel level_ = ActiveCpuLevel();
  int64_t next_ = 0;
  std::atomic<uint64_t> sink_{0};  // the sums are used, so no read can be left out
};

}  // namespace

Result<std::unique_ptr<MemoryReader>> MemoryReader::Make(int64_t buffer_mib, ThreadPool& pool) {
  const int64_t size = BufferBytes(buffer_mib);
  PHASOR_ASSIGN_OR_RETURN(auto buffer, Buffer::Map(size, /*huge=*/true, pool));
  return std::unique_ptr<MemoryReader>(
      std::make_unique<PieceReader>(std::move(buffer), size, pool));
}

Result<MemoryResult> MeasureMemory(const MemoryOptions& options) {
  try {
    return Measure(options);
  } catch (const std::system_error& e) {
    return ResourceExhausted(std::string("threads: cannot start: ") + e.what());
  }
}

}  // namespace phasor::bench
