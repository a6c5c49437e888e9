#include "engine/attended_values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace phasor {
namespace {

std::vector<float> Random(int n, Rng* rng) {
  std::vector<float> x;
  for (int i = 0; i < n; ++i) x.push_back(static_cast<float>(rng->Normal()));
  return x;
}

// Written down from the header, in double: every eighth query, codes from 128 tokens back on, a
// quarter of the mean weight for all.
TEST(AttendedValues, TokensCountBySquaredWeights) {
  constexpr int D = 6, kGroup = 2, kTokens = 333, kSink = 3;
  Rng rng(1);
  AttendedValues attended(D, kGroup, kSink);
  std::vector<std::vector<float>> q, k, v;
  for (int t = 0; t < kTokens; ++t) {
    q.push_back(Random(kGroup * D, &rng));
    k.push_back(Random(D, &rng));
    v.push_back(Random(D, &rng));
    attended.Add(q[t].data(), k[t].data(), v[t].data());
  }
  std::vector<double> weight(kTokens);
  double total = 0;
  for (int m = 0; m < kTokens; m += 8) {
    for (int i = 0; i < kGroup; ++i) {
      std::vector<double> p;
      double sum = 0;
      for (int t = 0; t <= m; ++t) {
        double score = 0;
        for (int d = 0; d < D; ++d) score += static_cast<double>(q[m][i * D + d]) * k[t][d];
        p.push_back(std::exp(score / std::sqrt(D)));
        sum += p.back();
      }
      for (int t = kSink; t < m - 128; ++t) {
        weight[t] += p[t] * p[t] / sum / sum;
        total += p[t] * p[t] / sum / sum;
      }
    }
  }
  const std::vector<double> got = attended.Moments();
  for (int a = 0; a < D; ++a) {
    for (int b = 0; b < D; ++b) {
      double expected = 0, size = 0;
      for (int t = kSink; t < kTokens; ++t) {
        const double x = (weight[t] + 0.25 * total / (kTokens - kSink)) * v[t][a] * v[t][b];
        expected += x;
        size += std::fabs(x);
      }
      // Scores and logarithms in f32.
      EXPECT_NEAR(got[a * D + b], expected, 1e-4 * size) << a << " " << b;
    }
  }
}

TEST(AttendedValues, ShortTextsWeighAllAlike) {
  AttendedValues attended(2, 1, 1);
  const float q[] = {1, 0}, first[] = {100, 100}, v[] = {1, 2};
  attended.Add(q, q, first);  // a first token
  for (int t = 0; t < 10; ++t) attended.Add(q, q, v);
  EXPECT_EQ(attended.Moments(), (std::vector<double>{10, 20, 20, 40}));
  EXPECT_EQ(AttendedValues(2, 1, 4).Moments(), std::vector<double>(4, 0.0));
}

}  // namespace
}  // namespace phasor
