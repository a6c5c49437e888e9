#include "ops/vector_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "ops/vector_ops_reference.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

// A float sum of n products of order one carries about sqrt(n) half-ulps; 4e-6 relative covers the
// sizes here (n <= 1000) and the 2-ulp exponential.
constexpr double kRelativeTolerance = 4e-6;
const int64_t kSizes[] = {1, 3, 7, 8, 15, 16, 17, 64, 100, 576, 999};

class VectorOps : public ::testing::TestWithParam<CpuLevel> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetCpuLevel(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetCpuLevel(DetectedCpuLevel()).ok()); }
  std::vector<float> Random(int64_t n, double scale = 1) {
    std::vector<float> x(n);
    for (float& v : x) v = static_cast<float>(rng_.Normal() * scale);
    return x;
  }
  Rng rng_{7};
};

TEST_P(VectorOps, RmsNormEqualsReference) {
  for (int64_t n : kSizes) {
    auto x = Random(n, 3), w = Random(n);
    auto expected = reference::RmsNorm(x.data(), w.data(), 1e-5, n);
    RmsNorm(x.data(), w.data(), 1e-5f, n, x.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(x[i], expected[i], kRelativeTolerance * 10);
  }
}

TEST_P(VectorOps, SwiGluEqualsReferenceAlsoFarFromZero) {
  for (int64_t n : kSizes) {
    auto g = Random(n, 20), u = Random(n);
    auto expected = reference::SwiGlu(g.data(), u.data(), n);
    std::vector<float> y(n);
    SwiGlu(g.data(), u.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(y[i], expected[i], kRelativeTolerance * (1 + std::abs(expected[i])));
    }
  }
}

TEST_P(VectorOps, SoftmaxEqualsReferenceAndOnlinePiecesAgree) {
  for (int64_t n : kSizes) {
    auto x = Random(n, 10);
    auto expected = reference::Softmax(x.data(), n);
    std::vector<float> whole = x, online = x;
    Softmax(whole.data(), n);
    float max = -INFINITY, sum = 0;
    int64_t half = n / 2;
    float f1 = OnlineSoftmax(online.data(), half == 0 ? n : half, &max, &sum);
    EXPECT_EQ(f1, 0.0f);
    float f2 = 1;
    if (half != 0) f2 = OnlineSoftmax(online.data() + half, n - half, &max, &sum);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(whole[i], expected[i], kRelativeTolerance);
      double scale = (half != 0 && i < half ? f2 : 1.0f) / sum;
      EXPECT_NEAR(online[i] * scale, expected[i], kRelativeTolerance);
    }
  }
}

TEST_P(VectorOps, DotAxpyAndScaleHandleOddTails) {
  for (int64_t n : kSizes) {
    auto a = Random(n), b = Random(n);
    double dot = 0, magnitude = 0;
    for (int64_t i = 0; i < n; ++i) {
      dot += static_cast<double>(a[i]) * b[i];
      magnitude += std::abs(static_cast<double>(a[i]) * b[i]);
    }
    EXPECT_NEAR(Dot(a.data(), b.data(), n), dot, kRelativeTolerance * magnitude);
    auto y = b;
    Axpy(0.5f, a.data(), n, y.data());
    Scale(2.0f, n, y.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], 2 * (b[i] + 0.5 * a[i]), 1e-5);
  }
}

TEST_P(VectorOps, LogSumExpAndKlDivergenceEqualDoubleForms) {
  for (int64_t n : {1, 5, 17, 1000, 49152}) {
    auto a = Random(n, 4), b = a;
    for (float& v : b) v += static_cast<float>(rng_.Normal() * 0.05 + 3);
    auto p = reference::Softmax(a.data(), n), q = reference::Softmax(b.data(), n);
    double kl = 0, sum = 0, max = *std::max_element(a.begin(), a.end());
    for (int64_t i = 0; i < n; ++i) {
      kl += p[i] * std::log(p[i] / q[i]);
      sum += std::exp(a[i] - max);
    }
    EXPECT_NEAR(LogSumExp(a.data(), n), max + std::log(sum), 1e-5);
    EXPECT_NEAR(KlDivergence(a.data(), b.data(), n), kl, 2e-6);
  }
}

TEST_P(VectorOps, BothPairingsRotateTheSamePairs) {
  const int heads = 3, dim = 80, n_rot = 64;
  auto x = Random(heads * dim);
  std::vector<float> interleaved(x.size()), cos_P(n_rot / 2), sin_P(n_rot / 2);
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < dim; ++i) {
      int j = i < n_rot ? 2 * (i % (n_rot / 2)) + i / (n_rot / 2) : i;
      interleaved[h * dim + j] = x[h * dim + i];
    }
  }
  for (int j = 0; j < n_rot / 2; ++j) {
    double a = rng_.Uniform() * 7;
    cos_P[j] = static_cast<float>(std::cos(a));
    sin_P[j] = static_cast<float>(std::sin(a));
  }
  auto half = x;
  ApplyRope(half.data(), heads, dim, n_rot, RopePairing::kHalfSplit, cos_P.data(), sin_P.data());
  ApplyRope(interleaved.data(), heads, dim, n_rot, RopePairing::kInterleaved, cos_P.data(),
            sin_P.data());
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < dim; ++i) {
      int j = i < n_rot ? 2 * (i % (n_rot / 2)) + i / (n_rot / 2) : i;
      EXPECT_NEAR(half[h * dim + i], interleaved[h * dim + j], 1e-6);
      if (i < n_rot) continue;
      EXPECT_EQ(half[h * dim + i], x[h * dim + i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, VectorOps, ::testing::ValuesIn(AvailableCpuLevels()),
                         [](const auto& info) { return CpuLevelName(info.param); });

TEST(RopeAngles, AreExactToPositionOneMillionAgainstLongDouble) {
  // 64-bit steps are within 2^-65 turns of the true frequency; a million positions and the float
  // result leave 2^-45 turns and half an ulp.
  constexpr double kTolerance = 1.2e-7;
  PhaseTable table;
  const int P = 64;
  std::vector<long double> omega(P);
  for (int j = 0; j < P; ++j) {
    omega[j] = std::pow(500000.0L, -static_cast<long double>(j) / P);
    table.step_P.push_back(static_cast<uint64_t>(
        std::round(omega[j] / 6.283185307179586476925286766559L * 18446744073709551616.0L)));
  }
  std::vector<float> c(P), s(P);
  for (int64_t pos : {0, 1, 4095, 32768, 131071, 999999, 1000000}) {
    RopeAngles(table, pos, c.data(), s.data());
    for (int j = 0; j < P; ++j) {
      long double a = omega[j] * pos;
      EXPECT_NEAR(c[j], std::cos(a), kTolerance) << pos << " pair " << j;
      EXPECT_NEAR(s[j], std::sin(a), kTolerance) << pos << " pair " << j;
    }
  }
}

}  // namespace
}  // namespace phasor
