// The scan of polar codes with AVX-512 and no VBMI: parts of codes and bytes of dwords by turns of
// dwords and vpshufb.
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

// By how many bits every lane's word of a part is turned right, so that the part of its first token
// of the block arrives at bit kAt: [block][lane].
template <int kPart, int kAt>
struct PartTurns {
  alignas(64) std::array<uint32_t, 32> bits = {};
  constexpr PartTurns() {
    for (int i = 0; i < 32; ++i) {
      const int from = PartShift(kPart, i / 16 * 4, i % 16);
      bits[static_cast<std::size_t>(i)] = static_cast<uint32_t>((from - kAt) & 31);
    }
  }
};
template <int kPart, int kAt>
inline constexpr PartTurns<kPart, kAt> kPartTurns;

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// Token k of the block has its part 4 k bits above that of token 0 (PartShift).
template <int kPart, int kAt>
PHASOR_INLINE __m512i TakePart(__m512i words, int block) {
  const __m512i first =
      _mm512_rorv_epi32(words, _mm512_load_si512(kPartTurns<kPart, kAt>.bits.data() + 16 * block));
  const __m512i low_bytes = _mm512_set4_epi32(0x0d0d0c0c, 0x09090808, 0x05050404, 0x01010000);
  return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(first, low_bytes), 0xaaaaaaaaaaaaaaaa,
                                  _mm512_ror_epi32(first, 4), low_bytes);
}
PHASOR_INLINE __m512i ByteOfDwords(int k) {
  const __m512i dword = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  return _mm512_add_epi8(dword, _mm512_set1_epi8(static_cast<int8_t>(k)));
}
PHASOR_INLINE __m512i EachTwice(__m512i a, __m512i b, int k) {
  return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(a, ByteOfDwords(k)), 0xcccccccccccccccc, b,
                                  ByteOfDwords(k));
}
PHASOR_INLINE __m512i BothTwice(__m512i a, __m512i b, int k) {
  return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(a, ByteOfDwords(k)), 0xaaaaaaaaaaaaaaaa, b,
                                  ByteOfDwords(k));
}

#include "kvcodec/polar_codes_avx512-inl.h"
#include "kvcodec/polar_scan_avx512-inl.h"

}  // namespace

void ScanPolarAvx512Vnni(const PolarScan& scan, int n_heads) { ScanHeads(scan, n_heads); }

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
