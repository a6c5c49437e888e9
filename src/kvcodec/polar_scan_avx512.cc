// The scan of polar codes with AVX-512 VBMI: vpmultishiftqb takes parts of codes from anywhere in
// 64 bits, vpermi2b takes bytes from anywhere in two vectors.
#if defined(__x86_64__)
#include "kvcodec/polar_scan_avx512.h"

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvcodec/packed_field.h"
#include "kvcodec/polar_layout.h"
#include "simd/avx512.h"
#include "simd/dot_bytes_avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

// For vpmultishiftqb: where the bits of a part of each byte's token begin in 64 bits, kAt bits
// earlier, so that they arrive at bit kAt. [block][byte].
template <int kPart, int kAt>
struct PartShifts {
  alignas(64) std::array<uint8_t, 128> bit = {};
  constexpr PartShifts() {
    for (int i = 0; i < 128; ++i) {
      const int block = i / 64, lane = i % 64 / 4, k = i % 4;
      const int from = 32 * (lane % 2) + PartShift(kPart, 4 * block + k, lane);
      bit[static_cast<std::size_t>(i)] = static_cast<uint8_t>((from - kAt) & 63);
    }
  }
};
template <int kPart, int kAt>
inline constexpr PartShifts<kPart, kAt> kPartShifts;

// For vpermi2b: [k][byte].
struct DwordBytes {
  alignas(64) uint8_t each_twice[4][64] = {}, both_twice[4][64] = {};
  constexpr DwordBytes() {
    for (unsigned k = 0; k < 4; ++k) {
      for (unsigned i = 0; i < 64; ++i) {
        const unsigned from = 4 * (i / 4) + k;
        each_twice[k][i] = static_cast<uint8_t>(from + 64 * (i % 4 / 2));
        both_twice[k][i] = static_cast<uint8_t>(from + 64 * (i % 2));
      }
    }
  }
};
constexpr DwordBytes kDwordBytes;

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512_VBMI
namespace phasor {
namespace {

template <int kPart, int kAt>
PHASOR_INLINE __m512i TakePart(__m512i words, int block) {
  const __m512i shifts = _mm512_load_si512(kPartShifts<kPart, kAt>.bit.data() + 64 * block);
  return _mm512_multishift_epi64_epi8(shifts, words);
}
PHASOR_INLINE __m512i EachTwice(__m512i a, __m512i b, int k) {
  return _mm512_permutex2var_epi8(a, _mm512_load_si512(kDwordBytes.each_twice[k]), b);
}
PHASOR_INLINE __m512i BothTwice(__m512i a, __m512i b, int k) {
  return _mm512_permutex2var_epi8(a, _mm512_load_si512(kDwordBytes.both_twice[k]), b);
}

#include "kvcodec/polar_codes_avx512-inl.h"
#include "kvcodec/polar_scan_avx512-inl.h"

}  // namespace

void ScanPolarAvx512(const PolarScan& scan, int n_heads) { ScanHeads(scan, n_heads); }

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
