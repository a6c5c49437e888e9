#include "decode/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

namespace phasor {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Everything off but the temperature.
SamplerOptions Plain(float temperature, uint64_t seed = 1) {
  SamplerOptions o;
  o.temperature = temperature;
  o.top_k = 0;
  o.top_p = 1;
  o.min_p = 0;
  o.seed = seed;
  return o;
}

std::vector<float> RandomLogits(std::size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> logits(n);
  for (float& l : logits) l = static_cast<float>(3 * rng.Normal());
  return logits;
}

// The definition, written plainly: probability of every token after all truncations.
std::vector<double> ReferenceDistribution(std::vector<float> logits, const SamplerOptions& o) {
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size(), 0);
  auto normalise = [&] {
    double sum = 0;
    for (std::size_t i : order) sum += p[i];
    for (std::size_t i : order) p[i] /= sum;
  };
  auto keep = [&](std::size_t n) {
    while (order.size() > n) p[order.back()] = 0, order.pop_back();
    normalise();
  };
  for (std::size_t i : order) p[i] = std::exp(logits[i] - logits[order[0]]);
  normalise();
  if (o.top_k > 0) keep(std::min<std::size_t>(order.size(), o.top_k));
  if (o.top_p < 1) {
    double sum = 0;
    std::size_t n = 0;
    while (n < order.size() && (n == 0 || sum < o.top_p)) sum += p[order[n++]];
    keep(n);
  }
  std::size_t n = order.size();
  while (n > 1 && p[order[n - 1]] < o.min_p * p[order[0]]) --n;
  keep(n);
  // Temperature last.
  for (std::size_t i : order) p[i] = std::exp((logits[i] - logits[order[0]]) / o.temperature);
  normalise();
  return p;
}

// Draws many tokens and compares the counts with `expected` by a chi-square test.
void ExpectDraws(const std::vector<float>& logits, const SamplerOptions& options,
                 const std::vector<double>& expected) {
  constexpr int kDraws = 10000;
  Sampler sampler(options);
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < kDraws; ++i) {
    auto next = sampler.Next(logits, {});
    ASSERT_TRUE(next.ok());
    ++counts[static_cast<std::size_t>(*next)];
  }
  double chi2 = 0, rare_expected = 0, rare_count = 0;
  int cells = 0;
  auto add = [&](double count, double mean) {
    chi2 += (count - mean) * (count - mean) / mean;
    ++cells;
  };
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " is outside the truncation";
    } else if (expected[i] * kDraws >= 5) {  // the usual condition for the approximation
      add(counts[i], expected[i] * kDraws);
    } else {
      rare_expected += expected[i] * kDraws;
      rare_count += counts[i];
    }
  }
  if (rare_expected >= 5) add(rare_count, rare_expected);
  // Chi-square has mean dof and variance 2 dof; the seed is fixed, five sigma leave room.
  double dof = std::max(1, cells - 1);
  EXPECT_LT(chi2, dof + 5 * std::sqrt(2 * dof));
}

TEST(Sampler, TemperatureZeroTakesTheBestAndTheLowestIdAmongEquals) {
  Sampler sampler(Plain(0));
  EXPECT_EQ(*sampler.Next(std::vector<float>{1, 5, 5, 2}, {}), 1);
  EXPECT_EQ(*sampler.Next(std::vector<float>{-3, -1, -1}, {}), 1);
  EXPECT_EQ(*sampler.Next(std::vector<float>{7}, {}), 0);
}

TEST(Sampler, DrawsFollowTheSoftmaxAtAnyTemperature) {
  auto logits = RandomLogits(50, 7);
  for (float t : {0.3f, 0.8f, 1.0f, 2.5f}) {
    ExpectDraws(logits, Plain(t), ReferenceDistribution(logits, Plain(t)));
  }
}

TEST(Sampler, EachTruncationFollowsItsDefinition) {
  auto logits = RandomLogits(300, 11);
  for (int which = 0; which < 9; ++which) {
    SamplerOptions o = Plain(which % 2 ? 0.7f : 1.3f, 100 + which);
    if (which == 0 || which == 6) o.top_k = 5;
    if (which == 1 || which == 6) o.top_p = 0.8f;
    if (which == 2 || which == 6) o.min_p = 0.1f;
    if (which == 3) o.top_k = 1;
    if (which == 4) o.top_p = 1e-6f;
    if (which == 5) o.min_p = 1.0f;
    if (which == 7) o.top_k = 100000;
    if (which == 8) o.top_p = 0.999f;
    SCOPED_TRACE(which);
    ExpectDraws(logits, o, ReferenceDistribution(logits, o));
  }
}

TEST(Sampler, TopPReachesFarIntoAFlatDistribution) {
  std::vector<float> flat(2000, 1.0f);  // needs several rounds of sorting
  SamplerOptions o = Plain(1);
  o.top_p = 0.5f;
  Sampler sampler(o);
  int32_t largest = 0;
  for (int i = 0; i < 4000; ++i) largest = std::max(largest, *sampler.Next(flat, {}));
  // Equal logits are taken by id: 1000 tokens stay. P(a given id is never drawn) = e^-4, that the
  // last ten are all missed e^-40.
  EXPECT_LT(largest, 1000);
  EXPECT_GE(largest, 990);
}

TEST(Sampler, TopKKeepsTheLowestIdsAmongEquals) {
  SamplerOptions o = Plain(1);
  o.top_k = 3;
  Sampler sampler(o);
  std::set<int32_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(*sampler.Next(std::vector<float>(40, 2.0f), {}));
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2}));
}

// The search for the best k looks at whole blocks of logits first.
TEST(Sampler, TopKFindsTheSameTokensInALargeVocabulary) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    auto logits = RandomLogits(5000 + seed * 13, seed);
    for (std::size_t i = 0; i < 64; ++i) logits[640 + i] = kNan;    // a block without any
    for (std::size_t i = 0; i < 30; ++i) logits[1280 + i] = 20.0f;  // one with many
    SamplerOptions o = Plain(50);  // nearly flat, so that every survivor is drawn
    o.top_k = 33;
    o.seed = seed;
    std::vector<float> sorted;
    for (float l : logits) {
      if (!std::isnan(l)) sorted.push_back(l);
    }
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    Sampler sampler(o);
    std::set<int32_t> seen;
    for (int i = 0; i < 2000; ++i) seen.insert(*sampler.Next(logits, {}));
    EXPECT_EQ(seen.size(), 33u);  // P(one of 33 is missed) = 33 (1 - 1/33)^2000 = 1e-25
    for (int32_t id : seen) EXPECT_GE(logits[static_cast<std::size_t>(id)], sorted[32]);
  }
}

TEST(Sampler, SameSeedSameTokens) {
  auto logits = RandomLogits(1000, 3);
  SamplerOptions o;
  o.seed = 42;
  auto draw = [&](SamplerOptions options) {
    Sampler sampler(options);
    std::vector<int32_t> out;
    for (int i = 0; i < 64; ++i) out.push_back(*sampler.Next(logits, out));
    return out;
  };
  auto first = draw(o);
  EXPECT_EQ(first, draw(o));
  o.seed = 43;
  EXPECT_NE(first, draw(o));
}

TEST(Sampler, RepeatPenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  SamplerOptions o = Plain(0);
  o.repeat_penalty = 2;
  Sampler sampler(o);
  std::vector<int32_t> history = {0, 0, 0, 99, -5};                      // unknown ids are ignored
  EXPECT_EQ(*sampler.Next(std::vector<float>{4.2f, 2.0f}, history), 0);  // 2.1, divided once
  EXPECT_EQ(*sampler.Next(std::vector<float>{4.0f, 2.1f}, history), 1);  // 2.0 against 2.1
  EXPECT_EQ(*sampler.Next(std::vector<float>{-1.0f, -1.9f}, history), 1);  // -2 against -1.9
  EXPECT_EQ(*sampler.Next(std::vector<float>{-1.0f, -2.1f}, history), 0);
}

TEST(Sampler, RepeatPenaltyLooksBackOnlyItsWindow) {
  SamplerOptions o = Plain(0);
  o.repeat_penalty = 10;
  o.repeat_last_n = 2;
  std::vector<float> logits = {3, 2, 1};
  EXPECT_EQ(*Sampler(o).Next(logits, std::vector<int32_t>{0, 2, 2}), 0);
  EXPECT_EQ(*Sampler(o).Next(logits, std::vector<int32_t>{2, 0, 2}), 1);
  o.repeat_last_n = -1;
  EXPECT_EQ(*Sampler(o).Next(logits, std::vector<int32_t>{0, 2, 2, 2, 2}), 1);
  o.repeat_last_n = 0;
  EXPECT_EQ(*Sampler(o).Next(logits, std::vector<int32_t>{0, 0}), 0);
}

TEST(Sampler, NanCountsAsMinusInfinity) {
  for (float t : {0.0f, 1.0f}) {
    Sampler sampler(Plain(t));
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(*sampler.Next(std::vector<float>{kNan, 1, -kInf, kNan}, {}), 1);
      EXPECT_EQ(sampler.last_probability(), 1.0f);
    }
    EXPECT_EQ(*sampler.Next(std::vector<float>{0, kInf, 3}, {}), 1);
    for (auto& bad : {std::vector<float>{}, {kNan, kNan}, {-kInf, kNan}}) {
      auto next = sampler.Next(bad, {});
      ASSERT_FALSE(next.ok());
      EXPECT_EQ(next.status().code(), StatusCode::kDataCorrupt);
    }
  }
}

TEST(Sampler, LastProbabilityIsTheSoftmaxBeforeTruncation) {
  constexpr float kTolerance = 1e-6f;  // float rounding of a value below 1
  std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  Sampler greedy(Plain(0));
  ASSERT_TRUE(greedy.Next(logits, {}).ok());
  EXPECT_NEAR(greedy.last_probability(), 0.5f, kTolerance);
  SamplerOptions o = Plain(3);
  o.top_k = 2;
  Sampler sampler(o);
  for (int i = 0; i < 20; ++i) {
    int32_t id = *sampler.Next(logits, {});
    EXPECT_NEAR(sampler.last_probability(), id == 0 ? 0.5f : 0.3f, kTolerance);
  }
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  EXPECT_TRUE(ValidateSamplerOptions(SamplerOptions()).ok());
  auto expect_bad = [](auto change, const char* name) {
    SamplerOptions o;
    change(o);
    Status status = ValidateSamplerOptions(o);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_NE(status.message().find(std::string(name) + ": expected"), std::string::npos);
  };
  expect_bad([](auto& o) { o.temperature = -0.1f; }, "temp");
  expect_bad([](auto& o) { o.temperature = kNan; }, "temp");
  expect_bad([](auto& o) { o.temperature = kInf; }, "temp");
  expect_bad([](auto& o) { o.top_k = -1; }, "top-k");
  expect_bad([](auto& o) { o.top_p = 1.1f; }, "top-p");
  expect_bad([](auto& o) { o.top_p = 0; }, "top-p");
  expect_bad([](auto& o) { o.top_p = kNan; }, "top-p");
  expect_bad([](auto& o) { o.min_p = -0.1f; }, "min-p");
  expect_bad([](auto& o) { o.repeat_penalty = 0; }, "repeat-penalty");
  expect_bad([](auto& o) { o.repeat_last_n = -2; }, "repeat-last-n");
}

}  // namespace
}  // namespace phasor
