#include "kvcodec/width_allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace phasor {
namespace {

// Errors like real ones: each bit about halves them, with noise, so that splits differ.
PairErrorTable RandomErrors(int n_pairs, Rng* rng) {
  PairErrorTable table;
  table.n_pairs = n_pairs;
  table.n_tokens = 1;
  for (int j = 0; j < n_pairs; ++j) {
    const double radius = std::exp(rng->Normal()), angle = std::exp(rng->Normal());
    for (const PolarWidth& width : kPolarClasses) {
      table.error_PC.push_back(
          (radius * std::pow(4, -width.r_bits) + angle * std::pow(4, -width.a_bits)) *
          (1 + 0.3 * rng->Uniform()));
    }
  }
  return table;
}

std::vector<double> RandomWeights(int n_pairs, Rng* rng) {
  std::vector<double> weights;
  for (int j = 0; j < n_pairs; ++j) weights.push_back(std::exp(3 * rng->Normal()));
  return weights;
}

double BruteForce(const std::vector<WidthHead>& heads, double bits) {
  std::vector<std::pair<const WidthHead*, int>> pairs;
  for (const WidthHead& head : heads) {
    for (int j = 0; j < head.errors->n_pairs; ++j) pairs.push_back({&head, j});
  }
  const int budget = static_cast<int>(2 * (bits - kPolarGridBits) * pairs.size() + 1e-6);
  double best = std::numeric_limits<double>::infinity();
  auto visit = [&](auto&& self, size_t i, int left, double cost) -> void {
    if (left < 0) return;
    if (i == pairs.size()) {
      best = std::min(best, cost);
      return;
    }
    const auto& [head, j] = pairs[i];
    for (int c = 0; c < kNumPolarClasses; ++c) {
      self(self, i + 1, left - kPolarClasses[c].total(),
           cost + head->weight_P[static_cast<size_t>(j)] * head->errors->at(j, c));
    }
  };
  visit(visit, 0, budget, 0);
  return best;
}

TEST(WidthAllocation, OneHeadEqualsBruteForce) {
  Rng rng(1);
  for (int trial = 0; trial < 20; ++trial) {
    const PairErrorTable errors = RandomErrors(4, &rng);
    const std::vector<double> weights = RandomWeights(4, &rng);
    const WidthHead head = {&errors, weights};
    for (double bits : {2.25, 2.7, 3.25, 4.25, 5.1, 6.25}) {
      auto classes = AllocateWidths(head, bits);
      ASSERT_TRUE(classes.ok());
      EXPECT_LE(WidthBitsPerElement(*classes), bits + 1e-9);
      const double best = BruteForce({head}, bits);
      EXPECT_NEAR(WeightedError(head, *classes), best, 1e-12 * best);
    }
  }
}

TEST(WidthAllocation, SeveralHeadsAreWithinOneStepOfBruteForce) {
  Rng rng(2);
  for (int trial = 0; trial < 20; ++trial) {
    const PairErrorTable a = RandomErrors(2, &rng), b = RandomErrors(2, &rng);
    const std::vector<double> wa = RandomWeights(2, &rng), wb = RandomWeights(2, &rng);
    const std::vector<WidthHead> heads = {{&a, wa}, {&b, wb}};
    for (double bits : {2.25, 3.25, 4.25, 5.25, 6.25}) {
      auto classes = AllocateWidthsJointly(heads, bits);
      ASSERT_TRUE(classes.ok());
      const double used = (WidthBitsPerElement((*classes)[0]) + WidthBitsPerElement((*classes)[1]));
      EXPECT_LE(used / 2, bits + 1e-9);
      const double cost =
          WeightedError(heads[0], (*classes)[0]) + WeightedError(heads[1], (*classes)[1]);
      // The optimum under a budget smaller by the widest step (12 - 4 bits of one pair) is a bound:
      // greedy steps stop within one of them.
      const double best = BruteForce(heads, bits);
      const double smaller = bits - 8.0 / (2 * 4);
      EXPECT_GE(cost, best * (1 - 1e-12));
      if (smaller >= 2.25) {
        EXPECT_LE(cost, BruteForce(heads, smaller) * (1 + 1e-12));
      }
    }
  }
}

TEST(WidthAllocation, MoreBitsNeverHurtAndTheBudgetIsKept) {
  Rng rng(3);
  const int n_pairs = 32, n_heads = 5;
  std::vector<PairErrorTable> errors;
  std::vector<std::vector<double>> weights;
  std::vector<WidthHead> heads;
  for (int h = 0; h < n_heads; ++h) {
    errors.push_back(RandomErrors(n_pairs, &rng));
    weights.push_back(RandomWeights(n_pairs, &rng));
  }
  for (int h = 0; h < n_heads; ++h) heads.push_back({&errors[h], weights[h]});
  double before_each = std::numeric_limits<double>::infinity(), before_joint = before_each;
  for (double bits = 2.25; bits <= 6.5; bits += 0.25) {
    double each = 0, joint = 0, used = 0;
    auto together = AllocateWidthsJointly(heads, bits);
    ASSERT_TRUE(together.ok());
    for (int h = 0; h < n_heads; ++h) {
      auto alone = AllocateWidths(heads[h], bits);
      ASSERT_TRUE(alone.ok());
      EXPECT_LE(WidthBitsPerElement(*alone), bits + 1e-9);
      each += WeightedError(heads[h], *alone);
      joint += WeightedError(heads[h], (*together)[h]);
      used += WidthBitsPerElement((*together)[h]) / n_heads;
    }
    EXPECT_LE(used, bits + 1e-9);
    EXPECT_LE(each, before_each);
    EXPECT_LE(joint, before_joint);
    EXPECT_LE(joint, each * 1.001);  // one budget can do what several can, up to the last step
    before_each = each;
    before_joint = joint;
  }
}

TEST(WidthAllocation, HeavyPairsGetMoreBitsThanLightOnes) {
  Rng rng(4);
  PairErrorTable errors = RandomErrors(1, &rng);
  const std::vector<double> row = errors.error_PC;
  for (int j = 1; j < 16; ++j)
    errors.error_PC.insert(errors.error_PC.end(), row.begin(), row.end());
  errors.n_pairs = 16;
  std::vector<double> weights;
  for (int j = 0; j < 16; ++j) weights.push_back(std::pow(2.0, j));
  auto classes = AllocateWidths({&errors, weights}, 4.25);
  ASSERT_TRUE(classes.ok());
  for (int j = 1; j < 16; ++j) {
    EXPECT_GE(kPolarClasses[(*classes)[j]].total(), kPolarClasses[(*classes)[j - 1]].total());
  }
  EXPECT_GT(kPolarClasses[(*classes)[15]].total(), kPolarClasses[(*classes)[0]].total());
}

TEST(WidthAllocation, MeasuredErrorsAreThoseOfTheCells) {
  // A full ring of constant radius has angle errors only: r^2 step^2 / 12.
  const int n = 128 * 40;
  Rng rng(5);
  std::vector<float> keys;
  for (int t = 0; t < n; ++t) {
    const double angle = 6.283185307179586 * rng.Uniform();
    keys.push_back(static_cast<float>(2 * std::cos(angle)));
    keys.push_back(static_cast<float>(2 * std::sin(angle)));
  }
  KvCodecParams params;
  params.head_dim = params.n_rot = 2;
  const PairErrorTable table = MeasurePairErrors(keys.data(), n, params);
  ASSERT_EQ(table.n_pairs, 1);
  for (int c = 0; c < kNumPolarClasses; ++c) {
    if (kPolarClasses[c].a_bits < 3) continue;  // chord against arc
    const double step = 2 * 6.283185307179586 / (1 << kPolarClasses[c].a_bits);
    // The largest of 128 gaps is left out of the circle: 4 % of it, and sampling noise.
    EXPECT_NEAR(table.at(0, c) / (step * step / 12), 0.93, 0.07) << c;
  }
  PairErrorTable merged = MeasurePairErrors(keys.data(), 1280, params);
  MergePairErrors(MeasurePairErrors(keys.data() + 2 * 1280, n - 1280, params), &merged);
  for (int c = 0; c < kNumPolarClasses; ++c) EXPECT_NEAR(merged.at(0, c), table.at(0, c), 1e-12);
}

TEST(WidthAllocation, BadInputIsAnError) {
  Rng rng(6);
  PairErrorTable errors = RandomErrors(4, &rng);
  std::vector<double> weights = RandomWeights(4, &rng);
  EXPECT_TRUE(AllocateWidths({&errors, weights}, 2.25).ok());
  EXPECT_FALSE(AllocateWidths({&errors, weights}, 2.2).ok());
  EXPECT_FALSE(AllocateWidths({&errors, weights}, std::nan("")).ok());
  EXPECT_FALSE(AllocateWidths({&errors, std::span(weights).first(3)}, 4.25).ok());
  weights[2] = -1;
  EXPECT_FALSE(AllocateWidths({&errors, weights}, 4.25).ok());
  weights[2] = 0;
  errors.error_PC[5] = std::nan("");
  EXPECT_FALSE(AllocateWidths({&errors, weights}, 4.25).ok());
}

}  // namespace
}  // namespace phasor
