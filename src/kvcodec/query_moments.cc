#include "kvcodec/query_moments.h"

#include <cmath>
#include <cstddef>
#include <numeric>

#include "base/check.h"
#include "kvcodec/polar_grid.h"  // PolarPairs

namespace phasor {

QueryMoments::QueryMoments(const KvCodecParams& params) : head_dim_(params.head_dim) {
  const auto D = static_cast<std::size_t>(head_dim_);
  omega_D_.assign(D, 0.0);
  sign_D_.assign(D, 0.0);
  at_zero_D_.assign(D, 0.0);
  sum_DD_.assign(D * D, 0.0);
  partner_D_.resize(D);
  std::iota(partner_D_.begin(), partner_D_.end(), int16_t{0});
  const std::vector<PairDims> pairs = PolarPairs(head_dim_, params.n_rot, params.pairing);
  PHASOR_CHECK(params.omega_P.size() <= pairs.size());
  for (std::size_t j = 0; j < params.omega_P.size(); ++j) {
    const auto [x, y] = pairs[j];
    omega_D_[x] = omega_D_[y] = params.omega_P[j];
    partner_D_[x] = y;
    partner_D_[y] = x;
    sign_D_[x] = -1.0;
    sign_D_[y] = 1.0;
  }
}

void QueryMoments::Add(const float* q_D, int64_t position) {
  const auto D = static_cast<std::size_t>(head_dim_);
  ++n_added_;
  for (std::size_t d = 0; d < D; ++d) {
    if (sign_D_[d] == 0) {
      at_zero_D_[d] = q_D[d];
      continue;
    }
    const double angle = -omega_D_[d] * static_cast<double>(position);
    at_zero_D_[d] = std::cos(angle) * q_D[d] + sign_D_[d] * std::sin(angle) * q_D[partner_D_[d]];
  }
  for (std::size_t a = 0; a < D; ++a) {
    double* row = sum_DD_.data() + a * D;
    for (std::size_t b = 0; b <= a; ++b) row[b] += at_zero_D_[a] * at_zero_D_[b];
  }
}

std::vector<double> QueryMoments::Average(double n_positions) const {
  const auto D = static_cast<std::size_t>(head_dim_);
  std::vector<double> mean_DD(D * D, 0.0);
  if (n_added_ == 0) return mean_DD;
  // Means of cosine and sine of omega u over u in 0 .. n.
  auto cosine = [&](double omega) {
    const double a = omega * n_positions;
    return std::fabs(a) < 1e-6 ? 1.0 : std::sin(a) / a;
  };
  auto sine = [&](double omega) {
    const double a = omega * n_positions;
    return std::fabs(a) < 1e-6 ? 0.5 * a : (1.0 - std::cos(a)) / a;
  };
  auto moment = [&](std::size_t a, std::size_t b) {
    return sum_DD_[a < b ? b * D + a : a * D + b] / static_cast<double>(n_added_);
  };
  for (std::size_t a = 0; a < D; ++a) {
    for (std::size_t b = 0; b <= a; ++b) {
      const double sum = omega_D_[a] + omega_D_[b], difference = omega_D_[a] - omega_D_[b];
      const auto pa = static_cast<std::size_t>(partner_D_[a]);
      const auto pb = static_cast<std::size_t>(partner_D_[b]);
      const double cc = 0.5 * (cosine(difference) + cosine(sum));
      const double ss = 0.5 * (cosine(difference) - cosine(sum));
      const double sc = 0.5 * (sine(sum) + sine(difference));  // sine of a's angle, cosine of b's
      const double cs = 0.5 * (sine(sum) - sine(difference));
      mean_DD[a * D + b] = mean_DD[b * D + a] =
          cc * moment(a, b) + cs * sign_D_[b] * moment(a, pb) + sc * sign_D_[a] * moment(pa, b) +
          ss * sign_D_[a] * sign_D_[b] * moment(pa, pb);
    }
  }
  return mean_DD;
}

}  // namespace phasor
