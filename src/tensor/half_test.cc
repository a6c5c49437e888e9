#include "tensor/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace phasor {
namespace {

TEST(Half, EveryF16RoundTripsThroughFloat) {
  for (uint32_t h = 0; h < 65536; ++h) {
    float f = F16ToF32(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(f))));
    } else {
      EXPECT_EQ(F32ToF16(f), h) << f;
    }
  }
}

TEST(Half, EveryBf16RoundTripsThroughFloat) {
  for (uint32_t h = 0; h < 65536; ++h) {
    float f = Bf16ToF32(static_cast<uint16_t>(h));
    if (std::isnan(f)) continue;
    EXPECT_EQ(F32ToBf16(f), h);
  }
}

TEST(Half, RoundsToNearestEvenAndSaturatesToInfinity) {
  EXPECT_EQ(F32ToF16(1.0f + 0x1.0p-11f), 0x3c00);  // tie to even, down
  EXPECT_EQ(F32ToF16(1.0f + 0x1.8p-10f), 0x3c02);  // tie to even, up
  EXPECT_EQ(F32ToF16(65519.0f), 0x7bff);           // below the halfway point
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);           // halfway rounds to infinity
  EXPECT_EQ(F32ToF16(0x1.0p-25f), 0x0000);         // tie to even at zero
  EXPECT_EQ(F32ToF16(0x1.8p-24f), 0x0002);         // subnormal tie
  EXPECT_EQ(F32ToF16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(F32ToBf16(1.0f + 0x1.0p-8f), 0x3f80);
}

}  // namespace
}  // namespace phasor
