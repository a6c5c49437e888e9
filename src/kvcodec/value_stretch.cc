#include "kvcodec/value_stretch.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/check.h"
#include "kvcodec/hadamard.h"
#include "kvcodec/row_codec.h"
#include "simd/cpu.h"
#include "simd/lanes.h"

namespace phasor {
namespace {

// ValueStretch::WeighStrip.
struct StripToWeigh {
  const float *x_DT, *level_DT;  // [D][16]
  int head_dim;
  const float* rotated;  // [n, padded]
  int padded;
  const float* weigh;  // [n]
  int n;
  float *square, *product;  // [16]
};

}  // namespace
}  // namespace phasor

#define PHASOR_LEVEL_FILE "kvcodec/value_stretch-inl.h"
#include "simd/each_level-inl.h"

namespace phasor {
namespace {

constexpr float kMostStretch = 64.0f;
// Of a direction, at least, is not in those in front of it.
constexpr double kLeastOwn = 0.1;

int Padded(int head_dim) { return (head_dim + 15) / 16 * 16; }

struct Functions {
  decltype(&plain::Stretch) stretch;
  decltype(&plain::FeedBack) feed_back;
  decltype(&plain::WeighStrip) weigh;
};

Functions ChooseFunctions() {
#if defined(__x86_64__)
  if (IsAvx512(ActiveCpuLevel())) return {avx512::Stretch, avx512::FeedBack, avx512::WeighStrip};
  if (ActiveCpuLevel() == CpuLevel::kAvx2) return {avx2::Stretch, avx2::FeedBack, avx2::WeighStrip};
#endif
  return {plain::Stretch, plain::FeedBack, plain::WeighStrip};
}

void StretchRows(float* x_ND, int n, int D, const float* directions, const float* factor,
                 int n_directions) {
  const Functions functions = ChooseFunctions();
  const int padded = Padded(D);
  if (padded == D) return functions.stretch(x_ND, n, D, D, directions, factor, n_directions);
  alignas(64) float row[kMaxHeadDim] = {};
  for (int i = 0; i < n; ++i) {
    float* x = x_ND + static_cast<std::ptrdiff_t>(i) * D;
    std::copy_n(x, D, row);
    functions.stretch(row, 1, padded, padded, directions, factor, n_directions);
    std::copy_n(row, D, x);
  }
}

// Weights of residuals for the metric m_DD, positive definite: with m = U D U^T, U unit upper
// triangular, e^T m e = sum_c D_c u_c^2 for u = U^T e; a channel is rounded from x + (U^-T - 1) u.
std::vector<float> FeedbackOf(std::vector<double> m, std::size_t D) {
  // Column c of U from the last to the first, subtracting what it explains of those in front.
  std::vector<double> upper(D * D, 0.0);
  for (std::size_t c = D; c-- > 0;) {
    for (std::size_t r = 0; r <= c; ++r) upper[r * D + c] = m[r * D + c] / m[c * D + c];
    for (std::size_t a = 0; a < c; ++a) {
      for (std::size_t b = 0; b < c; ++b) {
        m[a * D + b] -= upper[a * D + c] * upper[b * D + c] * m[c * D + c];
      }
    }
  }
  // e = U^-T u by forward substitution: e_c = u_c - sum_{r<c} U[r][c] e_r.
  std::vector<double> inverse(D * D, 0.0);
  for (std::size_t c = 0; c < D; ++c) {
    inverse[c * D + c] = 1.0;
    for (std::size_t r = 0; r < c; ++r) {
      for (std::size_t k = 0; k <= r; ++k) {
        inverse[c * D + k] -= upper[r * D + c] * inverse[r * D + k];
      }
    }
  }
  std::vector<float> weight(D * D, 0.0f);
  for (std::size_t c = 0; c < D; ++c) {
    for (std::size_t r = 0; r < c; ++r) weight[c * D + r] = static_cast<float>(inverse[c * D + r]);
  }
  return weight;
}

// directions [n, D] to directions that are orthonormal to the last bit of a double, so that the way
// back is exact. False where one is next to nothing beside those in front of it.
bool Orthonormalize(std::vector<double>* directions, std::size_t D) {
  for (std::size_t i = 0; i < directions->size(); i += D) {
    double* u = directions->data() + i;
    const double before = std::sqrt(std::inner_product(u, u + D, u, 0.0));
    for (int twice = 0; twice < 2; ++twice) {
      for (std::size_t k = 0; k < i; k += D) {
        const double* v = directions->data() + k;
        const double part = std::inner_product(u, u + D, v, 0.0);
        for (std::size_t d = 0; d < D; ++d) u[d] -= part * v[d];
      }
    }
    const double length = std::sqrt(std::inner_product(u, u + D, u, 0.0));
    if (!(length > kLeastOwn * before) || !std::isfinite(length)) return false;
    for (std::size_t d = 0; d < D; ++d) u[d] /= length;
  }
  return true;
}

}  // namespace

Result<ValueStretch> ValueStretch::Make(const char* id, const KvCodecParams& params) {
  ValueStretch s;
  const auto D = static_cast<std::size_t>(params.head_dim), n = params.factor_N.size();
  if (params.direction_ND.size() != n * D || n > D) {
    return InvalidArgument(std::string(id) + ": expected up to " + std::to_string(D) +
                           " directions of " + std::to_string(D) + " numbers, found " +
                           std::to_string(params.direction_ND.size()) + " numbers for " +
                           std::to_string(n));
  }
  s.head_dim_ = params.head_dim;
  s.n_directions_ = static_cast<int>(n);
  const auto padded = static_cast<std::size_t>(Padded(params.head_dim));
  s.direction_.assign(n * padded, 0.0f);
  s.rotated_.assign(n * padded, 0.0f);
  std::vector<double> metric(D * D, 0.0);
  for (std::size_t d = 0; d < D; ++d) metric[d * D + d] = 1.0;
  std::vector<double> directions(params.direction_ND.begin(), params.direction_ND.end());
  if (!Orthonormalize(&directions, D)) {
    return InvalidArgument(std::string(id) + ": expected directions apart from each other");
  }
  for (std::size_t i = 0; i < n; ++i) {
    const float f = params.factor_N[i];
    if (!(f >= 1 / kMostStretch && f <= kMostStretch)) {
      return InvalidArgument(std::string(id) + ": expected factors of 1/64 to 64, found " +
                             std::to_string(f));
    }
    const double* u = directions.data() + i * D;
    std::copy(u, u + D, s.direction_.begin() + static_cast<std::ptrdiff_t>(i * padded));
    float* w = s.rotated_.data() + i * padded;
    std::copy(u, u + D, w);
    HadamardRows(w, 1, params.head_dim);
    s.apply_.push_back(f - 1);
    s.undo_.push_back(1 / f - 1);
    s.weigh_.push_back(1 / (f * f) - 1);
    for (std::size_t a = 0; a < D; ++a) {
      for (std::size_t b = 0; b < D; ++b) {
        metric[a * D + b] += static_cast<double>(s.weigh_[i]) * w[a] * w[b];
      }
    }
  }
  s.feedback_DD_ = FeedbackOf(std::move(metric), D);
  return s;
}

void ValueStretch::Apply(float* x_ND, int n) const {
  StretchRows(x_ND, n, head_dim_, direction_.data(), apply_.data(), n_directions_);
}

void ValueStretch::Undo(float* x_ND, int n) const {
  StretchRows(x_ND, n, head_dim_, direction_.data(), undo_.data(), n_directions_);
}

void ValueStretch::Weigh(const float* y_D, float* out_D) const {
  std::copy_n(y_D, head_dim_, out_D);
  StretchRows(out_D, 1, head_dim_, rotated_.data(), weigh_.data(), n_directions_);
}

void ValueStretch::WeighStrip(const float* x_DT, const float* level_DT, float* square,
                              float* product) const {
  ChooseFunctions().weigh({x_DT, level_DT, head_dim_, rotated_.data(), Padded(head_dim_),
                           weigh_.data(), n_directions_, square, product});
}

void FeedBackStrips(std::span<const FeedbackStrip> strips) {
  const int n = static_cast<int>(strips.size());
  PHASOR_CHECK(n >= 1 && n <= kMostStrips);
  ChooseFunctions().feed_back(strips.data(), n);
}

Directions StrongestDirections(std::span<const double> moments_DD, int head_dim, int n) {
  const auto D = static_cast<std::size_t>(head_dim);
  PHASOR_CHECK(moments_DD.size() == D * D);
  std::vector<double> m(moments_DD.begin(), moments_DD.end());
  double left = 0;
  for (std::size_t d = 0; d < D; ++d) left += m[d * D + d];
  Directions out;
  std::vector<double> strength;
  for (int i = 0; i < std::min(n, head_dim - 1); ++i) {
    // Power iteration from the strongest column, which the rest of the matrix is never orthogonal
    // to; what was found is taken out.
    std::size_t start = 0;
    for (std::size_t d = 0; d < D; ++d) {
      if (m[d * D + d] > m[start * D + start]) start = d;
    }
    std::vector<double> u(m.begin() + static_cast<std::ptrdiff_t>(start * D),
                          m.begin() + static_cast<std::ptrdiff_t>((start + 1) * D));
    double value = 0;
    constexpr int kSteps = 200;
    for (int step = 0; step <= kSteps; ++step) {
      const double length = std::sqrt(std::inner_product(u.begin(), u.end(), u.begin(), 0.0));
      if (!(length > 0)) break;
      for (double& x : u) x /= length;
      value = length;
      if (step == kSteps) break;
      std::vector<double> next(D, 0.0);
      for (std::size_t a = 0; a < D; ++a) {
        for (std::size_t b = 0; b < D; ++b) next[a] += m[a * D + b] * u[b];
      }
      u = std::move(next);
    }
    if (!(value > 0) || !(value < left)) break;
    left -= value;
    strength.push_back(value);
    for (const double x : u) out.direction_ND.push_back(static_cast<float>(x));
    for (std::size_t a = 0; a < D; ++a) {
      for (std::size_t b = 0; b < D; ++b) m[a * D + b] -= value * u[a] * u[b];
    }
  }
  const double rest = left / static_cast<double>(D - strength.size());
  for (const double value : strength) {
    out.factor_N.push_back(
        static_cast<float>(std::clamp(std::pow(value / rest, -0.375), 1.0 / kMostStretch, 1.0)));
  }
  return out;
}

}  // namespace phasor
