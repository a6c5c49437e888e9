#include "kvcodec/query_moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace phasor {
namespace {

struct Shape {
  int D, n_rot;
  RopePairing pairing;
};
constexpr Shape kShapes[] = {{8, 8, RopePairing::kInterleaved},
                             {8, 8, RopePairing::kHalfSplit},
                             {11, 6, RopePairing::kHalfSplit},
                             {6, 0, RopePairing::kInterleaved},
                             {1, 0, RopePairing::kInterleaved}};

KvCodecParams Params(const Shape& shape, const std::vector<float>& omega_P) {
  KvCodecParams params;
  params.head_dim = shape.D;
  params.n_rot = shape.n_rot;
  params.pairing = shape.pairing;
  params.omega_P = omega_P;
  return params;
}

std::vector<float> Omega(int n_rot) {
  std::vector<float> omega_P;
  for (int j = 0; j < n_rot / 2; ++j) {
    omega_P.push_back(static_cast<float>(std::pow(100.0, -2.0 * j / n_rot)));
  }
  return omega_P;
}

// RoPE in double.
std::vector<double> Turned(const Shape& shape, const std::vector<float>& omega_P,
                           const std::vector<double>& x, double position) {
  std::vector<double> y = x;
  for (size_t j = 0; j < omega_P.size(); ++j) {
    const size_t a = shape.pairing == RopePairing::kInterleaved ? 2 * j : j;
    const size_t b = shape.pairing == RopePairing::kInterleaved ? 2 * j + 1 : j + omega_P.size();
    const double c = std::cos(omega_P[j] * position), s = std::sin(omega_P[j] * position);
    y[a] = c * x[a] - s * x[b];
    y[b] = s * x[a] + c * x[b];
  }
  return y;
}

TEST(QueryMoments, AveragesAreThoseOfQueriesAtEveryPosition) {
  Rng rng(1);
  for (const Shape& shape : kShapes) {
    const std::vector<float> omega_P = Omega(shape.n_rot);
    QueryMoments moments(Params(shape, omega_P));
    constexpr int kQueries = 5, kSteps = 20000;
    constexpr double kPositions = 37.5;
    const auto D = static_cast<size_t>(shape.D);
    std::vector<double> expected(D * D);
    for (int i = 0; i < kQueries; ++i) {
      std::vector<double> q(D);
      for (double& v : q) v = rng.Normal();
      const auto position = static_cast<int64_t>(rng.Below(1000));
      const std::vector<double> seen = Turned(shape, omega_P, q, static_cast<double>(position));
      moments.Add(std::vector<float>(seen.begin(), seen.end()).data(), position);
      for (int s = 0; s < kSteps; ++s) {
        const std::vector<double> t = Turned(shape, omega_P, q, (s + 0.5) * kPositions / kSteps);
        for (size_t a = 0; a < D; ++a) {
          for (size_t b = 0; b < D; ++b) expected[a * D + b] += t[a] * t[b] / kQueries / kSteps;
        }
      }
    }
    EXPECT_EQ(moments.n_added(), kQueries);
    const std::vector<double> got = moments.Average(kPositions);
    ASSERT_EQ(got.size(), expected.size());
    // Queries are given in f32, and their angles of up to 1000 radians in f32 frequencies.
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-5) << i;
  }
}

TEST(QueryMoments, PairsThatTurnOftenHaveNothingInCommon) {
  const Shape shape = {4, 4, RopePairing::kInterleaved};
  const std::vector<float> omega_P = {1.0f, 1e-6f};
  QueryMoments moments(Params(shape, omega_P));
  const float q[] = {1, 2, 3, 4};
  moments.Add(q, 0);
  const std::vector<double> m = moments.Average(1e4);
  EXPECT_NEAR(m[0], 2.5, 1e-3);  // (1 + 4) / 2
  EXPECT_NEAR(m[5], 2.5, 1e-3);
  EXPECT_NEAR(m[1], 0, 1e-3);
  EXPECT_NEAR(m[2], 0, 1e-2);
  EXPECT_NEAR(m[11], 12, 0.2);  // hardly turned
}

TEST(QueryMoments, NoneGiveZeros) {
  EXPECT_EQ(QueryMoments(Params(kShapes[3], {})).Average(10), std::vector<double>(36, 0.0));
}

}  // namespace
}  // namespace phasor
