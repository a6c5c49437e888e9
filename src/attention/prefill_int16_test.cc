#include "attention/prefill_int16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace phasor {
namespace {

// What rounding costs, for weights p that sum to one and values v of largest magnitude V in their
// channel: values move by at most V / 4094; each weight by half a unit of 2^-13 of its page's
// maximum, 128 of them with random signs by less than 2^-13 * sqrt(128) of it, and keys by 2^-15 of
// their norm, far less. Twice the sum of the first two.
constexpr double kValueTolerance = 2 * (1.0 / 4094 + 0x1.0p-13 * 11.4);

struct Problem {
  int n_rows = 0, D = 0;
  std::vector<float> q = {};  // [n_rows, D]
  std::vector<std::vector<float>> k = {}, v = {};
  std::vector<std::vector<int>> begin = {}, end = {};  // per page and row; empty: all
};

std::vector<float> Random(Rng& rng, int n, float size) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& e : x) e = static_cast<float>(rng.Normal()) * size;
  return x;
}

// [n_rows, D]; *largest: of the values.
std::vector<double> Reference(const Problem& p, double* largest) {
  std::vector<double> out(static_cast<std::size_t>(p.n_rows) * p.D, 0.0);
  *largest = 0;
  for (int r = 0; r < p.n_rows; ++r) {
    double max = -1e300, sum = 0;
    std::vector<std::vector<double>> scores(p.k.size());
    for (std::size_t i = 0; i < p.k.size(); ++i) {
      const int n = static_cast<int>(p.k[i].size()) / p.D;
      for (int t = 0; t < n; ++t) {
        const bool visible = p.begin[i].empty() || (t >= p.begin[i][r] && t < p.end[i][r]);
        double dot = 0;
        for (int d = 0; d < p.D; ++d) {
          dot += static_cast<double>(p.q[static_cast<std::size_t>(r) * p.D + d]) *
                 p.k[i][static_cast<std::size_t>(t) * p.D + d];
          *largest =
              std::max<double>(*largest, std::abs(p.v[i][static_cast<std::size_t>(t) * p.D + d]));
        }
        scores[i].push_back(visible ? dot : -std::numeric_limits<double>::infinity());
        max = std::max(max, scores[i].back());
      }
    }
    for (auto& page : scores) {
      for (double& s : page) sum += s = std::exp(s - max);
    }
    for (std::size_t i = 0; i < p.k.size(); ++i) {
      for (std::size_t t = 0; t < scores[i].size(); ++t) {
        for (int d = 0; d < p.D; ++d) {
          out[static_cast<std::size_t>(r) * p.D + d] += scores[i][t] / sum * p.v[i][t * p.D + d];
        }
      }
    }
  }
  return out;
}

std::vector<float> AttendAll(const Problem& p) {
  Int16Block block;
  Int16Page page;
  StartInt16Block(p.n_rows, p.D, &block);
  SetInt16Queries(p.q.data(), &block);
  for (std::size_t i = 0; i < p.k.size(); ++i) {
    const int n = static_cast<int>(p.k[i].size()) / p.D;
    PackInt16Page(p.k[i].data(), p.v[i].data(), n, p.D, &page);
    const int last = (n + kInt16TokenStep - 1) / kInt16TokenStep * kInt16TokenStep;
    for (int r = 0; r < p.n_rows; r += kInt16GroupRows) {
      const bool all = p.begin[i].empty();
      AttendInt16Rows(page,
                      {r, std::min(kInt16GroupRows, p.n_rows - r), 0, last,
                       all ? nullptr : p.begin[i].data() + r, all ? nullptr : p.end[i].data() + r},
                      &block);
    }
  }
  std::vector<float> out(p.q.size());
  FinishInt16Block(block, out.data());
  return out;
}

double MaxError(const std::vector<float>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(a[i] - b[i]);
    if (!(error <= worst)) worst = error;  // NaN counts
  }
  return worst;
}

class PrefillInt16 : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasInt16Attention()) GTEST_SKIP() << "this CPU level has no 16-bit integer attention";
  }
};

TEST_F(PrefillInt16, AnyShapeMatchesDoubleWithinItsRounding) {
  Rng rng(3);
  for (int D : {1, 8, 31, 64, 80, 96, 112, 128, 192, 256}) {
    for (int n_rows : {1, 5, 6, 7, 24, 25, 61}) {
      Problem p{.n_rows = n_rows, .D = D};
      p.q = Random(rng, n_rows * D, 2.0f / std::sqrt(static_cast<float>(D)));
      for (int n : {4, 128, 127, 33, 32, 1, 65}) {
        p.k.push_back(Random(rng, n * D, 1.5f));
        p.v.push_back(Random(rng, n * D, 1.0f));
        p.begin.emplace_back();
        p.end.emplace_back();
        if (n == 128) continue;
        for (int r = 0; r < n_rows; ++r) {
          const int end = 1 + static_cast<int>(rng.Below(static_cast<uint64_t>(n)));
          const bool sees = n == 4 || rng.Below(4) != 0;
          p.begin.back().push_back(static_cast<int>(rng.Below(static_cast<uint64_t>(end))));
          p.end.back().push_back(sees ? end : 0);
        }
      }
      double largest;
      const auto expected = Reference(p, &largest);
      EXPECT_LT(MaxError(AttendAll(p), expected), kValueTolerance * largest)
          << "D " << D << " rows " << n_rows;
    }
  }
}

// A first token that takes nearly all weight must not swallow the rounding of the others.
TEST_F(PrefillInt16, LongFlatContextBehindASinkKeepsItsWeight) {
  Rng rng(4);
  constexpr int kD = 64, kPages = 40;
  Problem p{.n_rows = 12, .D = kD};
  p.q = Random(rng, 12 * kD, 0.05f);
  for (int r = 0; r < 12; ++r) p.q[r * kD] = 1.0f;
  for (int i = 0; i <= kPages; ++i) {
    const int n = i == 0 ? 4 : kPageTokens;
    p.k.push_back(Random(rng, n * kD, 0.1f));
    p.v.push_back(Random(rng, n * kD, 0.1f));
    for (int t = 0; t < n; ++t) {
      p.k.back()[static_cast<std::size_t>(t) * kD] = i == 0 ? 9.0f : 0.0f;
      for (int d = 0; d < kD; ++d) {
        p.v.back()[static_cast<std::size_t>(t) * kD + d] += i == 0 ? -1.0f : 1.0f;
      }
    }
    p.begin.emplace_back(i == 0 ? 12 : 0, 0);
    p.end.emplace_back(i == 0 ? 12 : 0, 4);
  }
  double largest;
  const auto expected = Reference(p, &largest);
  // exp(-9) * 5120 / 4 of the sink's weight: an error of that share would be far above this.
  EXPECT_LT(MaxError(AttendAll(p), expected), kValueTolerance * largest);
}

TEST_F(PrefillInt16, ExtremeNumbersStayFinite) {
  constexpr int kD = 64;
  Problem p{.n_rows = 2, .D = kD};
  p.q.assign(2 * kD, 1000.0f);
  std::fill(p.q.begin() + kD, p.q.end(), 0.0f);  // a query of zeros weighs all tokens alike
  p.k.emplace_back(kPageTokens * kD, 65504.0f);
  p.v.emplace_back(kPageTokens * kD, 65504.0f);
  p.k.emplace_back(kPageTokens * kD, 0.0f);  // keys and values of zeros
  p.v.emplace_back(kPageTokens * kD, 0.0f);
  p.k.emplace_back(2 * kD, -65504.0f);
  p.v.emplace_back(2 * kD, -65504.0f);
  p.begin = {{}, {}, {0, 1}};
  p.end = {{}, {}, {2, 2}};
  const auto out = AttendAll(p);
  EXPECT_NEAR(out[0], 65504.0, 65504.0 * kValueTolerance);
  EXPECT_NEAR(out[kD], 65504.0 * (128 - 1) / 257.0, 65504.0 * kValueTolerance);
}

}  // namespace
}  // namespace phasor
