#include "base/median.h"

#include <gtest/gtest.h>

namespace phasor {
namespace {

TEST(Median, IsTheMiddleOrBetweenTwo) {
  EXPECT_EQ(Median({}), 0);
  EXPECT_EQ(Median({3}), 3);
  EXPECT_EQ(Median({5, 1}), 3);
  EXPECT_EQ(Median({9, -1, 4}), 4);
  EXPECT_EQ(Median({8, 1, 2, 4}), 3);
}

}  // namespace
}  // namespace phasor
