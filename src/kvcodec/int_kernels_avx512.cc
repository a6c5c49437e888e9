// AVX-512 with VNNI and VBMI: vpermb finds 64 levels in a table of 64, vpermi2b in one of 128.
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns about its own _mm512_undefined_* (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>

#include "base/check.h"
#include "simd/avx512.h"
#include "simd/avx512_rows-inl.h"
#include "simd/dot_bytes_avx512.h"
#include "simd/line_fetcher.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512_VBMI
namespace phasor {
namespace {

struct LevelTable {
  __m512i level;  // of all books, then their mirror images

  PHASOR_INLINE LevelTable(const IntLevels& levels, int offset) {
    const __m256i plus = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels.level));
    const __m256i minus = _mm256_sub_epi8(_mm256_setzero_si256(), plus);
    level = _mm512_add_epi8(_mm512_inserti64x4(_mm512_castsi256_si512(plus), minus, 1),
                            _mm512_set1_epi8(static_cast<int8_t>(offset)));
  }

  using Selector = __m512i;
  static PHASOR_INLINE Selector Select(__m512i bytes) { return bytes; }
  static PHASOR_INLINE __m512i Index(__m512i codes, int mask, Selector selector) {
    return _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8(static_cast<int8_t>(mask)), selector,
                                     0xea);
  }
  PHASOR_INLINE __m512i LookUp(__m512i index, Selector) const {
    return _mm512_permutexvar_epi8(index, level);
  }
  PHASOR_INLINE __m512i LookUpPlus(__m512i index, Selector selector) const {
    return LookUp(index, selector);
  }
};

struct NearestLevels {
  __m512i below, above;

  PHASOR_INLINE void Load(const IntSearchArgs& a, int book) {
    above = _mm512_loadu_si512(a.nearest[book]);
    below = _mm512_loadu_si512(a.nearest[book] + 64);
  }
  PHASOR_INLINE __m512i LookUp(__m512i numbers) const {
    return _mm512_permutex2var_epi8(above, numbers, below);
  }
};

#include "kvcodec/int_kernels_avx512-inl.h"

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const IntKernels* IntKernelsAvx512() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsAvx512() { return nullptr; }
}  // namespace phasor
#endif
