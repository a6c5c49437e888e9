#include "base/cancel.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

namespace phasor {
namespace {

class InterruptFlagTest : public testing::Test {
 protected:
  void SetUp() override {
    InterruptFlag::Install();
    InterruptFlag::Reset();
  }
  void TearDown() override {
    InterruptFlag::Reset();
    signal(SIGINT, SIG_DFL);
  }
};

TEST_F(InterruptFlagTest, InterruptSetsTheFlagAndTheProgramGoesOn) {
  EXPECT_FALSE(InterruptFlag::flag().load());
  raise(SIGINT);
  EXPECT_TRUE(InterruptFlag::flag().load());
  InterruptFlag::Reset();
  EXPECT_FALSE(InterruptFlag::flag().load());
}

TEST_F(InterruptFlagTest, AHandledInterruptDoesNotCountTowardsTheSecond) {
  for (int i = 0; i < 5; ++i) {
    raise(SIGINT);
    EXPECT_TRUE(InterruptFlag::flag().load());
    InterruptFlag::Reset();
  }
}

using InterruptFlagDeathTest = InterruptFlagTest;

TEST_F(InterruptFlagDeathTest, TwoUnhandledInterruptsEndTheProcessWith130) {
  EXPECT_EXIT(
      {
        raise(SIGINT);
        raise(SIGINT);
      },
      testing::ExitedWithCode(130), "");
}

TEST_F(InterruptFlagDeathTest, ALateSecondInterruptOnlySetsTheFlagAgain) {
  EXPECT_EXIT(
      {
        raise(SIGINT);
        std::this_thread::sleep_for(std::chrono::milliseconds(2100));
        raise(SIGINT);
        _exit(InterruptFlag::flag().load() ? 7 : 8);
      },
      testing::ExitedWithCode(7), "");
}

TEST_F(InterruptFlagTest, AWaitForInputIsInterrupted) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  pthread_t reader = pthread_self();
  std::thread sender([reader] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    pthread_kill(reader, SIGINT);
  });
  pollfd input = {ends[0], POLLIN, 0};
  EXPECT_EQ(poll(&input, 1, 10000), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_TRUE(InterruptFlag::flag().load());
  sender.join();
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace phasor
