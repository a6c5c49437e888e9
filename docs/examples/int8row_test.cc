// What a codec's own test holds: its error bound, its neutral setting, and that scores and sums are
// those of the decoded numbers. Everything every codec promises is in the contract tests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "contracts/kv_codec.h"

namespace phasor {

extern const KvCodecInfo kInt8RowKvCodec;

namespace {

constexpr int kDim = 64;
constexpr int kTokens = 100;  // a short page

std::unique_ptr<KvCodec> Make() {
  KvCodecParams params;
  params.head_dim = kDim;
  auto codec = kInt8RowKvCodec.make("int8row", params);
  EXPECT_TRUE(codec.ok()) << codec.status().message();
  return std::move(codec).value();
}

// Waves of different size per token; no token is all zero but the first.
std::vector<float> Rows() {
  std::vector<float> x(kTokens * kDim);
  for (int t = 0; t < kTokens; ++t) {
    for (int d = 0; d < kDim; ++d) x[t * kDim + d] = 0.3f * t * std::sin(1.0f + d * (t + 1));
  }
  return x;
}

TEST(Int8Row, ErrorIsAtMostHalfAStep) {
  auto codec = Make();
  std::vector<std::byte> page(codec->PageBytes());
  const std::vector<float> x = Rows();
  std::vector<float> y(x.size());
  codec->EncodePage(x.data(), kTokens, page.data());
  codec->DecodePage(page.data(), kTokens, y.data());
  for (int t = 0; t < kTokens; ++t) {
    float max = 0;
    for (int d = 0; d < kDim; ++d) max = std::max(max, std::abs(x[t * kDim + d]));
    // The step is max/127 rounded up to f16 (at most 2^-10 of itself), half of it is the bound;
    // 1e-6 * max is the rounding of the two float operations.
    const float bound = max / 127 * (1 + 0x1p-10f) / 2 + 1e-6f * max;
    for (int d = 0; d < kDim; ++d) {
      ASSERT_LE(std::abs(x[t * kDim + d] - y[t * kDim + d]), bound) << "token " << t;
    }
  }
}

TEST(Int8Row, NeutralSettingIsExact) {
  auto codec = Make();
  std::vector<std::byte> page(codec->PageBytes());
  std::vector<float> x(kDim), y(kDim);
  for (int d = 0; d < kDim; ++d) x[d] = static_cast<float>((d * 37) % 255 - 127);
  x[5] = 127;  // makes the scale 1
  codec->EncodePage(x.data(), 1, page.data());
  codec->DecodePage(page.data(), 1, y.data());
  EXPECT_EQ(x, y);
}

TEST(Int8Row, ScoresAndSumsAreThoseOfTheDecodedRows) {
  auto codec = Make();
  std::vector<std::byte> page(codec->PageBytes());
  const std::vector<float> x = Rows();
  std::vector<float> y(x.size());
  codec->EncodePage(x.data(), kTokens, page.data());
  codec->DecodePage(page.data(), kTokens, y.data());

  constexpr int kGroup = 3;
  std::vector<float> q(kGroup * kDim), score(kGroup * kPageTokens), out(kGroup * kDim, 1.0f);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::cos(0.7f * static_cast<float>(i));
  std::vector<std::byte> prepared(codec->PreparedQueryBytes(kGroup));
  codec->PrepareQuery(q.data(), kGroup, prepared.data());
  codec->ScorePage(prepared.data(), kGroup, page.data(), kTokens, score.data());
  std::vector<float> weight(kGroup * kPageTokens, 0.25f);
  codec->AccumulatePage(weight.data(), kGroup, page.data(), kTokens, out.data());

  for (int i = 0; i < kGroup; ++i) {
    for (int t = 0; t < kTokens; ++t) {
      double expected = 0, magnitude = 0;
      for (int d = 0; d < kDim; ++d) {
        const double product = double{q[i * kDim + d]} * y[t * kDim + d];
        expected += product;
        magnitude += std::abs(product);
      }
      // 64 float additions, each off by at most 2^-24 of the sum of magnitudes.
      EXPECT_NEAR(score[i * kPageTokens + t], expected, (kDim + 2) * 0x1p-24 * magnitude);
    }
    for (int d = 0; d < kDim; ++d) {
      double expected = 1, magnitude = 1;
      for (int t = 0; t < kTokens; ++t) {
        expected += 0.25 * y[t * kDim + d];
        magnitude += std::abs(0.25 * y[t * kDim + d]);
      }
      EXPECT_NEAR(out[i * kDim + d], expected, (kTokens + 2) * 0x1p-24 * magnitude);
    }
  }
}

TEST(Int8Row, HostileNumbersStayFinite) {
  auto codec = Make();
  std::vector<std::byte> page(codec->PageBytes());
  std::vector<float> x(kDim, 1.0f), y(kDim);
  x[0] = std::numeric_limits<float>::quiet_NaN();
  x[1] = std::numeric_limits<float>::infinity();
  x[2] = -std::numeric_limits<float>::max();
  codec->EncodePage(x.data(), 1, page.data());
  codec->DecodePage(page.data(), 1, y.data());
  EXPECT_EQ(y[0], 0.0f);
  // 65504 / 127 rounded up to f16 is 516, and 127 * 516 is the nearest code: within half a step.
  EXPECT_NEAR(y[1], 65504.0f, 516.0f / 2);
  EXPECT_EQ(y[2], -y[1]);
}

TEST(Int8Row, NominalBitsAreThePagesBits) {
  EXPECT_DOUBLE_EQ(Make()->PageBytes() * 8.0 / (kPageTokens * kDim),
                   kInt8RowKvCodec.nominal_bits_64);
}

}  // namespace
}  // namespace phasor
