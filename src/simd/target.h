// Marks a region of functions that may use instructions beyond the build's baseline.
//
// Usage, after all includes, so that no inline function of a shared header is compiled with them:
//   PHASOR_BEGIN_AVX512
//   namespace { void Kernel(...) { ... _mm512_... } }
//   PHASOR_END_TARGET
// Both compilers accept the form; `<immintrin.h>` (for AVX-512 "simd/avx512.h") must be included
// before the region.
#pragma once

#define PHASOR_PRAGMA_(x) _Pragma(#x)

#if defined(__clang__)
#define PHASOR_BEGIN_TARGET_(features) \
  PHASOR_PRAGMA_(clang attribute push(__attribute__((target(features))), apply_to = function))
#define PHASOR_END_TARGET _Pragma("clang attribute pop")
#else
#define PHASOR_BEGIN_TARGET_(features) \
  _Pragma("GCC push_options") PHASOR_PRAGMA_(GCC target(features))
#define PHASOR_END_TARGET _Pragma("GCC pop_options")
#endif

// On 64-bit ARM NEON is part of the baseline; only the byte products of ARMv8.2 are not.
#if defined(__clang__)
#define PHASOR_BEGIN_NEON_DOT PHASOR_BEGIN_TARGET_("dotprod")
#else
#define PHASOR_BEGIN_NEON_DOT PHASOR_BEGIN_TARGET_("arch=armv8.2-a+dotprod")
#endif

#define PHASOR_BEGIN_AVX2 PHASOR_BEGIN_TARGET_("avx2,fma,f16c,bmi2")
#if defined(PHASOR_EMULATE_AVX512)
// What stands for AVX-512 (simd/avx512_emulation.h) runs on any CPU with AVX2.
#define PHASOR_BEGIN_AVX512 PHASOR_BEGIN_AVX2
#define PHASOR_BEGIN_AVX512_VBMI PHASOR_BEGIN_AVX2
#define PHASOR_BEGIN_AMX PHASOR_BEGIN_AVX2
#else
// What both levels with AVX-512 have (CpuLevel::kAvx512Vnni), and the higher one alone.
#define PHASOR_BEGIN_AVX512 \
  PHASOR_BEGIN_TARGET_("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#define PHASOR_BEGIN_AVX512_VBMI \
  PHASOR_BEGIN_TARGET_(          \
      "avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")
// avx512f brings avx2 with it.
#define PHASOR_BEGIN_AMX \
  PHASOR_BEGIN_TARGET_(  \
      "fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,amx-tile,amx-bf16")
#endif
#define PHASOR_BEGIN_AVX512_BF16 \
  PHASOR_BEGIN_TARGET_(          \
      "avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")

// Arrays of vectors stay in registers only where every loop over them is unrolled and every
// function that takes them is inlined.
#define PHASOR_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define PHASOR_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PHASOR_UNROLL _Pragma("GCC unroll 16")
#endif
