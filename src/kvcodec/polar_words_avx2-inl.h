// AVX2 pieces of the 16-bit scores of polar codecs (polar_score_avx2.cc): angles, codes, radii.
// Include only from kernel files.
//
// Codes are taken apart in the order of the 8-bit parts (packed_field.h): the vector of half h of
// the tiles 4 B .. 4 B + 3 has token 16 (4 B + k) + 8 h + l in byte 4 l + k.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/page_avx2-inl.h"
#include "kvcodec/polar_kernels.h"
#include "kvcodec/polar_plan.h"
#include "simd/line_fetcher.h"
#include "simd/target.h"

namespace phasor {

inline constexpr int kPolarVectors = kPageTokens / 32;  // of a page
inline constexpr int kPolarChunkSlots = 32;             // whose tables and codes stay in L1
// The largest radius of a slot. The range of radii, up to 4/3 of it, fits in 16 bits.
inline constexpr float kPolarRadiusUnits = 24500.0f;
// The low n bits of four bytes.
inline constexpr int32_t kPolarLowMask[6] = {0,          0x01010101, 0x03030303,
                                             0x07070707, 0x0f0f0f0f, 0x1f1f1f1f};
// The top n bits of four bytes.
inline constexpr uint32_t kPolarRadiusMask[7] = {0,          0x80808080, 0xc0c0c0c0, 0xe0e0e0e0,
                                                 0xf0f0f0f0, 0xf8f8f8f8, 0xfcfcfcfc};

// Of one page, per thread.
struct PolarPageScratch {
  PolarPlan plan;
  AlignedBuffer<int16_t> sum;    // [kPolarVectors][g][32 tokens], in the order of Words
  AlignedBuffer<uint8_t> table;  // [kPolarChunkSlots][g][2][low and high bytes of 16 levels]
  AlignedBuffer<uint8_t> codes;  // [kPolarChunkSlots][kPolarVectors], taken apart, 128 bytes each
};

// Neighbouring slots of one run, at most kChunkSlots, and what their scores need.
struct PolarSlots {
  const PolarLayout& layout;
  const std::byte* page;
  int first, n;
  int n_padded, g;
  PolarPageScratch* scratch;
  LineFetcher* fetcher;  // PolarFetchSteps a slot
};

// How often the next page is fetched from while a slot is worked off.
inline int PolarFetchSteps(AngleTable table, bool as_pairs, int g) {
  if (as_pairs) return 1;
  if (g == 1) return 2;
  return g == 2 && table == AngleTable::kTwoVectors ? 1 + kPolarVectors : 1;
}

// Adds what the slots contribute to the sums: by a table of q . (cos, sin) over the angle levels
// per head (up to 5 angle bits), and by x and y of every token (from 5 angle bits on).
void AddPolarTablesAvx2(const PolarSlots& slots);
void AddPolarPairsAvx2(const PolarSlots& slots);

}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// ---- angles ----

// A constant that stays in a register or in memory: g++ makes those of one number anew in every
// pass of a loop.
PHASOR_INLINE __m256i Constant(int16_t x) {
  __m256i all = _mm256_set1_epi16(x);
  __asm__("" : "+x"(all));
  return all;
}

// Cosines and sines of (phase + 1/2) / 65536 turns, in 2^-15.
class Angles {
 public:
  PHASOR_INLINE Angles()
      : all_ones_(Constant(-1)),
        largest_(Constant(32767)),
        quarter_(Constant(16384)),
        c0_(Constant(kPolarSine[0])),
        c1_(Constant(kPolarSine[1])),
        c2_(Constant(kPolarSine[2])) {}
  PHASOR_INLINE __m256i Cosine(__m256i phase) const {
    // How far the angle is from half a turn, -1 to 1, is a sine's argument.
    const __m256i folded = _mm256_max_epi16(phase, _mm256_xor_si256(phase, all_ones_));
    const __m256i z = _mm256_sub_epi16(largest_, _mm256_add_epi16(folded, folded));
    const __m256i u = _mm256_mulhrs_epi16(z, z);
    __m256i t = _mm256_mulhrs_epi16(u, c2_);
    t = _mm256_mulhrs_epi16(_mm256_add_epi16(t, c1_), u);
    t = _mm256_mulhrs_epi16(_mm256_add_epi16(t, c0_), z);
    return _mm256_adds_epi16(z, t);
  }
  PHASOR_INLINE __m256i Sine(__m256i phase) const {
    return Cosine(_mm256_sub_epi16(phase, quarter_));
  }

 private:
  __m256i all_ones_, largest_, quarter_, c0_, c1_, c2_;
};

// Low and then high bytes of each 128 bits.
PHASOR_INLINE __m256i Unzip(__m256i words) {
  return _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                        0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)));
}
// Low bytes of all, and then high ones.
PHASOR_INLINE __m256i SplitBytes(__m256i words) {
  return _mm256_permute4x64_epi64(Unzip(words), 0xd8);
}
// The middles of 16 angle cells, 2^bits of which make up `range`, in turns / 65536 rounded down.
PHASOR_INLINE __m256i CellPhases(int bits, __m256i range) {
  const __m256i odd = _mm256_setr_epi16(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm256_mulhi_epu16(_mm256_sll_epi16(odd, _mm_cvtsi32_si128(15 - bits)), range);
}

// ---- codes ----

// Bits of 4 tiles of the bytes of a dword of a narrow part: byte 2 B twice, byte 2 B + 1 twice.
template <int kBlock>
PHASOR_INLINE __m256i SpreadTiles(__m256i part) {
  constexpr char a = 2 * kBlock;
  const __m256i from = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(a, a, a + 1, a + 1, a + 4, a + 4, a + 5, a + 5, a + 8, a + 8, a + 9, a + 9,
                    a + 12, a + 12, a + 13, a + 13));
  return _mm256_shuffle_epi8(part, from);
}

// The bits of a part at bit kAt of each byte. Even bytes have them kFrom bits up, odd ones 4 more.
template <int kPart, int kFrom, int kAt>
PHASOR_INLINE __m256i PlaceBits(__m256i spread) {
  constexpr int kMask = ((1 << kPart) - 1) << kAt;
  const __m256i even = _mm256_and_si256(Shift<kAt - kFrom>(spread), _mm256_set1_epi16(kMask));
  const __m256i odd = _mm256_and_si256(Shift<kAt - kFrom - 4>(spread),
                                       _mm256_set1_epi16(static_cast<int16_t>(kMask << 8)));
  return _mm256_or_si256(even, odd);
}

// Part of kPart < 8 bits of the tokens of half kHalf and block kBlock, at bit kAt of the bytes.
template <int kPart, int kAt, int kBlock, int kHalf>
PHASOR_INLINE __m256i PlacePart(const std::byte* const (&part)[4]) {
  if constexpr (kPart == 4) {
    return PlaceBits<4, 0, kAt>(SpreadTiles<kBlock>(LoadBytes(part[1] + 32 * kHalf)));
  } else if constexpr (kPart == 2) {
    return PlaceBits<2, 2 * kHalf, kAt>(SpreadTiles<kBlock>(LoadBytes(part[2])));
  } else {
    constexpr int kLow = 0x1001 << (2 * kHalf);  // of lanes 0 .. 3; lanes 4 .. 7 are one bit up
    const __m256i bit =
        _mm256_setr_m128i(_mm_set1_epi16(kLow), _mm_set1_epi16(static_cast<int16_t>(2 * kLow)));
    const __m256i is_set =
        _mm256_cmpeq_epi8(_mm256_and_si256(SpreadTiles<kBlock>(Broadcast16(part[3])), bit), bit);
    return _mm256_and_si256(is_set, _mm256_set1_epi8(static_cast<char>(1 << kAt)));
  }
}

// The low 8 bits of the codes, and their top 8 (shorter codes end at bit 7 too): radius codes once
// the bits of the angle are masked off.
template <int kBits, int kBlock, int kHalf>
PHASOR_INLINE void CodeBytes(const std::byte* const (&part)[4], __m256i* low, __m256i* top) {
  if constexpr (kBits < 8) {
    constexpr int at2 = kBits & 4, at1 = at2 + (kBits & 2);
    __m256i code = _mm256_setzero_si256();
    if constexpr ((kBits & 4) != 0) code = PlacePart<4, 0, kBlock, kHalf>(part);
    if constexpr ((kBits & 2) != 0) {
      code = _mm256_or_si256(code, PlacePart<2, at2, kBlock, kHalf>(part));
    }
    if constexpr ((kBits & 1) != 0) {
      code = _mm256_or_si256(code, PlacePart<1, at1, kBlock, kHalf>(part));
    }
    *low = code;
    *top = Shift<8 - kBits>(code);
  } else {
    constexpr int at4 = 16 - kBits, at2 = at4 + (kBits & 4), at1 = at2 + (kBits & 2);
    *low = LoadBytes(part[0] + 64 * kBlock + 32 * kHalf);
    *top = Shift<8 - kBits>(*low);
    if constexpr (kBits > 8) {
      *top = _mm256_and_si256(*top, _mm256_set1_epi8(static_cast<char>((1 << at4) - 1)));
    }
    if constexpr ((kBits & 4) != 0) {
      *top = _mm256_or_si256(*top, PlacePart<4, at4, kBlock, kHalf>(part));
    }
    if constexpr ((kBits & 2) != 0) {
      *top = _mm256_or_si256(*top, PlacePart<2, at2, kBlock, kHalf>(part));
    }
    if constexpr ((kBits & 1) != 0) {
      *top = _mm256_or_si256(*top, PlacePart<1, at1, kBlock, kHalf>(part));
    }
  }
}

// ---- radii ----

// Words of bytes 0 .. 7 and 8 .. 15 of every 128 bits.
struct Words {
  __m256i first, second;
};
PHASOR_INLINE Words Join(__m256i low, __m256i high) {
  return {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
}
PHASOR_INLINE Words Multiply(const Words& a, const Words& b) {
  return {_mm256_mulhrs_epi16(a.first, b.first), _mm256_mulhrs_epi16(a.second, b.second)};
}

// What all tokens of a slot share.
struct Slot {
  const std::byte* part[4];  // order of kFieldParts
  __m256i r_first, r_range;  // in radius units
  __m256i radius_mask;       // of the top bits
};

PHASOR_INLINE Slot LoadSlot(const PolarSlots& slots, int s) {
  const PolarSlot& at = slots.layout.slots[static_cast<std::size_t>(s)];
  Slot slot;
  for (int p = 0; p < 4; ++p) slot.part[p] = slots.page + at.parts.at[p];
  slot.r_first = _mm256_set1_epi32(slots.scratch->plan.r_first.data()[s]);
  slot.r_range = _mm256_set1_epi32(slots.scratch->plan.r_range.data()[s]);
  slot.radius_mask = _mm256_set1_epi32(static_cast<int32_t>(kPolarRadiusMask[at.width.r_bits]));
  return slot;
}

// The arc of a slot, in turns / 65536.
PHASOR_INLINE __m256i PhiRange(const PolarSlots& slots, int s) {
  int16_t range;
  std::memcpy(&range, slots.page + 2 * (slots.layout.n_slots + s), 2);
  return _mm256_set1_epi16(range);
}

PHASOR_INLINE Words Radii(const Slot& slot, __m256i top) {
  const Words part = Join(_mm256_setzero_si256(), _mm256_and_si256(top, slot.radius_mask));
  return {_mm256_add_epi16(_mm256_mulhi_epu16(part.first, slot.r_range), slot.r_first),
          _mm256_add_epi16(_mm256_mulhi_epu16(part.second, slot.r_range), slot.r_first)};
}

// ---- sums ----

// kV times 32 tokens of heads h .. h + kG - 1.
template <int kG, int kV>
struct Sums {
  __m256i acc[kV][kG][2];
  std::ptrdiff_t stride;
  int16_t* at;
  PHASOR_INLINE Sums(const PolarSlots& slots, int vector, int h)
      : stride(32 * slots.g), at(slots.scratch->sum.data() + 32 * (vector * slots.g + h)) {
    PHASOR_UNROLL for (int v = 0; v < kV; ++v) {
      PHASOR_UNROLL for (int i = 0; i < kG; ++i) {
        acc[v][i][0] = LoadBytes(at + v * stride + 32 * i);
        acc[v][i][1] = LoadBytes(at + v * stride + 32 * i + 16);
      }
    }
  }
  PHASOR_INLINE void Store() const {
    PHASOR_UNROLL for (int v = 0; v < kV; ++v) {
      PHASOR_UNROLL for (int i = 0; i < kG; ++i) {
        StoreBytes(at + v * stride + 32 * i, acc[v][i][0]);
        StoreBytes(at + v * stride + 32 * i + 16, acc[v][i][1]);
      }
    }
  }
};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
