#include "kvcodec/frame_feedback.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "base/check.h"

namespace phasor {
namespace {

// What a channel adds to the squared error when less than this share of it is fed back: 1/4096 of
// its own.
constexpr double kSmallestFeedback = 1.0 / 64;
// Of a channel's mean square, at least, is its own; anything less is no matrix of moments with
// kMomentDoubt taken off.
constexpr double kSmallestPivot = 0.01;

// Correlations of some channels, in doubt, and the deviations they are of.
struct Correlations {
  std::size_t n = 0;
  std::vector<double> r;          // [n, n]
  std::vector<double> deviation;  // [n]
};

template <typename T>
Correlations Correlate(std::span<const T> moments_DD, std::size_t D,
                       std::span<const int16_t> channels) {
  Correlations c;
  c.n = channels.size();
  c.r.assign(c.n * c.n, 0.0);
  for (const int16_t d : channels) {
    c.deviation.push_back(std::sqrt(std::max(
        0.0, static_cast<double>(
                 moments_DD[static_cast<std::size_t>(d) * D + static_cast<std::size_t>(d)]))));
  }
  for (std::size_t i = 0; i < c.n; ++i) {
    c.r[i * c.n + i] = 1.0;
    for (std::size_t j = 0; j < i; ++j) {
      const double product = c.deviation[i] * c.deviation[j];
      const double moment = moments_DD[static_cast<std::size_t>(channels[i]) * D +
                                       static_cast<std::size_t>(channels[j])];
      const double r = product > 0 ? (1 - kMomentDoubt) * moment / product : 0.0;
      c.r[i * c.n + j] = c.r[j * c.n + i] = r;
    }
  }
  return c;
}

// r = L L^T in the lower triangle. False where r is not positive definite.
bool Factor(Correlations* c) {
  const std::size_t n = c->n;
  double* r = c->r.data();
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = r[i * n + j];
      for (std::size_t k = 0; k < j; ++k) sum -= r[i * n + k] * r[j * n + k];
      if (i != j) {
        r[i * n + j] = sum / r[j * n + j];
      } else if (sum >= kSmallestPivot) {
        r[i * n + i] = std::sqrt(sum);
      } else {
        return false;  // NaN too
      }
    }
  }
  return true;
}

// The inverse of L with its columns scaled to a diagonal of 1, row by row into the lower triangle.
void InvertUnit(Correlations* c) {
  const std::size_t n = c->n;
  double* l = c->r.data();
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t i = j + 1; i < n; ++i) l[i * n + j] /= l[j * n + j];
  }
  std::vector<double> row(n);
  for (std::size_t i = 0; i < n; ++i) {
    // Row i of the inverse: -sum_k l[i][k] inverse[k][j], with those above already inverted.
    std::fill(row.begin(), row.end(), 0.0);
    for (std::size_t k = 0; k < i; ++k) {
      const double x = l[i * n + k];
      row[k] -= x;
      for (std::size_t j = 0; j < k; ++j) row[j] -= x * l[k * n + j];
    }
    std::copy_n(row.begin(), i, l + i * n);
  }
}

}  // namespace

void AddFrameFeedback(std::span<const float> moments_DD, FrameLayout* layout) {
  if (moments_DD.empty()) return;
  const auto D = static_cast<std::size_t>(layout->head_dim);
  PHASOR_CHECK(moments_DD.size() == D * D);
  const std::span<const int16_t> channels(layout->channel_S.data(), D);  // -1 only behind them
  Correlations c = Correlate(moments_DD, D, channels);
  if (!Factor(&c)) return;
  InvertUnit(&c);
  for (std::size_t s = 0; s < layout->channel_S.size(); ++s) {
    layout->feedback_S.push_back(static_cast<uint32_t>(layout->feedback.size()));
    if (s >= D || c.deviation[s] <= 0) continue;
    for (std::size_t from = s + 1; from < D; ++from) {
      const double share = c.r[from * D + s];
      if (std::fabs(share) < kSmallestFeedback) continue;
      const double weight = share * c.deviation[from] / c.deviation[s];
      // A channel that queries all but ignore would be moved out of all proportion.
      if (!(std::fabs(weight) <= 1e3)) continue;
      layout->feedback.push_back({channels[from], static_cast<float>(weight)});
    }
  }
  layout->feedback_S.push_back(static_cast<uint32_t>(layout->feedback.size()));
}

std::vector<double> FeedbackWeights(std::span<const double> moments_DD,
                                    std::span<const double> error_D) {
  const std::size_t D = error_D.size();
  PHASOR_CHECK(moments_DD.size() == D * D);
  std::vector<int16_t> channels(D);
  std::iota(channels.begin(), channels.end(), int16_t{0});
  Correlations c = Correlate(moments_DD, D, channels);
  std::vector<double> diagonal, weight_D(D);
  for (const double d : c.deviation) diagonal.push_back(d * d);
  // Cholesky with the channel that costs most next; left[d]: what is left of its mean square.
  std::vector<double> left(D, 1.0);
  std::vector<bool> done(D, false);
  std::vector<std::size_t> order;
  std::vector<double> l(D * D);  // [channel, step]
  for (std::size_t step = 0; step < D; ++step) {
    std::size_t next = D;
    for (std::size_t d = 0; d < D; ++d) {
      if (done[d]) continue;
      if (next == D ||
          left[d] * diagonal[d] * error_D[d] > left[next] * diagonal[next] * error_D[next])
        next = d;
    }
    if (!(left[next] >= kSmallestPivot)) return diagonal;
    done[next] = true;
    weight_D[next] = left[next] * diagonal[next];
    const double root = std::sqrt(left[next]);
    for (std::size_t d = 0; d < D; ++d) {
      if (done[d]) continue;
      double sum = c.r[d * D + next];
      for (std::size_t k = 0; k < step; ++k) sum -= l[d * D + k] * l[next * D + k];
      l[d * D + step] = sum / root;
      left[d] -= l[d * D + step] * l[d * D + step];
    }
  }
  return weight_D;
}

}  // namespace phasor
