// AVX-512 on a CPU with AVX2, for tests only: names of types and intrinsics become macros for
// portable implementations. Included by simd/avx512.h where PHASOR_EMULATE_AVX512 is set.
//
// Most come from SIMDe. Below is what SIMDe 0.7.4 (Debian 12) does not have, two that it has with
// other results at the edges (scalef, which flushes subnormal numbers there, and abs_ps, which
// keeps the sign of zero and NaN), and aligned loads and stores, which look at the address here.
// Written after the operation sections of Intel's manual ("Intel 64 and IA-32 Architectures
// Software Developer's Manual", volume 2). avx512_numbers_test.cc and avx512_places_test.cc compare
// intrinsics of both origins with loops; where the CPU has the instructions, the same tests run on
// them.
//
// An intrinsic that is in neither place does not compile: its function is one of the compiler's for
// a CPU with AVX-512, which cannot be inlined here.
#pragma once

// Also what SIMDe includes, so that nothing of it is compiled inside the region below.
#include <fenv.h>
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "simd/target.h"

#pragma GCC diagnostic ignored "-Wignored-attributes"

// What the region below may use; said by hand because SIMDe looks at the flags of the compilation.
#define SIMDE_X86_AVX2_NATIVE
#define SIMDE_X86_FMA_NATIVE
#define SIMDE_X86_F16C_NATIVE

// Calls: with every operation inlined the largest kernel file takes g++ 12 minutes.
#define SIMDE_NO_INLINE
#define PHASOR_CALL inline __attribute__((noinline))

PHASOR_BEGIN_AVX2

// The types first and without aliases: those would declare __m512 a second time.
#include <simde/x86/avx512/types.h>

#define SIMDE_X86_AVX512F_ENABLE_NATIVE_ALIASES
#define SIMDE_X86_AVX512BW_ENABLE_NATIVE_ALIASES
#define SIMDE_X86_AVX512DQ_ENABLE_NATIVE_ALIASES
#define SIMDE_X86_AVX512VL_ENABLE_NATIVE_ALIASES
#define SIMDE_X86_AVX512VNNI_ENABLE_NATIVE_ALIASES
#define SIMDE_X86_AVX512VBMI_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#define __m512 simde__m512
#define __m512d simde__m512d
#define __m512i simde__m512i

namespace phasor::emulated {

// Numbers of a vector in an array and back.
template <typename T, typename Vector>
struct Lanes {
  static constexpr int kCount = static_cast<int>(sizeof(Vector) / sizeof(T));
  T at[kCount];

  PHASOR_INLINE explicit Lanes(Vector v) { std::memcpy(at, &v, sizeof(v)); }
  PHASOR_INLINE Vector Join() const {
    Vector v;
    std::memcpy(&v, at, sizeof(v));
    return v;
  }
};

using Floats = Lanes<float, __m512>;
using Ints = Lanes<int32_t, __m512i>;

// One result per number of a vector.
template <typename To, typename T, typename Vector, typename Function>
PHASOR_INLINE To Map(Vector v, Function function) {
  const Lanes<T, Vector> from(v);
  using R = decltype(function(from.at[0]));
  static_assert(sizeof(To) == sizeof(R) * from.kCount);
  R result[from.kCount];
  for (int i = 0; i < from.kCount; ++i) result[i] = function(from.at[i]);
  To to;
  std::memcpy(&to, result, sizeof(to));
  return to;
}

// ---- Memory. Places that are masked out are neither read nor written ----

template <typename T, typename Vector, typename Mask>
PHASOR_INLINE Vector MaskLoad(Vector otherwise, Mask mask, const void* from) {
  Lanes<T, Vector> v(otherwise);
  for (int i = 0; i < v.kCount; ++i) {
    if ((mask >> i & 1) != 0) {
      std::memcpy(&v.at[i], static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
    }
  }
  return v.Join();
}

template <typename T, typename Vector, typename Mask>
PHASOR_INLINE void MaskStore(void* to, Mask mask, Vector vector) {
  const Lanes<T, Vector> v(vector);
  for (int i = 0; i < v.kCount; ++i) {
    if ((mask >> i & 1) != 0) {
      std::memcpy(static_cast<char*>(to) + i * sizeof(T), &v.at[i], sizeof(T));
    }
  }
}

// Aborts where the instruction would fault.
PHASOR_INLINE void CheckAligned(const void* address) {
  PHASOR_CHECK(reinterpret_cast<uintptr_t>(address) % 64 == 0);
}
template <typename Vector>
PHASOR_INLINE Vector AlignedLoad(const void* from) {
  CheckAligned(from);
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
template <typename Vector>
PHASOR_INLINE void AlignedStore(void* to, Vector v) {
  CheckAligned(to);
  std::memcpy(to, &v, sizeof(v));
}
PHASOR_CALL __m512 load_ps(const void* from) { return AlignedLoad<__m512>(from); }
PHASOR_CALL __m512i load_si512(const void* from) { return AlignedLoad<__m512i>(from); }
PHASOR_CALL void store_ps(void* to, __m512 v) { AlignedStore(to, v); }
PHASOR_CALL void store_si512(void* to, __m512i v) { AlignedStore(to, v); }
PHASOR_CALL void stream_si512(void* to, __m512i v) { AlignedStore(to, v); }

PHASOR_CALL __m512 mask_loadu_ps(__m512 otherwise, __mmask16 mask, const void* from) {
  return MaskLoad<float>(otherwise, mask, from);
}
PHASOR_CALL __m512 maskz_loadu_ps(__mmask16 mask, const void* from) {
  return MaskLoad<float>(simde_mm512_setzero_ps(), mask, from);
}
PHASOR_CALL __m256i maskz_loadu_epi16_256(__mmask16 mask, const void* from) {
  return MaskLoad<int16_t>(_mm256_setzero_si256(), mask, from);
}
PHASOR_CALL void mask_storeu_ps(void* to, __mmask16 mask, __m512 v) {
  MaskStore<float>(to, mask, v);
}
PHASOR_CALL void mask_storeu_epi32(void* to, __mmask16 mask, __m512i v) {
  MaskStore<int32_t>(to, mask, v);
}
PHASOR_CALL void mask_storeu_epi16_256(void* to, __mmask16 mask, __m256i v) {
  MaskStore<int16_t>(to, mask, v);
}

// ---- Conversions ----

// What a float becomes that no int32 stands for: the "integer indefinite".
constexpr int32_t kNoInteger = std::numeric_limits<int32_t>::min();

PHASOR_INLINE int32_t ToInt(float whole) {
  return whole >= -0x1p31f && whole < 0x1p31f ? static_cast<int32_t>(whole) : kNoInteger;
}

PHASOR_CALL __m512 cvtepi32_ps(__m512i a) {
  return Map<__m512, int32_t>(a, [](int32_t x) { return static_cast<float>(x); });
}
// To nearest, ties to even.
PHASOR_CALL __m512i cvtps_epi32(__m512 a) {
  return Map<__m512i, float>(a, [](float x) { return ToInt(std::nearbyint(x)); });
}
PHASOR_CALL __m512i cvttps_epi32(__m512 a) {
  return Map<__m512i, float>(a, [](float x) { return ToInt(std::trunc(x)); });
}
PHASOR_CALL __m512i cvtepi8_epi32(__m128i a) {
  return Map<__m512i, int8_t>(a, [](int8_t x) { return static_cast<int32_t>(x); });
}
PHASOR_CALL __m512i cvtepu16_epi32(__m256i a) {
  return Map<__m512i, uint16_t>(a, [](uint16_t x) { return static_cast<int32_t>(x); });
}
// The low bits, without saturation.
PHASOR_CALL __m256i cvtepi32_epi16(__m512i a) {
  return Map<__m256i, int32_t>(a, [](int32_t x) { return static_cast<int16_t>(x); });
}
PHASOR_CALL __m128i cvtepi32_epi8(__m512i a) {
  return Map<__m128i, int32_t>(a, [](int32_t x) { return static_cast<int8_t>(x); });
}

// F16C has both directions for eight numbers.
PHASOR_CALL __m512 cvtph_ps(__m256i a) {
  const Lanes<__m128i, __m256i> half(a);
  const __m256 parts[2] = {_mm256_cvtph_ps(half.at[0]), _mm256_cvtph_ps(half.at[1])};
  __m512 to;
  std::memcpy(&to, parts, sizeof(to));
  return to;
}
template <int kRounding>
PHASOR_CALL __m256i cvtps_ph(__m512 a) {
  const Lanes<__m256, __m512> half(a);
  const __m128i parts[2] = {_mm256_cvtps_ph(half.at[0], kRounding),
                            _mm256_cvtps_ph(half.at[1], kRounding)};
  __m256i to;
  std::memcpy(&to, parts, sizeof(to));
  return to;
}

// ---- Arithmetic ----

PHASOR_CALL __m512 abs_ps(__m512 a) {
  return Map<__m512, uint32_t>(a, [](uint32_t x) { return x & 0x7fffffffu; });
}

// a 2^floor(b), rounded once.
PHASOR_INLINE float Scale(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return a + b;
  if (std::isinf(b)) {
    if (b > 0) return a * b;                // 0 times infinity: NaN
    return std::isinf(a) ? NAN : 0.0f * a;  // zero with the sign of a
  }
  // Beyond these exponents every finite a is infinite or zero.
  const float exponent = std::clamp(std::floor(b), -600.0f, 600.0f);
  return std::ldexp(a, static_cast<int>(exponent));
}
PHASOR_CALL __m512 scalef_ps(__m512 a, __m512 b) {
  Floats x(a);
  const Floats y(b);
  for (int i = 0; i < x.kCount; ++i) x.at[i] = Scale(x.at[i], y.at[i]);
  return x.Join();
}

// What is left after rounding down to whole numbers (vreduceps with this immediate alone), itself
// rounded down: below 1 for the smallest negative numbers.
template <int kControl>
PHASOR_CALL __m512 reduce_ps(__m512 a) {
  static_assert(kControl == _MM_FROUND_TO_NEG_INF, "the one kind of rounding that kernels ask for");
  return Map<__m512, float>(a, [](float x) {
    if (std::isnan(x)) return x + x;
    if (std::isinf(x)) return 0.0f;
    const float whole = std::floor(x), left = x - whole;
    if (left == 0) return -0.0f;
    return double{left} + whole > x ? std::nextafter(left, -1.0f) : left;
  });
}

PHASOR_CALL __m512i srai_epi32(__m512i a, unsigned count) {
  const int shift = static_cast<int>(std::min(count, 31u));
  return Map<__m512i, int32_t>(a, [shift](int32_t x) { return x >> shift; });
}

// The upper halves of products.
PHASOR_CALL __m512i mulhi_epu16(__m512i a, __m512i b) {
  Lanes<uint16_t, __m512i> x(a);
  const Lanes<uint16_t, __m512i> y(b);
  for (int i = 0; i < x.kCount; ++i) {
    x.at[i] = static_cast<uint16_t>(uint32_t{x.at[i]} * y.at[i] >> 16);
  }
  return x.Join();
}

PHASOR_INLINE __m256 KeepMasked(__mmask8 mask, __m256 v) {
  Lanes<float, __m256> x(v);
  for (int i = 0; i < x.kCount; ++i) {
    if ((mask >> i & 1) == 0) x.at[i] = 0;
  }
  return x.Join();
}
PHASOR_CALL __m256 maskz_mul_ps_256(__mmask8 mask, __m256 a, __m256 b) {
  return KeepMasked(mask, _mm256_mul_ps(a, b));
}
PHASOR_CALL __m256 maskz_div_ps_256(__mmask8 mask, __m256 a, __m256 b) {
  return KeepMasked(mask, _mm256_div_ps(a, b));
}

// Bits of kClasses: quiet NaN, +0, -0, +infinity, -infinity, subnormal, negative finite, signaling
// NaN, from bit 0 on.
template <int kClasses>
PHASOR_CALL __mmask16 fpclass_ps_mask(__m512 a) {
  const Lanes<uint32_t, __m512> x(a);
  uint32_t mask = 0;
  for (int i = 0; i < x.kCount; ++i) {
    const bool negative = (x.at[i] >> 31) != 0;
    const uint32_t size = x.at[i] & 0x7fffffffu, fraction = x.at[i] & 0x7fffffu;
    const bool is[8] = {
        size > 0x7f800000u && (fraction & 0x400000u) != 0,
        size == 0 && !negative,
        size == 0 && negative,
        size == 0x7f800000u && !negative,
        size == 0x7f800000u && negative,
        size > 0 && size < 0x800000u,
        negative && size > 0 && size<0x7f800000u, size> 0x7f800000u && (fraction & 0x400000u) == 0};
    for (int c = 0; c < 8; ++c) {
      if ((kClasses >> c & 1) != 0 && is[c]) mask |= 1u << i;
    }
  }
  return static_cast<__mmask16>(mask);
}

// ---- Parts of a vector ----

PHASOR_CALL __m512i broadcast_i32x8(__m256i a) {
  const __m256i parts[2] = {a, a};
  __m512i to;
  std::memcpy(&to, parts, sizeof(to));
  return to;
}
template <int kHalf>
PHASOR_CALL __m256 extractf32x8_ps(__m512 a) {
  static_assert(kHalf == 0 || kHalf == 1);
  return Lanes<__m256, __m512>(a).at[kHalf];
}
template <int kHalf>
PHASOR_CALL __m256i extracti32x8_epi32(__m512i a) {
  static_assert(kHalf == 0 || kHalf == 1);
  return Lanes<__m256i, __m512i>(a).at[kHalf];
}
// Two bits of kOrder for each place of a group of four.
template <int kOrder>
PHASOR_CALL __m512 permute_ps(__m512 a) {
  const Floats x(a);
  Floats y(a);
  for (int i = 0; i < x.kCount; ++i) y.at[i] = x.at[(i & ~3) + (kOrder >> 2 * (i & 3) & 3)];
  return y.Join();
}

// ---- Sums and extremes of a vector: halves first, as the compilers do ----

template <typename T, typename Vector, typename Function>
PHASOR_INLINE T Reduce(Vector v, Function function) {
  Lanes<T, Vector> x(v);
  for (int half = x.kCount / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.at[i] = function(x.at[i], x.at[i + half]);
  }
  return x.at[0];
}
PHASOR_CALL float reduce_add_ps(__m512 a) {
  return Reduce<float>(a, [](float x, float y) { return x + y; });
}
// The second operand where one is NaN, like vmaxps.
PHASOR_CALL float reduce_max_ps(__m512 a) {
  return Reduce<float>(a, [](float x, float y) { return x > y ? x : y; });
}
PHASOR_CALL float reduce_min_ps(__m512 a) {
  return Reduce<float>(a, [](float x, float y) { return x < y ? x : y; });
}
PHASOR_CALL int32_t reduce_add_epi32(__m512i a) {
  return static_cast<int32_t>(Reduce<uint32_t>(a, [](uint32_t x, uint32_t y) { return x + y; }));
}
PHASOR_CALL int32_t reduce_max_epi32(__m512i a) {
  return Reduce<int32_t>(a, [](int32_t x, int32_t y) { return std::max(x, y); });
}
PHASOR_CALL int32_t reduce_min_epi32(__m512i a) {
  return Reduce<int32_t>(a, [](int32_t x, int32_t y) { return std::min(x, y); });
}
PHASOR_CALL uint32_t reduce_max_epu32(__m512i a) {
  return Reduce<uint32_t>(a, [](uint32_t x, uint32_t y) { return std::max(x, y); });
}

}  // namespace phasor::emulated
PHASOR_END_TARGET

// The names that kernels use. Some are macros already, the compiler's or SIMDe's.
#undef _mm512_abs_ps
#undef _mm512_load_ps
#undef _mm512_load_si512
#undef _mm512_store_ps
#undef _mm512_store_si512
#undef _mm512_cvtps_ph
#undef _mm512_extractf32x8_ps
#undef _mm512_extracti32x8_epi32
#undef _mm512_fpclass_ps_mask
#undef _mm512_permute_ps
#undef _mm512_reduce_ps
#undef _mm512_scalef_ps
#undef _mm512_shuffle_f32x4
#undef _mm512_srai_epi32
#define _mm256_mask_storeu_epi16 phasor::emulated::mask_storeu_epi16_256
#define _mm256_maskz_div_ps phasor::emulated::maskz_div_ps_256
#define _mm256_maskz_loadu_epi16 phasor::emulated::maskz_loadu_epi16_256
#define _mm256_maskz_mul_ps phasor::emulated::maskz_mul_ps_256
#define _mm512_abs_ps phasor::emulated::abs_ps
#define _mm512_broadcast_i32x8 phasor::emulated::broadcast_i32x8
#define _mm512_cvtepi32_epi16 phasor::emulated::cvtepi32_epi16
#define _mm512_cvtepi32_epi8 phasor::emulated::cvtepi32_epi8
#define _mm512_cvtepi32_ps phasor::emulated::cvtepi32_ps
#define _mm512_cvtepi8_epi32 phasor::emulated::cvtepi8_epi32
#define _mm512_cvtepu16_epi32 phasor::emulated::cvtepu16_epi32
#define _mm512_cvtph_ps phasor::emulated::cvtph_ps
#define _mm512_cvtps_epi32 phasor::emulated::cvtps_epi32
#define _mm512_cvtps_ph(a, rounding) phasor::emulated::cvtps_ph<(rounding)>(a)
#define _mm512_cvttps_epi32 phasor::emulated::cvttps_epi32
#define _mm512_extractf32x8_ps(a, half) phasor::emulated::extractf32x8_ps<(half)>(a)
#define _mm512_extracti32x8_epi32(a, half) phasor::emulated::extracti32x8_epi32<(half)>(a)
#define _mm512_fpclass_ps_mask(a, classes) phasor::emulated::fpclass_ps_mask<(classes)>(a)
#define _mm512_load_ps phasor::emulated::load_ps
#define _mm512_load_si512 phasor::emulated::load_si512
#define _mm512_mask_loadu_ps phasor::emulated::mask_loadu_ps
#define _mm512_mask_storeu_epi32 phasor::emulated::mask_storeu_epi32
#define _mm512_mask_storeu_ps phasor::emulated::mask_storeu_ps
#define _mm512_maskz_loadu_ps phasor::emulated::maskz_loadu_ps
#define _mm512_mulhi_epu16 phasor::emulated::mulhi_epu16
#define _mm512_permute_ps(a, order) phasor::emulated::permute_ps<(order)>(a)
#define _mm512_reduce_add_epi32 phasor::emulated::reduce_add_epi32
#define _mm512_reduce_add_ps phasor::emulated::reduce_add_ps
#define _mm512_reduce_max_epi32 phasor::emulated::reduce_max_epi32
#define _mm512_reduce_max_epu32 phasor::emulated::reduce_max_epu32
#define _mm512_reduce_max_ps phasor::emulated::reduce_max_ps
#define _mm512_reduce_min_epi32 phasor::emulated::reduce_min_epi32
#define _mm512_reduce_min_ps phasor::emulated::reduce_min_ps
#define _mm512_reduce_ps(a, control) phasor::emulated::reduce_ps<(control)>(a)
#define _mm512_scalef_ps phasor::emulated::scalef_ps
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4
#define _mm512_srai_epi32 phasor::emulated::srai_epi32
#define _mm512_store_ps phasor::emulated::store_ps
#define _mm512_store_si512 phasor::emulated::store_si512
#define _mm512_stream_si512 phasor::emulated::stream_si512
