#include "synth/random_blocks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "registry/weight_codec_table.h"

namespace phasor::synth {
namespace {

const WeightCodecInfo& Codec(DType dtype) {
  for (const WeightCodecInfo* w : WeightCodecs()) {
    if (w->dtype == dtype) return *w;
  }
  ADD_FAILURE() << "no decoder";
  return *WeightCodecs()[0];
}

TEST(RandomBlocks, EveryTypeDecodesToTheSpreadThatWasAskedFor) {
  constexpr int64_t kN = 256 * 1024;
  // The spread of scales adds 0.7 % of deviation; codes and their rounding to f16 stay below 1 %.
  constexpr double kSigmaTolerance = 0.02;
  // Five standard errors of the mean of kN weights.
  const double mean_tolerance = 5 / std::sqrt(static_cast<double>(kN));
  for (const DrawableType& type : DrawableTypes()) {
    for (float sigma : {0.5f, 0.0221f, 0.005f}) {
      Rng rng(3);
      std::vector<std::byte> blocks(RowBytes(type.dtype, kN));
      DrawWeights(type.dtype, sigma, kN, rng, blocks.data());
      std::vector<float> w(kN);
      Codec(type.dtype).decode(blocks.data(), kN, w.data());
      double sum = 0, sum2 = 0;
      for (float x : w) {
        ASSERT_TRUE(std::isfinite(x)) << type.name;
        sum += x;
        sum2 += static_cast<double>(x) * x;
      }
      EXPECT_NEAR(std::sqrt(sum2 / kN) / sigma, 1, kSigmaTolerance) << type.name << " " << sigma;
      // Blocks share the sign of their scale, so block means count as wholes: a wider bound.
      EXPECT_NEAR(sum / kN / sigma, 0, 2 * mean_tolerance) << type.name << " " << sigma;
    }
  }
}

TEST(RandomBlocks, TheSameSeedGivesTheSameBytes) {
  for (const DrawableType& type : DrawableTypes()) {
    std::vector<std::byte> a(RowBytes(type.dtype, 512)), b(a.size()), c(a.size());
    Rng one(5), same(5), other(6);
    DrawWeights(type.dtype, 1, 512, one, a.data());
    DrawWeights(type.dtype, 1, 512, same, b.data());
    DrawWeights(type.dtype, 1, 512, other, c.data());
    EXPECT_EQ(a, b) << type.name;
    EXPECT_NE(a, c) << type.name;
  }
}

}  // namespace
}  // namespace phasor::synth
