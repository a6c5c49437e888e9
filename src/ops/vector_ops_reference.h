// Plain double-precision forms of vector_ops.h: no cleverness, only for tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace phasor::reference {

inline std::vector<double> RmsNorm(const float* x, const float* w, double eps, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  std::vector<double> y(n);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] / std::sqrt(sum / n + eps) * w[i];
  return y;
}

inline std::vector<double> SwiGlu(const float* gate, const float* up, int64_t n) {
  std::vector<double> y(n);
  for (int64_t i = 0; i < n; ++i) {
    double g = gate[i];
    y[i] = g / (1 + std::exp(-g)) * up[i];
  }
  return y;
}

inline std::vector<double> Softmax(const float* x, int64_t n) {
  double max = x[0], sum = 0;
  for (int64_t i = 1; i < n; ++i) max = x[i] > max ? x[i] : max;
  std::vector<double> y(n);
  for (int64_t i = 0; i < n; ++i) sum += y[i] = std::exp(x[i] - max);
  for (double& v : y) v /= sum;
  return y;
}

}  // namespace phasor::reference
