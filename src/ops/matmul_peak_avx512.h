// The pace of vpdpbusd alone, without memory: what matmul_bench measures products against.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

#include "ops/matmul_kernels.h"  // PHASOR_UNROLL
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {

// Runs `rounds` times sixteen independent instructions, each 64 products and additions. Returns a
// number that depends on all of them. Needs AVX-512 (IsAvx512).
inline int64_t RunDotProductPeak(int64_t rounds) {
  const __m512i codes = _mm512_set1_epi8(3), activations = _mm512_set1_epi8(5);
  __m512i sums[16];
  PHASOR_UNROLL
  for (int j = 0; j < 16; ++j) sums[j] = _mm512_setzero_si512();
  for (int64_t i = 0; i < rounds; ++i) {
    PHASOR_UNROLL
    for (int j = 0; j < 16; ++j) {
      sums[j] = _mm512_dpbusd_epi32(sums[j], codes, activations);
#if defined(PHASOR_EMULATE_AVX512)
      asm("" : "+m"(sums[j]));
#else
      asm("" : "+v"(sums[j]));  // or sixteen equal sums would become one
#endif
    }
  }
  PHASOR_UNROLL
  for (int j = 1; j < 16; ++j) sums[0] = _mm512_add_epi32(sums[0], sums[j]);
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, sums[0]);
  return lanes[0];
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
