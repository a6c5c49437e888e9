// vpdpbusd and vpdpwssd with their sums kept in place. As an intrinsic, GCC 12 copies sums to other
// registers and back around every step of a loop that has many of them, and spills. Only for kernel
// files; between PHASOR_BEGIN_AVX512 and PHASOR_END_TARGET.
#pragma once

#include <cstdint>

#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// sum += 16 sums of 4 products, unsigned bytes times signed bytes.
PHASOR_INLINE void AddByteProducts(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
#if defined(PHASOR_EMULATE_AVX512)
  sum = _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
#else
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
#endif
}

// The same, every sum with the same 4 signed bytes.
PHASOR_INLINE void AddByteProducts(__m512i& sum, __m512i unsigned_bytes, const int8_t* four) {
#if defined(PHASOR_EMULATE_AVX512)
  int32_t word;
  __builtin_memcpy(&word, four, sizeof(word));
  sum = _mm512_dpbusd_epi32(sum, unsigned_bytes, _mm512_set1_epi32(word));
#else
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(sum)
      : "v"(unsigned_bytes), "m"(*reinterpret_cast<const int32_t*>(four)));
#endif
}

// sum += 16 sums of 2 products of 16-bit integers.
PHASOR_INLINE void AddWordProducts(__m512i& sum, __m512i a, __m512i b) {
#if defined(PHASOR_EMULATE_AVX512)
  sum = _mm512_dpwssd_epi32(sum, a, b);
#else
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
