// Highway bodies of vector_ops.h: compiled once per CPU target by vector_ops.cc, which includes
// this file through hwy/foreach_target.h. Not to be included anywhere else.
#if defined(PHASOR_OPS_VECTOR_OPS_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PHASOR_OPS_VECTOR_OPS_KERNEL_INL_H_
#undef PHASOR_OPS_VECTOR_OPS_KERNEL_INL_H_
#else
#define PHASOR_OPS_VECTOR_OPS_KERNEL_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace phasor {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::ScalableTag<float>;

// Calls body(i, n) for whole vectors (n = lanes) and once for the tail (n < lanes).
template <class Body>
HWY_INLINE void ForEachVector(int64_t n, Body body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(F()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, lanes);
  if (i < n) body(i, n - i);
}

HWY_INLINE hn::Vec<F> LoadSome(const float* p, int64_t n) {
  const F f;
  if (n == static_cast<int64_t>(hn::Lanes(f))) return hn::LoadU(f, p);
  HWY_ALIGN float tmp[HWY_MAX_BYTES / sizeof(float)] = {};
  for (int64_t i = 0; i < n; ++i) tmp[i] = p[i];
  return hn::Load(f, tmp);
}

HWY_INLINE void StoreSome(hn::Vec<F> v, int64_t n, float* p) {
  const F f;
  if (n == static_cast<int64_t>(hn::Lanes(f))) {
    hn::StoreU(v, f, p);
    return;
  }
  HWY_ALIGN float tmp[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, f, tmp);
  for (int64_t i = 0; i < n; ++i) p[i] = tmp[i];
}

void RmsNormKernel(const float* x, const float* weight, float eps, int64_t n, float* y) {
  const F f;
  auto sum = hn::Zero(f);
  ForEachVector(n, [&](int64_t i, int64_t m) HWY_ATTR {
    const auto v = LoadSome(x + i, m);
    sum = hn::MulAdd(v, v, sum);
  });
  const float mean = hn::GetLane(hn::SumOfLanes(f, sum)) / static_cast<float>(n);
  const auto scale = hn::Set(f, 1.0f / std::sqrt(mean + eps));
  ForEachVector(n, [&](int64_t i, int64_t m) HWY_ATTR {
    StoreSome(hn::Mul(hn::Mul(LoadSome(x + i, m), scale), LoadSome(weight + i, m)), m, y + i);
  });
}

void SwiGluKernel(const float* gate, const float* up, int64_t n, float* y) {
  const F f;
  const auto one = hn::Set(f, 1.0f);
  ForEachVector(n, [&](int64_t i, int64_t m) HWY_ATTR {
    const auto g = LoadSome(gate + i, m);
    const auto silu = hn::Div(g, hn::Add(one, hn::Exp(f, hn::Neg(g))));
    StoreSome(hn::Mul(silu, LoadSome(up + i, m)), m, y + i);
  });
}

float MaxKernel(const float* x, int64_t n, float start) {
  const F f;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f)), four = 4 * lanes;
  // Four vectors at a time, here and below, so that their steps overlap: rows are short.
  auto a = hn::Set(f, start), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + four <= n; i += four) {
    a = hn::Max(a, hn::LoadU(f, x + i));
    b = hn::Max(b, hn::LoadU(f, x + i + lanes));
    c = hn::Max(c, hn::LoadU(f, x + i + 2 * lanes));
    d = hn::Max(d, hn::LoadU(f, x + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) a = hn::Max(a, hn::LoadU(f, x + i));
  float result = hn::GetLane(hn::MaxOfLanes(f, hn::Max(hn::Max(a, b), hn::Max(c, d))));
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

// e^x for x <= 0, which is all a softmax asks for, in half the steps of the general one: relative
// error below 2e-6 down to -16, 1e-5 below; e^-86 stands for everything smaller.
inline hn::Vec<F> ExpOfNegative(F f, hn::Vec<F> x) {
  const hn::RebindToSigned<F> i;
  const auto y = hn::Mul(hn::Max(x, hn::Set(f, -86.0f)), hn::Set(f, 1.44269504f));
  const auto n = hn::NearestInt(y);
  const auto r = hn::Sub(y, hn::ConvertTo(f, n));
  // 2^r on [-1/2, 1/2], within 2e-7.
  auto p = hn::MulAdd(r, hn::Set(f, 1.34004e-3f), hn::Set(f, 9.67604e-3f));
  p = hn::MulAdd(p, r, hn::Set(f, 5.550327e-2f));
  p = hn::MulAdd(p, r, hn::Set(f, 2.4022107e-1f));
  p = hn::MulAdd(p, r, hn::Set(f, 6.9314721e-1f));
  p = hn::MulAdd(p, r, hn::Set(f, 1.0000001f));
  return hn::BitCast(f, hn::Add(hn::BitCast(i, p), hn::ShiftLeft<23>(n)));
}

// x = exp(x - max) in place, max at least the largest; returns the sum.
float ExpSumKernel(float* x, int64_t n, float max) {
  const F f;
  const auto shift = hn::Set(f, max);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f)), four = 4 * lanes;
  auto s0 = hn::Zero(f), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + four <= n; i += four) {
    const auto a = ExpOfNegative(f, hn::Sub(hn::LoadU(f, x + i), shift));
    const auto b = ExpOfNegative(f, hn::Sub(hn::LoadU(f, x + i + lanes), shift));
    const auto c = ExpOfNegative(f, hn::Sub(hn::LoadU(f, x + i + 2 * lanes), shift));
    const auto d = ExpOfNegative(f, hn::Sub(hn::LoadU(f, x + i + 3 * lanes), shift));
    hn::StoreU(a, f, x + i);
    hn::StoreU(b, f, x + i + lanes);
    hn::StoreU(c, f, x + i + 2 * lanes);
    hn::StoreU(d, f, x + i + 3 * lanes);
    s0 = hn::Add(s0, a);
    s1 = hn::Add(s1, b);
    s2 = hn::Add(s2, c);
    s3 = hn::Add(s3, d);
  }
  for (; i + lanes <= n; i += lanes) {
    const auto e = ExpOfNegative(f, hn::Sub(hn::LoadU(f, x + i), shift));
    hn::StoreU(e, f, x + i);
    s0 = hn::Add(s0, e);
  }
  float total = hn::GetLane(hn::SumOfLanes(f, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  if (i < n) {
    const auto e = ExpOfNegative(f, hn::Sub(LoadSome(x + i, n - i), shift));
    StoreSome(e, n - i, x + i);
    for (; i < n; ++i) total += x[i];
  }
  return total;
}

// Sum of exp(x - max) without changing x.
float ExpSumConstKernel(const float* x, int64_t n, float max) {
  const F f;
  const auto shift = hn::Set(f, max);
  auto sum = hn::Zero(f);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    sum = hn::Add(sum, hn::Exp(f, hn::Sub(hn::LoadU(f, x + i), shift)));
  }
  float total = hn::GetLane(hn::SumOfLanes(f, sum));
  for (; i < n; ++i) total += std::exp(x[i] - max);
  return total;
}

// sum of exp(a - lse_a) * ((a - lse_a) - (b - lse_b)).
float KlKernel(const float* a, float lse_a, const float* b, float lse_b, int64_t n) {
  const F f;
  const auto la = hn::Set(f, lse_a), lb = hn::Set(f, lse_b);
  auto sum = hn::Zero(f);
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto x = hn::Sub(hn::LoadU(f, a + i), la), y = hn::Sub(hn::LoadU(f, b + i), lb);
    sum = hn::MulAdd(hn::Exp(f, x), hn::Sub(x, y), sum);
  }
  float total = hn::GetLane(hn::SumOfLanes(f, sum));
  for (; i < n; ++i) total += std::exp(a[i] - lse_a) * ((a[i] - lse_a) - (b[i] - lse_b));
  return total;
}

void AxpyKernel(float a, const float* x, int64_t n, float* y) {
  const F f;
  const auto va = hn::Set(f, a);
  ForEachVector(n, [&](int64_t i, int64_t m) HWY_ATTR {
    StoreSome(hn::MulAdd(va, LoadSome(x + i, m), LoadSome(y + i, m)), m, y + i);
  });
}

void ScaleKernel(float a, int64_t n, float* x) {
  const F f;
  const auto va = hn::Set(f, a);
  ForEachVector(n, [&](int64_t i, int64_t m)
                       HWY_ATTR { StoreSome(hn::Mul(va, LoadSome(x + i, m)), m, x + i); });
}

float DotKernel(const float* a, const float* b, int64_t n) {
  const F f;
  auto sum = hn::Zero(f);
  ForEachVector(n, [&](int64_t i, int64_t m)
                       HWY_ATTR { sum = hn::MulAdd(LoadSome(a + i, m), LoadSome(b + i, m), sum); });
  return hn::GetLane(hn::SumOfLanes(f, sum));
}

void RopeHalfSplitKernel(float* x, int n_pairs, const float* cos_P, const float* sin_P) {
  ForEachVector(n_pairs, [&](int64_t j, int64_t m) HWY_ATTR {
    const auto a = LoadSome(x + j, m), b = LoadSome(x + n_pairs + j, m);
    const auto c = LoadSome(cos_P + j, m), s = LoadSome(sin_P + j, m);
    StoreSome(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), m, x + j);
    StoreSome(hn::MulAdd(a, s, hn::Mul(b, c)), m, x + n_pairs + j);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace phasor
HWY_AFTER_NAMESPACE();

#endif  // PHASOR_OPS_VECTOR_OPS_KERNEL_INL_H_
