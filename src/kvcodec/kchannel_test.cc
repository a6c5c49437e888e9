#include "kvcodec/kchannel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/kvcodec.h"
#include "simd/cpu.h"
#include "tensor/half.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

// f32 sums of up to 256 terms, against the sum of magnitudes.
constexpr double kSumError = 1e-5;

std::unique_ptr<KvCodec> MakeCodec(const KvCodecInfo& info, int head_dim) {
  KvCodecParams params;
  params.head_dim = head_dim;
  auto codec = info.make(info.id, params);
  EXPECT_TRUE(codec.ok());
  return std::move(codec).value();
}

std::vector<float> RandomRows(int n, int head_dim, Rng* rng) {
  std::vector<float> x;
  for (int i = 0; i < n * head_dim; ++i) {
    x.push_back(static_cast<float>((i % head_dim % 5 == 0 ? 8 : 0) + rng->Normal()));
  }
  return x;
}

TEST(KChannel, ErrorsStayWithinHalfAStep) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(1);
    for (const KvCodecInfo* info : {&kInt4ChannelKvCodec, &kInt3ChannelKvCodec}) {
      const int levels = info == &kInt4ChannelKvCodec ? 15 : 7;
      for (int D : {1, 20, 64, 128}) {
        auto codec = MakeCodec(*info, D);
        for (int n : {128, 50, 1}) {
          const std::vector<float> x = RandomRows(n, D, &rng);
          AlignedBuffer<std::byte> page(codec->PageBytes());
          codec->EncodePage(x.data(), n, page.data());
          std::vector<float> back(x.size());
          codec->DecodePage(page.data(), n, back.data());
          for (int d = 0; d < D; ++d) {
            float low = x[d], high = x[d];
            for (int t = 0; t < n; ++t) {
              low = std::min(low, x[t * D + d]);
              high = std::max(high, x[t * D + d]);
            }
            // The grid starts up to one f16 step below `low` and its step is up to 2^-10 too wide.
            const double slack = std::fabs(low) * 0x1p-10 + 1e-6;
            const double half_step = 0.5 * (high - low + slack) / levels * (1 + 0x1p-10);
            for (int t = 0; t < n; ++t) {
              ASSERT_NEAR(back[t * D + d], x[t * D + d], half_step + 1e-5) << info->id << " " << d;
            }
          }
        }
      }
    }
  }
}

TEST(KChannel, ScoresAndSumsEqualThoseOfDecodedRows) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(2);
    for (const KvCodecInfo* info : {&kInt4ChannelKvCodec, &kInt3ChannelKvCodec}) {
      for (int D : {7, 64, 80, 128}) {
        for (int g : {1, 3, 9}) {
          auto codec = MakeCodec(*info, D);
          const int n = g == 3 ? 77 : kPageTokens;
          const std::vector<float> x = RandomRows(n, D, &rng), q = RandomRows(g, D, &rng);
          AlignedBuffer<std::byte> page(codec->PageBytes()), prepared(codec->PreparedQueryBytes(g));
          codec->EncodePage(x.data(), n, page.data());
          std::vector<float> back(x.size());
          codec->DecodePage(page.data(), n, back.data());
          codec->PrepareQuery(q.data(), g, prepared.data());
          AlignedBuffer<float> score(g * kPageTokens), weight(g * kPageTokens);
          for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(rng.Uniform());
          codec->ScorePage(prepared.data(), g, page.data(), n, score.data());
          std::vector<float> out(static_cast<size_t>(g) * D, 0.5f);
          codec->AccumulatePage(weight.data(), g, page.data(), n, out.data());
          for (int h = 0; h < g; ++h) {
            for (int t = 0; t < n; ++t) {
              double dot = 0, magnitude = 0;
              for (int d = 0; d < D; ++d) {
                dot += q[h * D + d] * back[t * D + d];
                // Codes count from the low end, so both parts belong to the magnitude.
                magnitude += std::fabs(q[h * D + d]) * (std::fabs(back[t * D + d]) + 8);
              }
              ASSERT_NEAR(score[h * kPageTokens + t], dot, kSumError * magnitude);
            }
            for (int d = 0; d < D; ++d) {
              double sum = 0.5, magnitude = 0.5;
              for (int t = 0; t < n; ++t) {
                sum += static_cast<double>(weight[h * kPageTokens + t]) * back[t * D + d];
                magnitude += weight[h * kPageTokens + t] * (std::fabs(back[t * D + d]) + 8);
              }
              ASSERT_NEAR(out[h * D + d], sum, kSumError * magnitude);
            }
          }
        }
      }
    }
  }
}

TEST(KChannel, AConstantChannelIsExactToItsSixteenBitStep) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    for (float value : {0.0f, 1.0f, -3.14159f, 1e-7f, -1e-7f, 65504.0f}) {
      auto codec = MakeCodec(kInt4ChannelKvCodec, 64);
      std::vector<float> x(kPageTokens * 64, value), back(x.size());
      AlignedBuffer<std::byte> page(codec->PageBytes());
      codec->EncodePage(x.data(), kPageTokens, page.data());
      codec->DecodePage(page.data(), kPageTokens, back.data());
      for (float b : back) ASSERT_NEAR(b, value, std::fabs(value) * 0x1p-10 + 6e-8);
    }
  }
}

TEST(KChannel, HostileRowsStayFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    for (float special : {std::numeric_limits<float>::quiet_NaN(), inf, -inf, 3e38f}) {
      Rng rng(3);
      auto codec = MakeCodec(kInt4ChannelKvCodec, 64);
      std::vector<float> x = RandomRows(kPageTokens, 64, &rng), back(x.size());
      for (int d = 0; d < 64; ++d) x[(d % 128) * 64 + d] = d % 2 ? special : -special;
      AlignedBuffer<std::byte> page(codec->PageBytes());
      codec->EncodePage(x.data(), kPageTokens, page.data());
      codec->DecodePage(page.data(), kPageTokens, back.data());
      for (float b : back) ASSERT_TRUE(std::isfinite(b));
    }
  }
}

TEST(KChannel, GridsAreRoundedOutwards) {
  Rng rng(4);
  for (int i = 0; i < 100000; ++i) {
    const float low = static_cast<float>(std::exp(4 * rng.Normal()) * rng.Normal());
    const float high = low + static_cast<float>(std::exp(4 * rng.Normal()));
    if (std::fabs(low) > 30000 || high > 30000) continue;
    const ChannelGrid grid = MakeChannelGrid(low, high, 4);
    EXPECT_LE(F16ToF32(grid.low), low);
    EXPECT_GE(F16ToF32(grid.low) + 15.0 * F16ToF32(grid.scale), high * (1 - 1e-6 * (high > 0)));
  }
}

TEST(KChannel, PageBytesAreTheWidthPlusAQuarterBit) {
  for (int D : {64, 128}) {
    EXPECT_EQ(MakeCodec(kInt4ChannelKvCodec, D)->PageBytes(), D * 128 * 17 / 32u);
    EXPECT_EQ(MakeCodec(kInt3ChannelKvCodec, D)->PageBytes(), D * 128 * 13 / 32u);
  }
}

}  // namespace
}  // namespace phasor
