#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <system_error>

namespace phasor {
namespace {

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 50 microseconds of spinning: longer than the serial gaps between two parallel regions of a
// decode step, short enough that an idle chat prompt does not burn a core.
constexpr int kSpinRounds = 20000;
// A region whose other threads are late by more than this gives its time slice away, so that an
// oversubscribed machine still makes progress.
constexpr int kSpinBeforeYield = 4000;

// Fields of the gate: inside in bits 0-15, entered in bits 16-30, open in bit 31.
constexpr int kEnteredShift = 16, kGenerationShift = 32;
constexpr uint64_t kInsideMask = 0x7fff, kOpen = uint64_t{1} << 31;
constexpr uint64_t kOneEntered = (uint64_t{1} << kEnteredShift) + 1;

}  // namespace

int DefaultThreadCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int n_threads) : n_threads_(std::max(1, n_threads)) {
  workers_.reserve(static_cast<std::size_t>(n_threads_ - 1));
  try {
    for (int i = 1; i < n_threads_; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
  } catch (const std::system_error&) {
    Stop();  // a thread that is destroyed while it runs ends the process
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::Open(const std::function<void(int)>& fn) {
  job_ = &fn;
  const uint64_t generation = generation_.load(std::memory_order_relaxed) + 1;
  gate_.store(generation << kGenerationShift | kOpen, std::memory_order_release);
  generation_.store(generation);
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
}

void ThreadPool::Close(uint64_t n_required) {
  int spins = 0;
  for (;;) {
    uint64_t gate = gate_.load(std::memory_order_acquire);
    if ((gate & kInsideMask) == 0 && (gate >> kEnteredShift & kInsideMask) >= n_required &&
        gate_.compare_exchange_strong(gate, gate & ~kOpen, std::memory_order_acquire)) {
      return;
    }
    if (n_required == 0) gate_.fetch_and(~kOpen, std::memory_order_relaxed);
    CpuRelax();
    if (++spins > kSpinBeforeYield) std::this_thread::yield();
  }
}

void ThreadPool::Run(const std::function<void(int)>& fn) {
  if (n_threads_ == 1) {
    fn(0);
    return;
  }
  Open(fn);
  fn(0);
  Close(static_cast<uint64_t>(n_threads_ - 1));
}

void ThreadPool::RunSharing(const std::function<void(int)>& fn) {
  if (n_threads_ == 1) {
    fn(0);
    return;
  }
  Open(fn);
  fn(0);
  Close(0);
}

void ThreadPool::WorkerLoop(int index) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen) {
      CpuRelax();
      if (++spins < kSpinRounds) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      sleepers_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    uint64_t gate = gate_.load(std::memory_order_acquire);
    bool entered = false;
    while (!entered && (gate & kOpen) != 0 && gate >> kGenerationShift == (seen & 0xffffffffu)) {
      entered = gate_.compare_exchange_weak(gate, gate + kOneEntered, std::memory_order_acquire);
    }
    if (!entered) continue;
    (*job_)(index);
    gate_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::ParallelFor(int64_t n, int64_t grain,
                             const std::function<void(int64_t, int64_t)>& fn) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (n_threads_ == 1 || n <= grain) {
    fn(0, n);
    return;
  }
  // Up to eight pieces per thread balance a busy neighbour at little cost.
  int64_t piece = std::max(grain, (n + n_threads_ * 8 - 1) / (n_threads_ * 8));
  std::atomic<int64_t> next{0};
  const std::function<void(int)> take_pieces = [&](int) {
    for (;;) {
      int64_t begin = next.fetch_add(piece, std::memory_order_relaxed);
      if (begin >= n) return;
      fn(begin, std::min(n, begin + piece));
    }
  };
  RunSharing(take_pieces);
}

}  // namespace phasor
