#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <numeric>
#include <system_error>

namespace phasor {
namespace {

TEST(ThreadPool, EveryIndexIsVisitedOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int64_t n : {0, 1, 7, 1000}) {
      std::vector<std::atomic<int>> hits(n);
      pool.ParallelFor(n, 3, [&](int64_t b, int64_t e) {
        for (int64_t i = b; i < e; ++i) hits[i].fetch_add(1);
      });
      for (auto& h : hits) EXPECT_EQ(h.load(), 1);
    }
  }
}

TEST(ThreadPool, RunReachesEveryThreadManyTimes) {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  for (int i = 0; i < 2000; ++i) pool.Run([&](int t) { sum.fetch_add(t >= 0 && t < 3 ? 1 : 0); });
  EXPECT_EQ(sum.load(), 6000);
}

TEST(ThreadPool, WorkersWakeAfterTheySlept) {
  ThreadPool pool(2);
  std::atomic<int> n{0};
  pool.Run([&](int) { n.fetch_add(1); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  pool.Run([&](int) { n.fetch_add(1); });
  EXPECT_EQ(n.load(), 4);
}

TEST(ThreadPool, ThreadsThatCannotStartAreAnErrorAndNoCrash) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's shadow memory does not fit a limit on address space";
#endif
  // In a child, because a lower limit on address space cannot be taken back by everyone.
  EXPECT_EXIT(
      {
        rlimit small = {};
        getrlimit(RLIMIT_AS, &small);
        small.rlim_cur = std::size_t{100} << 20;  // a dozen stacks of 8 MiB
        setrlimit(RLIMIT_AS, &small);
        try {
          ThreadPool pool(1000);
        } catch (const std::system_error&) {
          _exit(7);
        }
        _exit(8);
      },
      ::testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace phasor
