// AVX-512 with VNNI and no VBMI: vpshufb finds levels in tables of 16, where masks say which.
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns about its own _mm512_undefined_* (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>

#include "base/check.h"
#include "kvcodec/nearest_level.h"
#include "simd/avx512.h"
#include "simd/avx512_rows-inl.h"
#include "simd/dot_bytes_avx512.h"
#include "simd/line_fetcher.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

PHASOR_INLINE __m512i InEveryLane(const void* sixteen) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(sixteen)));
}

struct LevelTable {
  __m512i first, second, sum_with_mirror;

  PHASOR_INLINE LevelTable(const IntLevels& levels, int offset) {
    const __m512i add = _mm512_set1_epi8(static_cast<int8_t>(offset));
    first = _mm512_add_epi8(InEveryLane(levels.level), add);
    second = _mm512_add_epi8(InEveryLane(levels.level + 16), add);
    sum_with_mirror = _mm512_add_epi8(add, add);
  }

  struct Selector {
    __m512i bytes;
    __mmask64 in_second, mirrored;
  };
  static PHASOR_INLINE Selector Select(__m512i bytes) {
    return {bytes, _mm512_test_epi8_mask(bytes, _mm512_set1_epi8(0x10)),
            _mm512_test_epi8_mask(bytes, _mm512_set1_epi8(0x20))};
  }
  // vpshufb looks at the low 4 bits, and bit 7, which is 0.
  static PHASOR_INLINE __m512i Index(__m512i codes, int mask, const Selector& selector) {
    const __m512i kept = _mm512_set1_epi8(static_cast<int8_t>(mask));
    return mask == 15 ? _mm512_and_si512(codes, kept)
                      : _mm512_ternarylogic_epi32(codes, kept, selector.bytes, 0xea);
  }
  PHASOR_INLINE __m512i LookUpPlus(__m512i index, const Selector& selector) const {
    return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(first, index), selector.in_second, second,
                                    index);
  }
  PHASOR_INLINE __m512i LookUp(__m512i index, const Selector& selector) const {
    const __m512i plus = LookUpPlus(index, selector);
    return _mm512_mask_sub_epi8(plus, selector.mirrored, sum_with_mirror, plus);
  }
};

// Of whole numbers instead of quarters (nearest_level.h): the levels of the code at the beginning
// of a bucket, of the next code and of the one behind, and where in the bucket those begin.
struct NearestLevels {
  __m512i level[3], begin[2], entry;
  __m512i inside;
  __m128i shift;

  PHASOR_INLINE void Load(const IntSearchArgs& a, int book) {
    const NearestTables& t = *a.quarters;
    const int table = t.TableOf(book);
    entry = _mm512_set1_epi8(static_cast<int8_t>(t.EntryOf(book)));
    const __m512i code = InEveryLane(t.code[table]), of_code = InEveryLane(t.level[table]);
    PHASOR_UNROLL for (int k = 0; k < 3; ++k) {
      const __m512i next = _mm512_add_epi8(code, _mm512_set1_epi8(static_cast<int8_t>(k)));
      level[k] = _mm512_shuffle_epi8(of_code, _mm512_or_si512(next, entry));
    }
    begin[0] = FirstWhole(t.first[table]);
    begin[1] = FirstWhole(t.second[table]);
    shift = _mm_cvtsi32_si128(t.shift - 2);
    inside = _mm512_set1_epi8(static_cast<int8_t>((1 << (t.shift - 2)) - 1));
  }
  // The first whole number at or after so many quarters. 127, nowhere, becomes 32, which is not
  // inside a bucket either.
  static PHASOR_INLINE __m512i FirstWhole(const void* quarters) {
    const __m512i up = _mm512_add_epi8(InEveryLane(quarters), _mm512_set1_epi8(3));
    return _mm512_and_si512(_mm512_srli_epi16(up, 2), _mm512_set1_epi8(63));
  }
  PHASOR_INLINE __m512i LookUp(__m512i numbers) const {
    const __m512i up = _mm512_add_epi8(numbers, _mm512_set1_epi8(64));
    const __m512i at =
        _mm512_ternarylogic_epi32(_mm512_srl_epi16(up, shift), _mm512_set1_epi8(15), entry, 0xea);
    const __m512i in = _mm512_and_si512(up, inside);
    const __mmask64 next = _mm512_cmple_epi8_mask(_mm512_shuffle_epi8(begin[0], at), in);
    const __mmask64 after = _mm512_cmple_epi8_mask(_mm512_shuffle_epi8(begin[1], at), in);
    __m512i nearest = _mm512_shuffle_epi8(level[0], at);
    nearest = _mm512_mask_shuffle_epi8(nearest, next, level[1], at);
    return _mm512_mask_shuffle_epi8(nearest, after, level[2], at);
  }
};

#include "kvcodec/int_kernels_avx512-inl.h"

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const IntKernels* IntKernelsAvx512Vnni() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsAvx512Vnni() { return nullptr; }
}  // namespace phasor
#endif
