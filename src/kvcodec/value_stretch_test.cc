#include "kvcodec/value_stretch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"
#include "kvcodec/searched_rows.h"
#include "simd/cpu.h"
#include "tensor/half.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

constexpr int kHeadDims[] = {2, 9, 64, 80, 128};

struct Example {
  int D;
  std::vector<float> direction_ND, factor_N;

  KvCodecParams Params() const {
    KvCodecParams params;
    params.head_dim = D;
    params.role = KvRole::kValue;
    params.direction_ND = direction_ND;
    params.factor_N = factor_N;
    return params;
  }
  ValueStretch Make() const {
    auto made = ValueStretch::Make("q4_head", Params());
    EXPECT_TRUE(made.ok()) << made.status().message();
    return std::move(made).value();
  }
  std::unique_ptr<KvCodec> Codec(const KvCodecInfo& info) const {
    auto made = info.make(info.id, Params());
    EXPECT_TRUE(made.ok()) << made.status().message();
    return std::move(made).value();
  }
};

Example RandomExample(int D, int n, Rng* rng) {
  Example e = {D, {}, {}};
  for (int i = 0; i < n * D; ++i) e.direction_ND.push_back(static_cast<float>(rng->Normal()));
  for (int i = 0; i < n; ++i) e.factor_N.push_back(static_cast<float>(0.2 + 0.8 * rng->Uniform()));
  return e;
}

std::vector<float> RandomRows(int n, int D, Rng* rng) {
  std::vector<float> x(static_cast<size_t>(n * D));
  for (float& v : x) v = static_cast<float>(rng->Normal());
  return x;
}

double Dot(const float* a, const float* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Sums of f32 over D numbers of about 1, through up to 5 directions.
constexpr double kFloatError = 2e-5;

TEST(ValueStretch, TheWayBackIsExactAndRowsShrinkAlongTheDirections) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(1);
    for (int D : kHeadDims) {
      const Example e = RandomExample(D, std::min(D, 5), &rng);
      const ValueStretch s = e.Make();
      const std::vector<float> x = RandomRows(3, D, &rng);
      std::vector<float> y = x;
      s.Apply(y.data(), 3);
      // The first direction is taken as it is.
      const double length = std::sqrt(Dot(e.direction_ND.data(), e.direction_ND.data(), D));
      for (int i = 0; i < 3; ++i) {
        EXPECT_NEAR(Dot(&y[i * D], e.direction_ND.data(), D) / length,
                    e.factor_N[0] * Dot(&x[i * D], e.direction_ND.data(), D) / length,
                    kFloatError * std::sqrt(D))
            << CpuLevelName(level) << " D " << D;
      }
      s.Undo(y.data(), 3);
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(y[i], x[i], kFloatError) << CpuLevelName(level) << " D " << D;
      }
    }
  }
}

// The squared length of an error on the way back is what Weigh says, and feedback is what makes it
// least: residuals with these weights are what is left when everything behind may follow.
TEST(ValueStretch, FeedbackIsWhatTheErrorOnTheWayBackAsksFor) {
  Rng rng(2);
  for (int D : kHeadDims) {
    const Example e = RandomExample(D, std::min(D - 1, 4), &rng);
    const ValueStretch s = e.Make();
    const auto codec = e.Codec(kQ4HeadKvCodec);
    // Errors from residuals: e_c = u_c + sum_r weight[c][r] u_r.
    std::vector<double> cost;  // of a residual of one channel alone, pairwise products
    std::vector<std::vector<float>> error(static_cast<size_t>(D), std::vector<float>(D));
    for (int r = 0; r < D; ++r) {
      error[r][r] = 1;
      for (int c = r + 1; c < D; ++c) error[r][c] = s.feedback()[c * D + r];
    }
    for (int r = 0; r < D; ++r) {
      std::vector<float> weighed(static_cast<size_t>(D)), back = error[r];
      s.Weigh(error[r].data(), weighed.data());
      codec->Unrotate(back.data(), 1);
      const double cost_of_one = Dot(error[r].data(), weighed.data(), D);
      EXPECT_NEAR(Dot(back.data(), back.data(), D), cost_of_one, 1e-3 * cost_of_one) << "D " << D;
      // Residuals of different channels do not add to each other: that is what makes each of them
      // the least there is.
      for (int c = 0; c < r; ++c) {
        EXPECT_NEAR(Dot(error[c].data(), weighed.data(), D), 0, 1e-3 * cost_of_one) << "D " << D;
      }
    }
  }
}

// 16 rows with steps and books; row 3 has no step.
struct RandomStrip {
  std::vector<float> x, residual, level_DT;
  std::vector<uint8_t> codes;
  float step[kStripTokens];
  uint8_t book[kStripTokens];
};

RandomStrip MakeRandomStrip(int D, const IntLevels& levels, Rng* rng) {
  RandomStrip s;
  s.x = RandomRows(D, kStripTokens, rng);
  s.residual.resize(s.x.size());
  s.level_DT.resize(s.x.size());
  s.codes.resize(s.x.size());
  for (int t = 0; t < kStripTokens; ++t) {
    s.book[t] = static_cast<uint8_t>(rng->Below(1u << levels.book_bits));
    s.step[t] = static_cast<float>((rng->Below(2) == 0 ? -1 : 1) * (0.03 + 0.02 * rng->Uniform()));
  }
  s.step[3] = 0;
  return s;
}

void CheckRounded(const RandomStrip& s, int D, const std::vector<float>& weight,
                  const IntLevels& levels) {
  constexpr int kLanes = kStripTokens;
  const int n_codes = 1 << levels.bits;
  for (int t = 0; t < kLanes; ++t) {
    std::vector<double> left(static_cast<size_t>(D));
    const int8_t* level_of_code = levels.level + (s.book[t] << levels.bits);
    for (int c = 0; c < D && t != 3; ++c) {
      double target = s.x[c * kLanes + t], magnitude = std::fabs(target);
      for (int r = 0; r < c; ++r) {
        target += weight[c * D + r] * left[r];
        magnitude += std::fabs(weight[c * D + r] * left[r]);
      }
      double best = INFINITY;
      for (int i = 0; i < n_codes; ++i) {
        best = std::min(best, std::fabs(target / s.step[t] - level_of_code[i]));
      }
      const int code = s.codes[c * kLanes + t];
      ASSERT_LT(code, n_codes);
      // Beyond 64 levels all are cut to the same.
      if (std::fabs(target / s.step[t]) < 63) {
        ASSERT_LE(std::fabs(target / s.step[t] - level_of_code[code]), best + 0.26)
            << CpuLevelName(ActiveCpuLevel()) << " D " << D << " channel " << c;
      }
      ASSERT_EQ(s.level_DT[c * kLanes + t], level_of_code[code]);
      left[c] = s.step[t] * level_of_code[code] - target;
      // f32 sums of up to D numbers.
      ASSERT_NEAR(s.residual[c * kLanes + t], left[c], 1e-5 * (magnitude + 2))
          << CpuLevelName(ActiveCpuLevel()) << " D " << D << " channel " << c;
    }
    for (int c = 0; c < D && t == 3; ++c) {
      EXPECT_EQ(s.residual[c * kLanes + t], 0.0f);
      EXPECT_EQ(s.codes[c * kLanes + t], 0);
    }
  }
}

// Every number takes its nearest level after the residuals in front of it, up to the quarters of a
// level that tables know; residuals are what was stored minus what was rounded.
TEST(ValueStretch, EveryLevelRoundsWhatTheFeedbackAsksFor) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(3);
    for (int D : kHeadDims) {
      for (const IntLevels* levels : {&kLevelsSearched4, &kLevelsSearched3}) {
        std::vector<float> weight = RandomRows(D, D, &rng);
        for (float& w : weight) w *= 0.2f;
        // Strips by themselves and two at a time.
        for (int n_strips = 1; n_strips <= kMostStrips; ++n_strips) {
          std::vector<RandomStrip> strips;
          for (int i = 0; i < n_strips; ++i) strips.push_back(MakeRandomStrip(D, *levels, &rng));
          std::vector<FeedbackStrip> jobs;
          for (RandomStrip& s : strips) {
            jobs.push_back({s.x.data(), D, weight.data(), s.step, &NearestTablesOf(*levels), s.book,
                            s.residual.data(), s.level_DT.data(), s.codes.data()});
          }
          FeedBackStrips(jobs);
          for (const RandomStrip& s : strips) CheckRounded(s, D, weight, *levels);
        }
      }
    }
  }
}

TEST(ValueStretch, StoredRowsAreAsLongAsTheRowsWhereErrorsCount) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(7);
    for (int D : kHeadDims) {
      for (const KvCodecInfo* info : {&kQ4HeadKvCodec, &kQ3HeadKvCodec}) {
        const Example e = RandomExample(D, std::min(D, 5), &rng);
        const ValueStretch s = e.Make();
        const auto codec = e.Codec(*info);
        const int n = 1 + static_cast<int>(rng.Below(kPageTokens));
        std::vector<float> x = RandomRows(n, D, &rng), stored(x.size());
        codec->Rotate(x.data(), n);
        AlignedBuffer<std::byte> page(codec->PageBytes());
        codec->EncodePage(x.data(), n, page.data());
        codec->DecodePage(page.data(), n, stored.data());
        const int book_bits = info == &kQ4HeadKvCodec ? 1 : 2;
        for (int t = 0; t < n; ++t) {
          std::vector<float> weighed(static_cast<size_t>(D));
          s.Weigh(&x[t * D], weighed.data());
          const double want = Dot(&x[t * D], weighed.data(), D);
          const double got = Dot(&stored[t * D], weighed.data(), D);
          // The scale has 11 bits, and the low ones are the number of the book.
          EXPECT_NEAR(got, want, want * std::ldexp(1.0, book_bits - 11))
              << CpuLevelName(level) << " D " << D;
        }
      }
    }
  }
}

// Mean squared error of values that lie mostly in few directions, on the way back.
double MeanError(const KvCodecInfo& info, const Example& e, const std::vector<float>& x_ND) {
  const auto codec = e.Codec(info);
  const int n = kPageTokens;
  std::vector<float> y = x_ND, stored(x_ND.size());
  codec->Rotate(y.data(), n);
  AlignedBuffer<std::byte> page(codec->PageBytes());
  codec->EncodePage(y.data(), n, page.data());
  codec->DecodePage(page.data(), n, stored.data());
  codec->Unrotate(stored.data(), n);
  double sum = 0;
  for (size_t i = 0; i < x_ND.size(); ++i) {
    sum += (static_cast<double>(stored[i]) - x_ND[i]) * (stored[i] - x_ND[i]);
  }
  return sum / static_cast<double>(x_ND.size());
}

// Eight channels of 64 hold 0.8 of the square. Rounding alike in all directions costs in proportion
// to the mean of the moments (1); bits that follow them would cost their geometric mean,
// 6.4^(1/8) 0.229^(7/8) = 0.35. At least four tenths of the way are asked for.
TEST(ValueStretch, ErrorsFallWhereValuesFavourDirections) {
  constexpr int D = 64, kStrong = 8;
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(4);
    const double strong = 0.8 * D / kStrong, weak = 0.2 * D / (D - kStrong);
    std::vector<float> x = RandomRows(kPageTokens, D, &rng);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] *= static_cast<float>(std::sqrt(i % D < kStrong ? strong : weak));
    }
    std::vector<double> moments(D * D);
    for (int d = 0; d < D; ++d) moments[d * (D + 1)] = d < kStrong ? strong : weak;
    const Directions found = StrongestDirections(moments, D, kStrong);
    const Example with = {D, found.direction_ND, found.factor_N}, without = {D, {}, {}};
    for (const KvCodecInfo* info : {&kQ4HeadKvCodec, &kQ3HeadKvCodec}) {
      EXPECT_LT(MeanError(*info, with, x), 0.75 * MeanError(*info, without, x))
          << CpuLevelName(level) << " " << info->id;
    }
  }
}

TEST(ValueStretch, StrongestDirectionsAreThoseOfTheMoments) {
  constexpr int D = 6;
  Rng rng(5);
  // Orthonormal by construction: rotations in planes.
  std::vector<std::vector<double>> u(D, std::vector<double>(D));
  for (int i = 0; i < D; ++i) u[i][i] = 1;
  for (int step = 0; step < 30; ++step) {
    const auto a = rng.Below(D), b = (a + 1 + rng.Below(D - 1)) % D;
    const double angle = 6.28 * rng.Uniform();
    for (int i = 0; i < D; ++i) {
      const double p = u[i][a], q = u[i][b];
      u[i][a] = p * std::cos(angle) - q * std::sin(angle);
      u[i][b] = p * std::sin(angle) + q * std::cos(angle);
    }
  }
  const double strength[D] = {50, 20, 4, 2, 1, 1};
  std::vector<double> moments(D * D);
  for (int i = 0; i < D; ++i) {
    for (int a = 0; a < D; ++a) {
      for (int b = 0; b < D; ++b) moments[a * D + b] += strength[i] * u[i][a] * u[i][b];
    }
  }
  const Directions found = StrongestDirections(moments, D, 2);
  ASSERT_EQ(found.factor_N.size(), 2u);
  for (int i = 0; i < 2; ++i) {
    double product = 0;
    for (int d = 0; d < D; ++d) product += u[i][d] * found.direction_ND[i * D + d];
    EXPECT_NEAR(std::fabs(product), 1, 1e-5);
    EXPECT_NEAR(found.factor_N[i], std::pow(strength[i] / 2.0, -0.375), 1e-5);
  }
  EXPECT_TRUE(StrongestDirections(std::vector<double>(D * D), D, 3).factor_N.empty());
}

TEST(ValueStretch, WhatIsNoDirectionIsRefused) {
  auto message = [](std::vector<float> directions, std::vector<float> factors) {
    Example e = {4, std::move(directions), std::move(factors)};
    const auto made = kQ4HeadKvCodec.make("q4_head", e.Params());
    return made.ok() ? "" : std::string(made.status().message());
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message({1, 0, 0, 0}, {0.5f}), "");
  EXPECT_EQ(message({1, 0, 0}, {0.5f}),
            "q4_head: expected up to 4 directions of 4 numbers, found 3 numbers for 1");
  EXPECT_EQ(message({1, 0, 0, 0, 2, 0, 0, 0}, {0.5f, 0.5f}),
            "q4_head: expected directions apart from each other");
  EXPECT_EQ(message({0, 0, 0, 0}, {0.5f}), "q4_head: expected directions apart from each other");
  EXPECT_EQ(message({nan, 0, 0, 0}, {0.5f}), "q4_head: expected directions apart from each other");
  EXPECT_EQ(message({1, 0, 0, 0}, {0.0f}),
            "q4_head: expected factors of 1/64 to 64, found 0.000000");
}

TEST(ValueStretch, InputThatIsNotFiniteStaysHarmless) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(6);
    const Example e = RandomExample(32, 4, &rng);
    const auto codec = e.Codec(kQ4HeadKvCodec);
    std::vector<float> x(32 * kPageTokens), back(x.size());
    for (float& v : x) {
      const uint64_t kind = rng.Below(5);
      v = kind == 0   ? std::numeric_limits<float>::quiet_NaN()
          : kind == 1 ? INFINITY
          : kind == 2 ? -INFINITY
                      : static_cast<float>(1e30 * rng.Normal());
    }
    std::fill_n(x.begin(), 32, 0.0f);
    AlignedBuffer<std::byte> page(codec->PageBytes());
    codec->EncodePage(x.data(), kPageTokens, page.data());
    codec->DecodePage(page.data(), kPageTokens, back.data());
    for (const float v : back) ASSERT_TRUE(std::isfinite(v)) << CpuLevelName(level);
  }
}

}  // namespace
}  // namespace phasor
