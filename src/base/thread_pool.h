// A fixed set of threads that run one function together, with low start latency.
//
// Decode runs about ten short parallel regions per layer, so workers spin for a short while before
// they sleep. The calling thread takes part as thread 0.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace phasor {

// Physical processors this process may use (affinity and cgroup aware as far as the system tells).
int DefaultThreadCount();

class ThreadPool {
 public:
  // n_threads >= 1; smaller values are taken as 1. Throws std::system_error, with all threads that
  // had started joined again, when the system gives no more: catch it at the module's border.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  // Runs fn(thread_index) on every thread, thread_index in [0, size()), and waits for all.
  // Not reentrant: fn must not call Run on the same pool.
  void Run(const std::function<void(int)>& fn);

  // The same without waiting for threads that have not started when fn(0) returns. For work that
  // fn(0) would finish alone because all threads draw from one list.
  void RunSharing(const std::function<void(int)>& fn);

  // Calls fn(begin, end) over [0, n) in pieces of at least `grain`; pieces are handed out
  // dynamically, so a thread that is slowed down by its neighbours takes fewer of them, and one
  // that has not started when the last piece is taken is not waited for.
  void ParallelFor(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn);

 private:
  void WorkerLoop(int index);
  void Stop();
  // Publishes a job under a new generation and wakes sleepers.
  void Open(const std::function<void(int)>& fn);
  // Waits until n_required workers have entered and all that entered have left; then no more may.
  void Close(uint64_t n_required);

  const int n_threads_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> generation_{0};
  // The door of the current job: generation (upper 32 bits), open flag, workers that entered,
  // workers inside. One word, so that a worker enters the job it saw or none.
  std::atomic<uint64_t> gate_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(int)>* job_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace phasor
