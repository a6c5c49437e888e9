#include "kvcodec/frame_feedback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/kvcodec.h"
#include "simd/cpu.h"
#include "tensor/half.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

// Moments of queries that lie mostly in a few directions.
std::vector<double> RandomMoments(int D, int n_directions, Rng* rng) {
  std::vector<double> s(static_cast<size_t>(D * D));
  for (int i = 0; i < n_directions; ++i) {
    std::vector<double> direction;
    for (int d = 0; d < D; ++d) direction.push_back(rng->Normal());
    for (int a = 0; a < D; ++a) {
      for (int b = 0; b < D; ++b) s[a * D + b] += direction[a] * direction[b];
    }
  }
  for (int d = 0; d < D; ++d) s[d * D + d] += 0.3 * n_directions * std::exp(0.5 * rng->Normal());
  return s;
}

std::vector<float> Floats(const std::vector<double>& x) { return {x.begin(), x.end()}; }

// The moments as feedback sees them.
std::vector<double> InDoubt(std::vector<double> s, int D) {
  for (int i = 0; i < D * D; ++i) s[i] *= i % (D + 1) == 0 ? 1.0 : 1 - kMomentDoubt;
  return s;
}

// a[n, n] x = b by elimination with pivots.
std::vector<double> Solve(std::vector<double> a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t r = i; r < n; ++r) {
      if (std::fabs(a[r * n + i]) > std::fabs(a[pivot * n + i])) pivot = r;
    }
    std::swap(b[i], b[pivot]);
    for (size_t k = 0; k < n; ++k) std::swap(a[i * n + k], a[pivot * n + k]);
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double f = a[r * n + i] / a[i * n + i];
      for (size_t k = i; k < n; ++k) a[r * n + k] -= f * a[i * n + k];
      b[r] -= f * b[i];
    }
  }
  for (size_t i = 0; i < n; ++i) b[i] /= a[i * n + i];
  return b;
}

// The best x[last], for given errors of the channels in front of it, when all channels behind
// `last` in `order` may still be chosen freely: the least of the quadratic form.
double BestError(const std::vector<double>& s, int D, const std::vector<int>& order, size_t last,
                 const std::vector<double>& error_D) {
  const size_t n = order.size() - last;
  std::vector<double> a(n * n), b(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) a[i * n + j] = s[order[last + i] * D + order[last + j]];
    for (size_t r = 0; r < last; ++r) b[i] -= s[order[last + i] * D + order[r]] * error_D[order[r]];
  }
  return Solve(a, b)[0];
}

FrameLayout Layout(int D, std::vector<uint8_t> width_D, const std::vector<float>& moments_DD) {
  KvCodecParams params;
  params.head_dim = D;
  params.query_moments_DD = moments_DD;
  return MakeFrameLayout(params, width_D);
}

std::vector<uint8_t> RandomWidths(int D, Rng* rng) {
  std::vector<uint8_t> width_D;
  for (int d = 0; d < D; ++d) width_D.push_back(static_cast<uint8_t>(rng->Below(8)));
  return width_D;
}

// Channels in the order they are rounded in.
std::vector<int> RoundingOrder(const FrameLayout& layout) {
  std::vector<int> order;
  for (auto it = layout.channel_S.rbegin(); it != layout.channel_S.rend(); ++it) {
    if (*it >= 0) order.push_back(*it);
  }
  return order;
}

constexpr int kHeadDims[] = {1, 3, 16, 30, 64};

// Weights below 1/64 of the deviations' ratio are left out: 64 of them at most, each of a residual
// that counts its own deviation.
TEST(FrameFeedback, ChannelsAskForWhatCostsLeastWhenThoseBehindMayFollow) {
  Rng rng(1);
  for (int D : kHeadDims) {
    const std::vector<double> moments = RandomMoments(D, 3, &rng), s = InDoubt(moments, D);
    const FrameLayout layout = Layout(D, RandomWidths(D, &rng), Floats(moments));
    ASSERT_EQ(layout.feedback_S.size(), layout.channel_S.size() + 1);
    const std::vector<int> order = RoundingOrder(layout);
    std::vector<double> error_D(static_cast<size_t>(D)), residual_D(error_D);
    for (size_t i = 0; i < order.size(); ++i) {
      const int d = order[i], slot = D - 1 - static_cast<int>(i);
      ASSERT_EQ(layout.channel_S[slot], d);
      double shift = 0, left_out = 1e-5;
      for (uint32_t f = layout.feedback_S[slot]; f < layout.feedback_S[slot + 1]; ++f) {
        shift += layout.feedback[f].weight * residual_D[layout.feedback[f].channel];
      }
      for (size_t r = 0; r < i; ++r) {
        const double share = std::sqrt(moments[order[r] * (D + 1)] / moments[d * (D + 1)]);
        left_out += share * std::fabs(residual_D[order[r]]) / 64;
      }
      EXPECT_NEAR(shift, BestError(s, D, order, i, error_D), left_out) << "D " << D << " at " << i;
      residual_D[d] = rng.Normal() / std::sqrt(moments[d * (D + 1)]);
      error_D[d] = shift + residual_D[d];
    }
  }
}

TEST(FrameFeedback, EveryLevelRoundsWhatTheFeedbackAsksFor) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(2);
    for (int D : kHeadDims) {
      const FrameLayout layout =
          Layout(D, RandomWidths(D, &rng), Floats(RandomMoments(D, 4, &rng)));
      const int n = 1 + static_cast<int>(rng.Below(kPageTokens));
      std::vector<float> x(static_cast<size_t>(n * D));
      for (float& v : x) v = static_cast<float>(rng.Normal());
      AlignedBuffer<std::byte> page(layout.page_bytes);
      AlignedBuffer<float> stored(static_cast<size_t>(D * kPageTokens));
      ActiveFrameKernels().encode(layout, x.data(), n, page.data());
      DecodeFrame(layout, page.data(), stored.data());
      std::vector<double> residual_DT(static_cast<size_t>(D * kPageTokens));
      for (int slot = D - 1; slot >= 0; --slot) {
        const int d = layout.channel_S[slot], bits = layout.bits_Q[slot / 4];
        uint16_t half[2];
        std::memcpy(&half[0], page.data() + 2 * slot, 2);
        std::memcpy(&half[1], page.data() + 2 * (4 * layout.n_quads + slot), 2);
        const double scale = F16ToF32(half[0]), low = F16ToF32(half[1]);
        const double high = low + scale * (std::exp2(bits) - 1);
        for (int t = 0; t < kPageTokens; ++t) {
          double target = x[std::min(t, n - 1) * D + d], magnitude = std::fabs(target);
          for (uint32_t f = layout.feedback_S[slot]; f < layout.feedback_S[slot + 1]; ++f) {
            const auto [channel, weight] = layout.feedback[f];
            const double part = weight * residual_DT[channel * kPageTokens + t];
            target += part;
            magnitude += std::fabs(part);
          }
          // f32 sums of up to D parts, and of low and scale times code.
          magnitude += std::fabs(low) + std::fabs(high);
          const double rounding = 1e-6 * magnitude * std::sqrt(D);
          const double got = stored[static_cast<size_t>(d * kPageTokens + t)];
          if (bits > 0 && target > low && target < high) {
            ASSERT_NEAR(got, target, 0.5 * scale + rounding) << CpuLevelName(level) << " D " << D;
          } else if (bits > 0) {
            ASSERT_NEAR(got, std::clamp(target, low, high), 0.5 * scale + rounding)
                << CpuLevelName(level) << " D " << D;
          }
          residual_DT[d * kPageTokens + t] = got - target;
        }
      }
    }
  }
}

// Mean of e^T S e over the tokens of random pages.
double MeanCost(const std::vector<double>& s, int D, int bits, bool feeds_back, Rng rng) {
  const std::vector<float> moments = feeds_back ? Floats(s) : std::vector<float>();
  const FrameLayout layout =
      Layout(D, std::vector<uint8_t>(static_cast<size_t>(D), static_cast<uint8_t>(bits)), moments);
  AlignedBuffer<std::byte> page(layout.page_bytes);
  std::vector<float> x(static_cast<size_t>(D * kPageTokens)), back(x.size());
  double sum = 0;
  constexpr int kPages = 4;
  for (int p = 0; p < kPages; ++p) {
    for (float& v : x) v = static_cast<float>(rng.Normal());
    ActiveFrameKernels().encode(layout, x.data(), kPageTokens, page.data());
    ActiveFrameKernels().decode(layout, page.data(), kPageTokens, back.data());
    for (int t = 0; t < kPageTokens; ++t) {
      for (int a = 0; a < D; ++a) {
        for (int b = 0; b < D; ++b) {
          sum += s[a * D + b] * (static_cast<double>(back[t * D + a]) - x[t * D + a]) *
                 (static_cast<double>(back[t * D + b]) - x[t * D + b]);
        }
      }
    }
  }
  return sum / (kPages * kPageTokens);
}

// With D_c in the place of S_cc the error of scores falls by their ratio, for errors of channels
// that are all alike. Shifted channels reach a little further, which costs up to a tenth.
TEST(FrameFeedback, ErrorsOfScoresFallAsMuchAsTheWeightsSay) {
  constexpr int D = 32;
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(3);
    const std::vector<double> s = RandomMoments(D, 3, &rng);
    const std::vector<double> weight_D = FeedbackWeights(s, std::vector<double>(D, 1.0));
    double before = 0;
    for (int d = 0; d < D; ++d) before += s[d * (D + 1)];
    const double expected = std::accumulate(weight_D.begin(), weight_D.end(), 0.0) / before;
    EXPECT_LT(expected, 0.6);
    for (int bits : {3, 5}) {
      const double ratio = MeanCost(s, D, bits, true, Rng(4)) / MeanCost(s, D, bits, false, Rng(4));
      EXPECT_NEAR(ratio, expected, 0.15 * expected) << CpuLevelName(level) << " bits " << bits;
    }
  }
}

TEST(FrameFeedback, WeightsAreWhatIsLeftOfAChannelWhenDearerOnesAreKnown) {
  Rng rng(5);
  for (int D : kHeadDims) {
    const std::vector<double> moments = RandomMoments(D, 2, &rng), s = InDoubt(moments, D);
    std::vector<double> error_D;
    for (int d = 0; d < D; ++d) error_D.push_back(std::exp(rng.Normal()));
    const std::vector<double> weight_D = FeedbackWeights(moments, error_D);
    std::vector<int> order(static_cast<size_t>(D));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return weight_D[a] * error_D[a] > weight_D[b] * error_D[b]; });
    for (size_t i = 0; i < order.size(); ++i) {
      // S_dd - S_dk S_kk^-1 S_kd over the channels k in front.
      std::vector<double> a(i * i), b(i);
      for (size_t r = 0; r < i; ++r) {
        for (size_t k = 0; k < i; ++k) a[r * i + k] = s[order[r] * D + order[k]];
        b[r] = s[order[r] * D + order[i]];
      }
      double left = s[order[i] * (D + 1)];
      const std::vector<double> x = Solve(a, b);
      for (size_t r = 0; r < i; ++r) left -= x[r] * b[r];
      ASSERT_NEAR(weight_D[order[i]], left, 1e-9 * s[order[i] * (D + 1)]) << "D " << D;
    }
  }
}

TEST(FrameFeedback, WithoutAnythingInCommonPagesAreAsBefore) {
  constexpr int D = 20;
  Rng rng(6);
  std::vector<float> moments(D * D), x(D * kPageTokens);
  for (int d = 0; d < D; ++d) moments[d * (D + 1)] = static_cast<float>(1 + rng.Uniform());
  for (float& v : x) v = static_cast<float>(rng.Normal());
  const std::vector<uint8_t> width_D = RandomWidths(D, &rng);
  const FrameLayout with = Layout(D, width_D, moments), without = Layout(D, width_D, {});
  EXPECT_TRUE(with.feedback.empty());
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    AlignedBuffer<std::byte> a(with.page_bytes), b(without.page_bytes);
    ActiveFrameKernels().encode(with, x.data(), kPageTokens, a.data());
    ActiveFrameKernels().encode(without, x.data(), kPageTokens, b.data());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size()), 0) << CpuLevelName(level);
  }
}

TEST(FrameFeedback, NumbersThatAreNoMomentsChangeNothing) {
  constexpr int D = 4;
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = INFINITY;
  std::vector<std::vector<float>> bad;
  bad.emplace_back(D * D, 1.0f);  // all the same: 0.95 of everything in common, which is allowed
  for (const float x : {3.0f, -3.0f, nan, inf}) {
    std::vector<float> s(D * D);
    for (int d = 0; d < D; ++d) s[d * (D + 1)] = 1;
    s[1] = s[D] = x;
    bad.push_back(s);
  }
  bad.emplace_back(D * D, nan);
  bad.emplace_back(D * D, 0.0f);
  for (size_t i = 0; i < bad.size(); ++i) {
    const FrameLayout layout = Layout(D, std::vector<uint8_t>(D, 4), bad[i]);
    EXPECT_EQ(layout.feedback.empty(), i > 0) << i;
    for (const auto& f : layout.feedback) EXPECT_TRUE(std::isfinite(f.weight));
  }
}

TEST(FrameFeedback, InputThatIsNotFiniteStaysHarmless) {
  constexpr int D = 16;
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(7);
    const FrameLayout layout = Layout(D, RandomWidths(D, &rng), Floats(RandomMoments(D, 2, &rng)));
    std::vector<float> x(D * kPageTokens), back(x.size());
    for (float& v : x) {
      const uint64_t kind = rng.Below(5);
      v = kind == 0   ? std::numeric_limits<float>::quiet_NaN()
          : kind == 1 ? INFINITY
          : kind == 2 ? -INFINITY
                      : static_cast<float>(1e30 * rng.Normal());
    }
    AlignedBuffer<std::byte> page(layout.page_bytes);
    ActiveFrameKernels().encode(layout, x.data(), kPageTokens, page.data());
    ActiveFrameKernels().decode(layout, page.data(), kPageTokens, back.data());
    for (const float v : back) ASSERT_TRUE(std::isfinite(v)) << CpuLevelName(level);
  }
}

TEST(FrameFeedback, MomentsOfAnotherHeadSizeAreRefused) {
  const std::vector<float> moments(16 * 16);
  KvCodecParams params;
  params.head_dim = 32;
  params.query_moments_DD = moments;
  const auto made = kFrame4KvCodec.make("frame4", params);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().message(), "frame4: expected 1024 second moments of queries, found 256");
}

}  // namespace
}  // namespace phasor
