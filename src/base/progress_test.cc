#include "base/progress.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace phasor {
namespace {

using std::chrono::milliseconds;

TEST(Progress, LineShowsShareRateAndTimeLeft) {
  EXPECT_EQ(ProgressBar::Line("reading", 25, 100, "tokens", 5.0),
            "reading [######..................]  25 %  5 tokens/s  15 s left");
  EXPECT_EQ(ProgressBar::Line("x", 100, 100, "t", 10.0),
            "x [########################] 100 %  10 t/s  0 s left");
  EXPECT_EQ(ProgressBar::Line("get", 64 << 20, 128 << 20, "B", 2.0),
            "get [############............]  50 %  32 MiB/s  2 s left");
}

TEST(Progress, LongTimesUseMinutesAndHours) {
  EXPECT_NE(ProgressBar::Line("x", 1, 126, "t", 1.0).find("2:05 min left"), std::string::npos);
  EXPECT_NE(ProgressBar::Line("x", 1, 7261, "t", 1.0).find("2:01 h left"), std::string::npos);
}

TEST(Progress, OddCountsDoNotBreakTheLine) {
  std::string line = ProgressBar::Line("x", 0, 10, "t", 0.0);
  EXPECT_NE(line.find("  0 %"), std::string::npos);
  line = ProgressBar::Line("x", 12, 10, "t", 1.0);  // more done than expected
  EXPECT_NE(line.find("100 %"), std::string::npos);
  EXPECT_EQ(line.find('-'), std::string::npos) << line;
}

TEST(Progress, SilentWhenStderrIsNoTerminal) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar("x", 10, "t");
    std::this_thread::sleep_for(milliseconds(400));
    bar.Set(5);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, ShortWorkShowsNothing) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar("x", 10, "t", true);
    for (int i = 1; i <= 10; ++i) bar.Set(i);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, ForcedFromManyThreadsItDrawsWholeLinesAndWipesTheLast) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar("work", 4000, "t", true);
    std::this_thread::sleep_for(milliseconds(350));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 1000; ++i) bar.Set(i);
      });
    }
    for (auto& thread : threads) thread.join();
  }
  std::string text = testing::internal::GetCapturedStderr();
  const std::string wipe = "\r\033[K";
  ASSERT_TRUE(text.starts_with(wipe + "work [")) << text;
  EXPECT_TRUE(text.ends_with("left" + wipe)) << text;
  // At most ten draws per second: the loops above take far less than one.
  int draws = 0;
  for (std::size_t at = text.find("work"); at != std::string::npos;
       at = text.find("work", at + 1)) {
    ++draws;
  }
  EXPECT_LE(draws, 10);
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace phasor
