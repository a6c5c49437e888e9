#include "kvcodec/frame_allocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kvcodec/width_price.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

constexpr int kWidths = kMaxFrameBits + 1;
constexpr double kInf = std::numeric_limits<double>::infinity();

// Least cost of any choice within the budget.
double BruteForce(const std::vector<std::vector<WidthOption>>& options, int64_t budget) {
  double best = kInf;
  auto visit = [&](auto&& self, size_t i, int64_t left, double cost) -> void {
    if (left < 0) return;
    if (i == options.size()) {
      best = std::min(best, cost);
      return;
    }
    for (const WidthOption& o : options[i]) self(self, i + 1, left - o.units, cost + o.cost);
  };
  visit(visit, 0, budget, 0);
  return best;
}

// Each unit about divides the cost by four, or less regularly with noise.
std::vector<std::vector<WidthOption>> RandomOptions(int n, double noise, Rng* rng) {
  std::vector<std::vector<WidthOption>> options;
  for (int i = 0; i < n; ++i) {
    double cost = std::exp(2 * rng->Normal());
    std::vector<WidthOption> item;
    int units = static_cast<int>(rng->Below(2));
    for (uint8_t k = 0; k < 6; ++k) {
      item.push_back({units, cost, static_cast<uint8_t>(10 + k)});
      cost *= 0.25 * (1 + noise * rng->Uniform());
      units += noise > 0 ? 1 + static_cast<int>(rng->Below(2)) : 1;
    }
    options.push_back(item);
  }
  return options;
}

struct Bought {
  int64_t units = 0;
  double cost = 0;
};

Bought Sum(const std::vector<std::vector<WidthOption>>& options,
           const std::vector<uint8_t>& classes) {
  Bought sum;
  EXPECT_EQ(classes.size(), options.size());
  for (size_t i = 0; i < options.size(); ++i) {
    const auto at = std::find_if(options[i].begin(), options[i].end(),
                                 [&](const WidthOption& o) { return o.width_class == classes[i]; });
    EXPECT_NE(at, options[i].end());
    sum.units += at->units;
    sum.cost += at->cost;
  }
  return sum;
}

TEST(WidthPrice, ConvexCostsWithUnitStepsAreBoughtLikeBruteForce) {
  Rng rng(1);
  for (int trial = 0; trial < 30; ++trial) {
    const auto options = RandomOptions(4, 0, &rng);
    int64_t least = 0;
    for (const auto& item : options) least += item[0].units;
    for (int64_t budget = least; budget <= least + 21; ++budget) {
      const Bought sum = Sum(options, AllocateByPrice(options, budget));
      EXPECT_LE(sum.units, budget);
      const double best = BruteForce(options, budget);
      EXPECT_NEAR(sum.cost, best, 1e-12 * best);
    }
  }
}

TEST(WidthPrice, UnevenStepsKeepTheBudgetAndLoseLessThanOneStep) {
  Rng rng(2);
  for (int trial = 0; trial < 30; ++trial) {
    const auto options = RandomOptions(4, 3, &rng);
    int64_t least = 0, widest = 0;
    for (const auto& item : options) {
      least += item[0].units;
      for (size_t k = 0; k < item.size(); ++k) {
        for (size_t j = 0; j < k; ++j)
          widest = std::max<int64_t>(widest, item[k].units - item[j].units);
      }
    }
    for (int64_t budget = least; budget <= least + 30; ++budget) {
      const Bought sum = Sum(options, AllocateByPrice(options, budget));
      EXPECT_LE(sum.units, budget);
      EXPECT_GE(sum.cost, BruteForce(options, budget) * (1 - 1e-12));
      // Up to the first step that does not fit every step is on the hull of all choices.
      if (budget - widest >= least) {
        EXPECT_LE(sum.cost, BruteForce(options, budget - widest) * (1 + 1e-12));
      }
    }
  }
}

TEST(WidthPrice, WhatNothingHelpsStaysAtItsFirstOption) {
  const std::vector<std::vector<WidthOption>> options = {{{2, 1.0, 3}}, {{0, 5.0, 0}, {1, 1.0, 1}}};
  EXPECT_EQ(AllocateByPrice(options, 2), (std::vector<uint8_t>{3, 0}));
  EXPECT_EQ(AllocateByPrice(options, 100), (std::vector<uint8_t>{3, 1}));
  EXPECT_TRUE(AllocateByPrice({}, 0).empty());
}

// Errors that each bit divides by four, channels of very different size.
ChannelErrorTable RandomErrors(int n_channels, Rng* rng) {
  ChannelErrorTable table;
  table.n_channels = n_channels;
  for (int d = 0; d < n_channels; ++d) {
    const double size = std::exp(2 * rng->Normal());
    for (int b = 0; b < kWidths; ++b) {
      table.error_DW.push_back(size * std::pow(0.25, b) * (1 + 0.1 * rng->Uniform()));
    }
  }
  return table;
}

std::vector<double> RandomWeights(int n, Rng* rng) {
  std::vector<double> weights;
  for (int d = 0; d < n; ++d) weights.push_back(std::exp(2 * rng->Normal()));
  return weights;
}

double Cost(const ChannelHead& head, const std::vector<uint8_t>& width_D) {
  double cost = 0;
  for (size_t d = 0; d < width_D.size(); ++d) {
    cost += head.weight_D[d] * head.errors->error_DW[d * kWidths + width_D[d]];
  }
  return cost;
}

// Bits of all quads as a page stores them: the widest of four by falling width.
int QuadBits(std::vector<uint8_t> width_D) {
  std::sort(width_D.rbegin(), width_D.rend());
  int bits = 0;
  for (size_t d = 0; d < width_D.size(); d += 4) bits += width_D[d];
  return bits;
}

// All widths of all quads, for one head whose channels are grouped by falling need at 4 bits.
double BruteForceHead(const ChannelHead& head, int budget) {
  std::vector<int> order;
  for (int d = 0; d < head.errors->n_channels; ++d) order.push_back(d);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return head.weight_D[a] * head.errors->error_DW[a * kWidths + 4] >
           head.weight_D[b] * head.errors->error_DW[b * kWidths + 4];
  });
  std::vector<std::vector<WidthOption>> options;
  for (size_t first = 0; first < order.size(); first += 4) {
    std::vector<WidthOption> quad;
    for (int b = 0; b < kWidths; ++b) {
      double cost = 0;
      for (size_t i = first; i < std::min(first + 4, order.size()); ++i) {
        cost += head.weight_D[order[i]] * head.errors->error_DW[order[i] * kWidths + b];
      }
      quad.push_back({b, cost, static_cast<uint8_t>(b)});
    }
    options.push_back(quad);
  }
  return BruteForce(options, budget);
}

TEST(FrameAllocation, OneHeadEqualsBruteForceOverQuads) {
  Rng rng(3);
  for (int trial = 0; trial < 20; ++trial) {
    for (int D : {4, 7, 16}) {
      const ChannelErrorTable errors = RandomErrors(D, &rng);
      const std::vector<double> weights = RandomWeights(D, &rng);
      const ChannelHead head = {&errors, weights};
      const int n_quads = (D + 3) / 4;
      for (double bits : {0.25, 1.25, 2.6, 3.25, 4.25, 7.25}) {
        auto widths = AllocateChannelWidths({&head, 1}, bits);
        ASSERT_TRUE(widths.ok());
        ASSERT_EQ(widths->size(), 1u);
        const int budget = static_cast<int>(std::floor((bits - 0.25) * n_quads + 1e-6));
        EXPECT_LE(QuadBits((*widths)[0]), budget);
        const double best = BruteForceHead(head, budget);
        EXPECT_NEAR(Cost(head, (*widths)[0]), best, 1e-12 * best) << D << " " << bits;
      }
    }
  }
}

TEST(FrameAllocation, HeadsShareOneBudgetAndWidthsComeInFours) {
  Rng rng(4);
  for (int D : {64, 80, 66}) {
    std::vector<ChannelErrorTable> errors;
    std::vector<std::vector<double>> weights;
    for (int h = 0; h < 3; ++h) {
      errors.push_back(RandomErrors(D, &rng));
      weights.push_back(RandomWeights(D, &rng));
      for (double& w : weights.back()) w *= std::pow(30.0, h);  // the last head counts most
    }
    std::vector<ChannelHead> heads;
    for (int h = 0; h < 3; ++h) heads.push_back({&errors[h], weights[h]});
    const int n_quads = (D + 3) / 4;
    double before = kInf;
    for (double bits = 0.25; bits <= 7.25; bits += 0.5) {
      auto together = AllocateChannelWidths(heads, bits);
      ASSERT_TRUE(together.ok());
      ASSERT_EQ(together->size(), 3u);
      int used = 0;
      double joint = 0, each = 0;
      for (int h = 0; h < 3; ++h) {
        const std::vector<uint8_t>& width_D = (*together)[h];
        ASSERT_EQ(static_cast<int>(width_D.size()), D);
        int count[kWidths] = {};
        for (uint8_t w : width_D) ++count[std::min<int>(w, kMaxFrameBits)];
        int odd = 0;
        for (int n : count) odd += n % 4 != 0 ? 1 : 0;
        EXPECT_EQ(odd, D % 4 == 0 ? 0 : 1);
        used += QuadBits(width_D);
        joint += Cost(heads[h], width_D);
        auto alone = AllocateChannelWidths({&heads[h], 1}, bits);
        ASSERT_TRUE(alone.ok());
        each += Cost(heads[h], (*alone)[0]);
      }
      EXPECT_LE(used, (bits - 0.25) * 3 * n_quads + 1e-6);
      EXPECT_LE(joint, each * (1 + 1e-9));
      EXPECT_LE(joint, before);
      before = joint;
      if (bits == 4.25) {
        EXPECT_GT(QuadBits((*together)[2]), QuadBits((*together)[0]));
        EXPECT_LT(joint, 0.7 * each);
      }
    }
  }
}

// What widths of keys and values cost together, and how many bits they take (in quads).
struct Shared {
  double cost = 0;
  int64_t units = 0;
};
Shared Sum(std::span<const ChannelHead> keys, std::span<const ValueHead> values,
           const KeyAndValueWidths& widths) {
  Shared sum;
  for (size_t h = 0; h < keys.size(); ++h) {
    const std::vector<uint8_t>& width_D = widths.key_HD[h];
    if (width_D[0] != kFrameF16Width) {
      sum.cost += keys[h].importance * ScoreError(keys[h], width_D);
    }
    const auto at = std::find(std::begin(kValueWidths), std::end(kValueWidths), widths.value_H[h]);
    EXPECT_NE(at, std::end(kValueWidths));
    sum.cost += values[h].cost[at - std::begin(kValueWidths)];
    sum.units += QuadBits(width_D) + widths.value_H[h] * static_cast<int>((width_D.size() + 3) / 4);
  }
  return sum;
}

TEST(FrameAllocation, KeysAndValuesShareOneBudgetByWhatTheyCost) {
  Rng rng(9);
  constexpr int kHeads = 12, D = 16, kQuads = D / 4;
  for (int trial = 0; trial < 10; ++trial) {
    std::vector<ChannelErrorTable> errors;
    std::vector<std::vector<double>> weights;
    std::vector<ChannelHead> keys;
    std::vector<ValueHead> values;
    for (int h = 0; h < kHeads; ++h) {
      errors.push_back(RandomErrors(D, &rng));
      weights.push_back(RandomWeights(D, &rng));
    }
    for (int h = 0; h < kHeads; ++h) {
      keys.push_back({&errors[h], weights[h], std::exp(3 * rng.Normal())});
      const double cost = 10 * std::exp(3 * rng.Normal());
      values.push_back({{cost, 0.25 * cost, 0.001 * cost}});
    }
    double before = kInf;
    for (const double bits : {1.5, 2.0, 3.0, 3.95, 5.0, 7.0}) {
      const auto widths = AllocateKeysAndValues(keys, values, bits);
      ASSERT_TRUE(widths.ok()) << widths.status().message();
      const Shared sum = Sum(keys, values, *widths);
      const double budget = 2 * bits * kHeads * kQuads;
      EXPECT_LE(static_cast<double>(sum.units), budget + 1e-6);
      EXPECT_LE(sum.cost, before);
      before = sum.cost;
      if (bits < 3.5 || bits > 5.5) continue;  // more than 7 bits for keys
      // Better than values of 4 bits and the rest for keys: they are one of the choices, but for
      // the last step, which may not fit.
      const auto apart = AllocateChannelWidths(keys, 2 * bits - 4 + kFrameGridBits);
      ASSERT_TRUE(apart.ok());
      const Shared four = Sum(keys, values, {*apart, std::vector<uint8_t>(kHeads, 4)});
      EXPECT_LT(sum.cost, four.cost);
    }
  }
}

TEST(FrameAllocation, ValuesNobodyNeedsGetTheNarrowestWidth) {
  Rng rng(10);
  const ChannelErrorTable errors = RandomErrors(16, &rng);
  const std::vector<double> weights = RandomWeights(16, &rng);
  const std::vector<ChannelHead> keys(3, ChannelHead{&errors, weights, 1e-6});
  const std::vector<ValueHead> values = {{{0, 0, 0}}, {{4, 1, 0.01}}, {{1e3, 250, 1}}};
  const auto widths = AllocateKeysAndValues(keys, values, 3.0);
  ASSERT_TRUE(widths.ok());
  EXPECT_EQ(widths->value_H[0], 3);
  EXPECT_EQ(widths->value_H[2], 8);
  EXPECT_FALSE(AllocateKeysAndValues(keys, values, 1.4).ok());  // not even 3 bits for values
  EXPECT_FALSE(AllocateKeysAndValues(keys, std::span(values).first(2), 4).ok());
  EXPECT_FALSE(AllocateKeysAndValues({}, {}, 4).ok());
  const std::vector<ValueHead> bad = {{{0, 0, 0}}, {{-1, 0, 0}}, {{1, 0, 0}}};
  EXPECT_FALSE(AllocateKeysAndValues(keys, bad, 4).ok());
}

TEST(FrameAllocation, AHeadThatSevenBitsAreNotEnoughForGetsF16) {
  Rng rng(12);
  constexpr int kHeads = 40, D = 16;
  std::vector<ChannelErrorTable> errors;
  std::vector<std::vector<double>> weights;
  for (int h = 0; h < kHeads; ++h) {
    errors.push_back(RandomErrors(D, &rng));
    weights.push_back(RandomWeights(D, &rng));
  }
  std::vector<ChannelHead> keys;
  for (int h = 0; h < kHeads; ++h) keys.push_back({&errors[h], weights[h], h == 7 ? 1e7 : 1.0});
  const std::vector<ValueHead> values(kHeads, ValueHead{{1, 0.25, 0.001}});
  const auto widths = AllocateKeysAndValues(keys, values, 3.95);
  ASSERT_TRUE(widths.ok());
  EXPECT_LE(Sum(keys, values, *widths).units, std::floor(2 * 3.95 * kHeads * D / 4 + 1e-6));
  for (int h = 0; h < kHeads; ++h) {
    const bool is_f16 = widths->key_HD[h][0] == kFrameF16Width;
    EXPECT_EQ(is_f16, h == 7) << h;
    for (const uint8_t w : widths->key_HD[h]) EXPECT_EQ(w == kFrameF16Width, is_f16);
  }
}

TEST(FrameAllocation, ImportanceCountsLikeWeight) {
  Rng rng(11);
  const ChannelErrorTable a = RandomErrors(32, &rng), b = RandomErrors(32, &rng);
  const std::vector<double> weights = RandomWeights(32, &rng);
  std::vector<double> heavier = weights;
  for (double& w : heavier) w *= 64;
  const std::vector<ChannelHead> by_weight = {{&a, heavier}, {&b, weights}};
  const std::vector<ChannelHead> by_importance = {{&a, weights, 64}, {&b, weights}};
  EXPECT_EQ(AllocateChannelWidths(by_weight, 4.25).value(),
            AllocateChannelWidths(by_importance, 4.25).value());
}

TEST(FrameAllocation, ChannelsNobodyLooksAtGetNothing) {
  Rng rng(5);
  const ChannelErrorTable errors = RandomErrors(16, &rng);
  std::vector<double> weights(16, 1.0);
  for (int d : {1, 3, 8, 15}) weights[d] = 0;
  const ChannelHead head = {&errors, weights};
  auto widths = AllocateChannelWidths({&head, 1}, 4.25);
  ASSERT_TRUE(widths.ok());
  for (int d = 0; d < 16; ++d) {
    EXPECT_EQ((*widths)[0][d] == 0, weights[d] == 0) << d;
  }
}

// Uniform numbers are stored best in 2^b cells of equal size: errors of a cell's square over 12.
TEST(FrameAllocation, MeasuredErrorsAreThoseOfTheGrid) {
  Rng rng(6);
  const int D = 5, n = 128 * 30 + 50;
  std::vector<float> keys;
  for (int i = 0; i < n * D; ++i) {
    keys.push_back(static_cast<float>((rng.Uniform() - 0.5) * (1 + i % D)));
  }
  KvCodecParams params;
  params.head_dim = D;
  for (CpuLevel level : AvailableCpuLevels()) {
    const CpuLevel before = ActiveCpuLevel();
    ASSERT_TRUE(SetCpuLevel(level).ok());
    const ChannelErrorTable table = MeasureChannelErrors(keys.data(), n, params);
    ASSERT_TRUE(SetCpuLevel(before).ok());
    ASSERT_EQ(table.n_channels, D);
    ASSERT_EQ(table.error_DW.size(), static_cast<size_t>(D * kWidths));
    for (int d = 0; d < D; ++d) {
      const double range = 1 + d;
      for (int b = 0; b < kWidths; ++b) {
        const double cell = range / std::exp2(b);
        // The range of 128 numbers is 2/129 short of the whole one; ranges shrink in steps.
        EXPECT_NEAR(table.error_DW[d * kWidths + b] / (cell * cell / 12), 0.98, 0.06)
            << CpuLevelName(level) << " " << d << " " << b;
      }
    }
  }
}

TEST(FrameAllocation, BadInputIsAnError) {
  Rng rng(7);
  ChannelErrorTable errors = RandomErrors(8, &rng);
  std::vector<double> weights = RandomWeights(8, &rng);
  ChannelHead head = {&errors, weights};
  EXPECT_TRUE(AllocateChannelWidths({&head, 1}, 0.25).ok());
  EXPECT_TRUE(AllocateChannelWidths({&head, 1}, 7.25).ok());
  for (double bits : {0.2, 7.3, -1.0, std::nan(""), kInf, -kInf}) {
    auto widths = AllocateChannelWidths({&head, 1}, bits);
    ASSERT_FALSE(widths.ok()) << bits;
    EXPECT_NE(std::string(widths.status().message()).find("expected a budget of"),
              std::string::npos);
  }
  for (double bad : {-1.0, std::nan(""), kInf}) {
    std::vector<double> other = weights;
    other[3] = bad;
    head.weight_D = other;
    EXPECT_FALSE(AllocateChannelWidths({&head, 1}, 4.25).ok()) << bad;
    head.weight_D = weights;
    ChannelErrorTable table = errors;
    table.error_DW[9] = bad;
    head.errors = &table;
    EXPECT_FALSE(AllocateChannelWidths({&head, 1}, 4.25).ok()) << bad;
    head.errors = &errors;
  }
  head.weight_D = std::span<const double>(weights).first(7);
  EXPECT_FALSE(AllocateChannelWidths({&head, 1}, 4.25).ok());
  head.weight_D = weights;
  errors.error_DW.pop_back();
  EXPECT_FALSE(AllocateChannelWidths({&head, 1}, 4.25).ok());
  const ChannelErrorTable empty;
  const ChannelHead nobody = {&empty, {}};
  EXPECT_FALSE(AllocateChannelWidths({&nobody, 1}, 4.25).ok());
}

}  // namespace
}  // namespace phasor
