#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/frame.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/kvcodec.h"
#include "simd/cpu.h"
#include "tensor/half.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

// f32 arithmetic of a few operations, against the magnitudes that enter it.
constexpr double kFloatError = 2e-6;
// A step of the 8-bit query is rounded by half, and by the rounding of its two factors to 2047 and
// 2032 steps, each worth half of 127 / 2032.
constexpr double kQueryRounding = 0.5 + 2 * 0.5 * 127.0 / 2032 + 0.01;

struct Kind {
  const KvCodecInfo* info;
  int bits;
};
const Kind kKinds[] = {{&kInt4ChannelKvCodec, 4}, {&kInt3ChannelKvCodec, 3}};

std::unique_ptr<KvCodec> MakeCodec(const KvCodecInfo& info, int head_dim) {
  KvCodecParams params;
  params.head_dim = head_dim;
  // What models have, and what must not matter here.
  params.n_rot = head_dim / 2 * 2;
  const std::vector<float> omega(static_cast<size_t>(head_dim / 2), 0.3f);
  params.omega_P = omega;
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

AlignedBuffer<std::byte> Encode(const KvCodec& codec, const std::vector<float>& x, int n) {
  AlignedBuffer<std::byte> page(codec.PageBytes());
  std::memset(page.data(), 0x5a, page.size());
  codec.EncodePage(x.data(), n, page.data());
  return page;
}

std::vector<float> Decode(const KvCodec& codec, const std::byte* page, int n, int head_dim) {
  std::vector<float> x(static_cast<size_t>(n * head_dim));
  codec.DecodePage(page, n, x.data());
  return x;
}

TEST(KChannel, ErrorsStayWithinHalfAStep) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(1);
    for (const Kind& kind : kKinds) {
      const int levels = (1 << kind.bits) - 1;
      for (int D : {1, 3, 20, 64, 128, 1023, 1024}) {
        auto codec = MakeCodec(*kind.info, D);
        for (int n : {128, 50, 1}) {
          const std::vector<float> x = RandomRows(n, D, &rng);
          const auto page = Encode(*codec, x, n);
          const std::vector<float> back = Decode(*codec, page.data(), n, D);
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
              ASSERT_NEAR(back[t * D + d], x[t * D + d], half_step + 1e-5)
                  << kind.info->id << " " << CpuLevelName(level) << " D " << D << " " << d;
            }
          }
        }
      }
    }
  }
}

// Sums of squares of what the codes and what the scoring add to scores.
struct ScoreErrors {
  double codes = 0, scoring = 0;
};

// Checks every score against the bound of an 8-bit query, and adds up errors.
void CheckScores(const Kind& kind, int D, const std::vector<float>& x, int n,
                 const std::vector<float>& q, int g, ScoreErrors* sum) {
  auto codec = MakeCodec(*kind.info, D);
  const auto page = Encode(*codec, x, n);
  const std::vector<float> back = Decode(*codec, page.data(), n, D);
  AlignedBuffer<std::byte> prepared(codec->PreparedQueryBytes(g));
  codec->PrepareQuery(q.data(), g, prepared.data());
  AlignedBuffer<float> score(static_cast<size_t>(g * kPageTokens));
  codec->ScorePage(prepared.data(), g, page.data(), n, score.data());
  std::vector<double> scale_D, low_D;
  for (int d = 0; d < D; ++d) {
    uint16_t half[2];
    std::memcpy(&half[0], page.data() + 2 * d, 2);
    std::memcpy(&half[1], page.data() + 2 * ((D + 3) / 4 * 4 + d), 2);
    scale_D.push_back(F16ToF32(half[0]));
    low_D.push_back(F16ToF32(half[1]));
  }
  for (int h = 0; h < g; ++h) {
    double unit = 0, magnitude = 0;
    for (int d = 0; d < D; ++d) {
      const double size = std::fabs(q[h * D + d]);
      unit = std::max(unit, size * scale_D[d] * 32768.0 / (2047.0 * 2032.0));
      magnitude += size * (std::fabs(low_D[d]) + scale_D[d] * (1 << kind.bits));
    }
    magnitude += unit * D;
    for (int t = 0; t < n; ++t) {
      double stored = 0, exact = 0, bound = kFloatError * magnitude;
      for (int d = 0; d < D; ++d) {
        const double value = back[t * D + d];
        stored += q[h * D + d] * value;
        exact += static_cast<double>(q[h * D + d]) * x[t * D + d];
        const double code = scale_D[d] > 0 ? std::nearbyint((value - low_D[d]) / scale_D[d]) : 0;
        bound += unit * kQueryRounding * std::fabs(code - (1 << (kind.bits - 1)));
      }
      const double error = score[h * kPageTokens + t] - stored;
      ASSERT_LE(std::fabs(error), bound) << kind.info->id << " D " << D << " g " << g << " n " << n;
      sum->codes += (stored - exact) * (stored - exact);
      sum->scoring += error * error;
    }
  }
}

TEST(KChannel, ScoresAddLittleToTheErrorOfTheCodes) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    SCOPED_TRACE(CpuLevelName(level));
    Rng rng(2);
    for (const Kind& kind : kKinds) {
      for (int D : {1, 7, 64, 80, 128, 1022}) {
        ScoreErrors sum;
        for (int g : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12}) {
          const int n = g % 3 == 0 ? 77 : kPageTokens;
          const std::vector<float> x = RandomRows(n, D, &rng);
          CheckScores(kind, D, x, n, RandomRows(g, D, &rng), g, &sum);
          if (HasFatalFailure()) return;
        }
        // More would get a second pass, in all pages together; with few channels the rounding of
        // the largest one is all there is, and far from its mean.
        if (D >= 64) {
          EXPECT_LE(sum.scoring, kFrameQueryError * sum.codes) << "D " << D;
        }
        if (level == CpuLevel::kScalar) {  // f32 sums of up to 1022 products of means of 8
          EXPECT_LE(sum.scoring, 1e-6 * sum.codes) << "D " << D;
        }
      }
    }
  }
}

// Keys have channels that are many times as strong as the rest.
TEST(KChannel, StrongChannelsAreMetByASecondPass) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    SCOPED_TRACE(CpuLevelName(level));
    Rng rng(3);
    for (const Kind& kind : kKinds) {
      for (int D : {64, 80, 256}) {
        ScoreErrors sum;
        for (int g : {1, 4, 7, 9}) {
          std::vector<float> x = RandomRows(kPageTokens, D, &rng), q = RandomRows(g, D, &rng);
          for (int t = 0; t < kPageTokens; ++t) x[t * D + 5] *= 40.0f;
          CheckScores(kind, D, x, kPageTokens, q, g, &sum);
          if (HasFatalFailure()) return;
        }
        EXPECT_LE(sum.scoring, kFrameQueryError * sum.codes) << kind.info->id << " D " << D;
      }
    }
  }
}

TEST(KChannel, PagesAreThoseOfAFrameThatStandsStill) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(4);
    for (const Kind& kind : kKinds) {
      for (int D : {7, 64, 100}) {
        auto codec = MakeCodec(*kind.info, D);
        const auto page = Encode(*codec, RandomRows(kPageTokens, D, &rng), kPageTokens);
        const std::vector<float> back = Decode(*codec, page.data(), kPageTokens, D);
        KvCodecParams params;
        params.head_dim = D;
        const std::vector<uint8_t> width_D(static_cast<size_t>(D), static_cast<uint8_t>(kind.bits));
        const FrameLayout layout = MakeFrameLayout(params, width_D);
        ASSERT_EQ(layout.page_bytes, codec->PageBytes());
        std::vector<float> frame(back.size());
        DecodeFrame(layout, page.data(), frame.data());
        for (int t = 0; t < kPageTokens; ++t) {
          for (int d = 0; d < D; ++d) {
            const float value = frame[d * kPageTokens + t];
            ASSERT_NEAR(back[t * D + d], value, kFloatError * (std::fabs(value) + 16))
                << CpuLevelName(level);
          }
        }
      }
    }
  }
}

TEST(KChannel, AConstantChannelIsExactToItsSixteenBitStep) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    for (const Kind& kind : kKinds) {
      for (float value : {0.0f, 1.0f, -3.14159f, 1e-7f, -1e-7f, 65504.0f, -65503.0f}) {
        auto codec = MakeCodec(*kind.info, 64);
        const std::vector<float> x(kPageTokens * 64, value);
        const auto page = Encode(*codec, x, kPageTokens);
        for (float b : Decode(*codec, page.data(), kPageTokens, 64)) {
          ASSERT_NEAR(b, value, std::fabs(value) * 0x1p-10 + 6e-8);
        }
      }
    }
  }
}

TEST(KChannel, HostileRowsStayFiniteAndCountAsWhatTheyStandFor) {
  const float inf = std::numeric_limits<float>::infinity();
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    for (float special : {std::numeric_limits<float>::quiet_NaN(), inf, -inf, 3e38f, -7e4f}) {
      Rng rng(5);
      auto codec = MakeCodec(kInt4ChannelKvCodec, 64);
      std::vector<float> x = RandomRows(kPageTokens, 64, &rng);
      for (int d = 0; d < 64; ++d) x[(d % 128) * 64 + d] = d % 2 ? special : -special;
      const auto page = Encode(*codec, x, kPageTokens);
      for (float b : Decode(*codec, page.data(), kPageTokens, 64)) ASSERT_TRUE(std::isfinite(b));
      for (float& v : x) v = std::isnan(v) ? 0 : std::clamp(v, -65504.0f, 65504.0f);
      const auto same = Encode(*codec, x, kPageTokens);
      ASSERT_EQ(std::memcmp(page.data(), same.data(), page.size()), 0) << CpuLevelName(level);
    }
  }
}

TEST(KChannel, GridsAreRoundedOutwards) {
  Rng rng(6);
  for (int i = 0; i < 100000; ++i) {
    const float low = static_cast<float>(std::exp(4 * rng.Normal()) * rng.Normal());
    const float high = low + static_cast<float>(std::exp(4 * rng.Normal()));
    if (std::fabs(low) > 30000 || high > 30000) continue;
    for (int bits : {3, 4}) {
      const FrameGrid grid = WholeFrameGrid(low, high, bits);
      EXPECT_LE(F16ToF32(grid.low), low);
      EXPECT_GE(F16ToF32(grid.low) + ((1 << bits) - 1.0) * F16ToF32(grid.scale),
                high * (1 - 1e-6 * (high > 0)));
    }
  }
  for (int bits : {3, 4}) {  // the widest range there is
    const FrameGrid grid = WholeFrameGrid(-65504.0f, 65504.0f, bits);
    EXPECT_EQ(F16ToF32(grid.low), -65504.0f);
    EXPECT_GE(F16ToF32(grid.low) + ((1 << bits) - 1.0) * F16ToF32(grid.scale), 65504.0);
  }
}

TEST(KChannel, PageBytesAreTheWidthPlusAQuarterBit) {
  for (int D : {64, 128}) {
    EXPECT_EQ(MakeCodec(kInt4ChannelKvCodec, D)->PageBytes(), D * 128 * 17 / 32u);
    EXPECT_EQ(MakeCodec(kInt3ChannelKvCodec, D)->PageBytes(), D * 128 * 13 / 32u);
  }
}

TEST(KChannel, ValuesAndOddHeadSizesAreClearErrors) {
  auto message = [](int head_dim, KvRole role) {
    KvCodecParams params;
    params.head_dim = head_dim;
    params.role = role;
    const auto made = kInt3ChannelKvCodec.make("int3_channel", params);
    return made.ok() ? std::string("ok") : std::string(made.status().message());
  };
  EXPECT_EQ(message(1, KvRole::kKey), "ok");
  EXPECT_EQ(message(1024, KvRole::kKey), "ok");
  EXPECT_EQ(message(64, KvRole::kValue),
            "int3_channel: expected keys, found values, which have no strong channels");
  EXPECT_EQ(message(0, KvRole::kKey), "int3_channel: expected a head size of 1 to 1024, found 0");
  EXPECT_EQ(message(1025, KvRole::kKey),
            "int3_channel: expected a head size of 1 to 1024, found 1025");
}

}  // namespace
}  // namespace phasor
