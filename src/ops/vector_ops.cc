#include "ops/vector_ops.h"

#include <algorithm>
#include <cmath>

#include "ops/softmax_kernels.h"
#include "simd/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/vector_ops.cc"
#include <hwy/foreach_target.h>  // must come before the kernels
// clang-format off
#include "ops/vector_ops_kernel-inl.h"
// clang-format on

#if HWY_ONCE
namespace phasor {

HWY_EXPORT(RmsNormKernel);
HWY_EXPORT(SwiGluKernel);
HWY_EXPORT(MaxKernel);
HWY_EXPORT(ExpSumKernel);
HWY_EXPORT(ExpSumConstKernel);
HWY_EXPORT(KlKernel);
HWY_EXPORT(AxpyKernel);
HWY_EXPORT(ScaleKernel);
HWY_EXPORT(DotKernel);
HWY_EXPORT(RopeHalfSplitKernel);

void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormKernel)(x, weight, eps, n, y);
}

void SwiGlu(const float* gate, const float* up, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(SwiGluKernel)(gate, up, n, y);
}

void Softmax(float* x, int64_t n) {
  if (n <= 0) return;
  float max = HWY_DYNAMIC_DISPATCH(MaxKernel)(x, n, x[0]);
  float sum = HWY_DYNAMIC_DISPATCH(ExpSumKernel)(x, n, max);
  Scale(1.0f / sum, n, x);
}

float MaxOf(const float* x, int64_t n, float start) {
  const FloatRow row = {const_cast<float*>(x), n};
  return MaxOf({&row, 1}, start);
}

float ExpSum(float* x, int64_t n, float max) {
  const FloatRow row = {x, n};
  return ExpSum({&row, 1}, max);
}

float MaxOf(std::span<const FloatRow> rows, float start) {
#if defined(__x86_64__)
  if (IsAvx512(ActiveCpuLevel())) return MaxOfAvx512(rows, start);
#endif
  for (const FloatRow& r : rows) start = HWY_DYNAMIC_DISPATCH(MaxKernel)(r.x, r.n, start);
  return start;
}

float ExpSum(std::span<const FloatRow> rows, float max) {
#if defined(__x86_64__)
  if (IsAvx512(ActiveCpuLevel())) return ExpSumAvx512(rows, max);
#endif
  float sum = 0;
  for (const FloatRow& r : rows) {
#if defined(__x86_64__)
    if (ActiveCpuLevel() == CpuLevel::kAvx2) {
      sum += ExpSumAvx2(r.x, r.n, max);
      continue;
    }
#endif
    sum += HWY_DYNAMIC_DISPATCH(ExpSumKernel)(r.x, r.n, max);
  }
  return sum;
}

float OnlineSoftmax(float* x, int64_t n, float* max, float* sum) {
  const float new_max = MaxOf(x, n, *max);
  const float factor = *max == new_max ? 1.0f : std::exp(*max - new_max);
  *max = new_max;
  *sum = *sum * factor + ExpSum(x, n, new_max);
  return factor;
}

void Axpy(float a, const float* x, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(AxpyKernel)(a, x, n, y);
}

void Scale(float a, int64_t n, float* x) { HWY_DYNAMIC_DISPATCH(ScaleKernel)(a, n, x); }

float Dot(const float* a, const float* b, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(DotKernel)(a, b, n);
}

namespace {
// Float sums over a whole vocabulary lose digits where a vector has one lane; pieces of this many
// terms are added up in double.
constexpr int64_t kSumPiece = 1024;
}  // namespace

float LogSumExp(const float* x, int64_t n) {
  if (n <= 0) return -INFINITY;
  const float max = HWY_DYNAMIC_DISPATCH(MaxKernel)(x, n, x[0]);
  double sum = 0;
  for (int64_t i = 0; i < n; i += kSumPiece) {
    sum += HWY_DYNAMIC_DISPATCH(ExpSumConstKernel)(x + i, std::min(kSumPiece, n - i), max);
  }
  return static_cast<float>(max + std::log(sum));
}

float KlDivergence(const float* base, const float* test, int64_t n) {
  const float lse_base = LogSumExp(base, n), lse_test = LogSumExp(test, n);
  double sum = 0;
  for (int64_t i = 0; i < n; i += kSumPiece) {
    sum += HWY_DYNAMIC_DISPATCH(KlKernel)(base + i, lse_base, test + i, lse_test,
                                          std::min(kSumPiece, n - i));
  }
  return static_cast<float>(sum);
}

void TurnsToAngles(std::span<const uint64_t> turns_P, double factor, float* cos_P, float* sin_P) {
  for (std::size_t j = 0; j < turns_P.size(); ++j) {
    // A signed reading keeps small angles small.
    const double angle = static_cast<double>(static_cast<int64_t>(turns_P[j])) *
                         (6.283185307179586476925 * 0x1.0p-64);
    cos_P[j] = static_cast<float>(std::cos(angle) * factor);
    sin_P[j] = static_cast<float>(std::sin(angle) * factor);
  }
}

void RopeAngles(const PhaseTable& table, int64_t position, float* cos_P, float* sin_P) {
  for (std::size_t j = 0; j < table.step_P.size(); ++j) {
    // The product wraps modulo one turn exactly.
    const uint64_t turns = table.step_P[j] * static_cast<uint64_t>(position);
    TurnsToAngles({&turns, 1}, table.attention_factor, cos_P + j, sin_P + j);
  }
}

void RopeAnglesAt(const PhaseTable& table, PositionTicks position, float* cos_P, float* sin_P) {
  for (std::size_t j = 0; j < table.step_P.size(); ++j) {
    const uint64_t turns = TurnsAt(table.step_P[j], position);
    TurnsToAngles({&turns, 1}, table.attention_factor, cos_P + j, sin_P + j);
  }
}

void ApplyRope(float* x_HD, int n_heads, int head_dim, int n_rot, RopePairing pairing,
               const float* cos_P, const float* sin_P) {
  const int n_pairs = n_rot / 2;
  for (int h = 0; h < n_heads; ++h) {
    float* x = x_HD + static_cast<int64_t>(h) * head_dim;
    if (pairing == RopePairing::kHalfSplit) {
      HWY_DYNAMIC_DISPATCH(RopeHalfSplitKernel)(x, n_pairs, cos_P, sin_P);
      continue;
    }
    for (int j = 0; j < n_pairs; ++j) {
      const float a = x[2 * j], b = x[2 * j + 1];
      x[2 * j] = a * cos_P[j] - b * sin_P[j];
      x[2 * j + 1] = a * sin_P[j] + b * cos_P[j];
    }
  }
}

}  // namespace phasor
#endif  // HWY_ONCE
