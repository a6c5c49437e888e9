#include "engine/attended_values.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "ops/vector_ops.h"

namespace phasor {
namespace {

constexpr int64_t kQueryStride = 8;
constexpr int64_t kRecent = 128;
// Of the mean weight, what every token gets on top: another text attends to other tokens.
constexpr double kEvenWeight = 0.25;

}  // namespace

void AttendedValues::Add(const float* q_GD, const float* k_D, const float* v_D) {
  keys_TD_.insert(keys_TD_.end(), k_D, k_D + head_dim_);
  values_TD_.insert(values_TD_.end(), v_D, v_D + head_dim_);
  if (n_tokens_ % kQueryStride == 0) {
    queries_NGD_.insert(queries_NGD_.end(), q_GD,
                        q_GD + static_cast<std::ptrdiff_t>(group_) * head_dim_);
  }
  ++n_tokens_;
}

std::vector<double> AttendedValues::Weights() const {
  std::vector<double> weight_T(static_cast<std::size_t>(n_tokens_), 0.0);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  std::vector<float> score(static_cast<std::size_t>(n_tokens_));
  const float* q = queries_NGD_.data();
  for (int64_t token = 0; token < n_tokens_; token += kQueryStride) {
    for (int i = 0; i < group_; ++i, q += head_dim_) {
      const int64_t end = token - kRecent;  // of those that may be in codes
      if (end <= n_sink_) continue;
      for (int64_t t = 0; t <= token; ++t) {
        score[t] = scale * Dot(q, keys_TD_.data() + t * head_dim_, head_dim_);
      }
      const double sum = LogSumExp(score.data(), token + 1);
      for (int64_t t = n_sink_; t < end; ++t) weight_T[t] += std::exp(2 * (score[t] - sum));
    }
  }
  return weight_T;
}

std::vector<double> AttendedValues::Moments() const {
  const auto D = static_cast<std::size_t>(head_dim_);
  std::vector<double> weight_T = Weights(), moments_DD(D * D, 0.0);
  const int64_t n = n_tokens_ - n_sink_;
  if (n <= 0) return moments_DD;
  const double total = std::accumulate(weight_T.begin(), weight_T.end(), 0.0);
  const double even = total > 0 ? kEvenWeight * total / static_cast<double>(n) : 1.0;
  for (int64_t t = n_sink_; t < n_tokens_; ++t) {
    const float* v = values_TD_.data() + t * head_dim_;
    for (std::size_t a = 0; a < D; ++a) {
      const double x = (weight_T[t] + even) * v[a];
      for (std::size_t b = 0; b <= a; ++b) moments_DD[a * D + b] += x * v[b];
    }
  }
  for (std::size_t a = 0; a < D; ++a) {
    for (std::size_t b = 0; b < a; ++b) moments_DD[b * D + a] = moments_DD[a * D + b];
  }
  return moments_DD;
}

}  // namespace phasor
