// Scores of polar codecs with AVX2, in 16-bit integers. A page becomes pairs (x, y) of int16 once
// for all query heads, 32 tokens at a time, and meets the 16-bit queries in vpmaddwd:
//
// - Radii are counted in 1/kRadiusUnits of the slot's largest, which goes into the query.
// - Cosines and sines of the angle levels are computed per slot and page for 16 levels at a time: a
//   phase of 16 bits wraps by itself, and the polynomial is five vpmulhrsw. They are kept as bytes,
//   low and high, and looked up with vpshufb. Beyond 5 bits an angle is the sum of two.
// - The scale of a head's query is such that its sums fit in 32 bits.
//
// Codes are taken apart in the order of the 8-bit parts (packed_field.h): the vector of tile half h
// and tiles 4 B .. 4 B + 3 has token 16 (4 B + k) + 8 h + l in byte 4 l + k.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/polar_kernels.h"
#include "simd/target.h"

namespace phasor {
namespace {

constexpr int kVectors = kPageTokens / 32;
// What 16 bits may add to the squared error of the codes: 1/8 of it, squared.
constexpr float kPolarKernelError = 1.0f / 64;
// Squared error that a slot adds to a sum, times the square of a query's unit (a sum's is 2^15 of
// them): 1/12 from rounding the last product, and from the query and from two products before it
// 1/12 each, times kRadiusUnits / 2^15 squared.
constexpr float kSlotError = 0x1p30f * 0.22f;
// Mean square of the error of cosines, sines and radii of 1.
constexpr float kLevelError = 1e-8f;
// From here on x and y are cheaper than a table of two vectors per head.
constexpr int kManyHeads = 4;
constexpr int kChunkSlots = 16;  // whose tables and codes stay in L1
// The largest radius of a slot. The range of radii, up to 4/3 of it, fits in 16 bits.
constexpr float kRadiusUnits = 24500.0f;
// 2 pi radians in radius units, over 2^16.
constexpr float kArcUnits = 6.2831853f * kRadiusUnits * 0x1p-16f;
constexpr float kLargestQuery = 32700.0f;
// sin(pi/2 z) - z = z (c0 + c1 z^2 + c2 z^4) in units of 2^-15. Lawson fit; with rounding the sine
// is within 3.6 units.
constexpr int16_t kSine[3] = {18688, -21040, 2355};

// The low n bits of four bytes, and the top n of 7.
constexpr int32_t kLowMask[6] = {0, 0x01010101, 0x03030303, 0x07070707, 0x0f0f0f0f, 0x1f1f1f1f};
constexpr int32_t kRadiusMask[7] = {0,          0x40404040, 0x60606060, 0x70707070,
                                    0x78787878, 0x7c7c7c7c, 0x7e7e7e7e};

struct PageScratch {
  AlignedBuffer<float> scale;  // [S]: what a radius unit is
  AlignedBuffer<float>
      code_error;  // [S]: mean square of what a code adds to a score, of a unit query
  // [S][x, y]: what turns a query by the angle its slot's levels count from and scales it.
  AlignedBuffer<float> scale_cos, scale_sin;
  AlignedBuffer<int32_t> r_first, r_range;  // [S], in radius units, twice in 16 bits
  AlignedBuffer<int32_t> q16;               // [g][S][x, y], each twice in 16 bits
  AlignedBuffer<float> unit;                // [g]
  AlignedBuffer<int16_t> sum;               // [kVectors][g][32 tokens], in the order of Words
  AlignedBuffer<uint8_t> table;             // [kChunkSlots][g][2][low and high bytes of 16 levels]
  AlignedBuffer<uint8_t> slots;             // [kChunkSlots][kVectors], LevelCodes or Pairs
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

PHASOR_INLINE __m256i LoadBytes(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
PHASOR_INLINE void StoreBytes(void* at, __m256i x) {
  _mm256_storeu_si256(static_cast<__m256i*>(at), x);
}
PHASOR_INLINE __m256i Broadcast16(const void* at) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}

// Moves bits up by kBy, or down by -kBy, in words of 16 bits: callers mask what is not theirs.
template <int kBy>
PHASOR_INLINE __m256i Shift(__m256i x) {
  if constexpr (kBy > 0) return _mm256_slli_epi16(x, kBy);
  if constexpr (kBy < 0) return _mm256_srli_epi16(x, -kBy);
  return x;
}

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
        c0_(Constant(kSine[0])),
        c1_(Constant(kSine[1])),
        c2_(Constant(kSine[2])) {}
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

// Cosines and sines of 16 angles, low and high bytes.
struct alignas(32) AngleBytes {
  uint8_t cosine[2][16], sine[2][16];
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
PHASOR_INLINE void StoreAngles(const Angles& angles, __m256i phase, AngleBytes* out) {
  StoreBytes(out->cosine, SplitBytes(angles.Cosine(phase)));
  StoreBytes(out->sine, SplitBytes(angles.Sine(phase)));
}

// The middles of 16 angle cells, 2^bits of which make up `range`, in turns / 65536 rounded down.
PHASOR_INLINE __m256i CellPhases(int bits, __m256i range) {
  const __m256i odd = _mm256_setr_epi16(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm256_mulhi_epu16(_mm256_sll_epi16(odd, _mm_cvtsi32_si128(15 - bits)), range);
}

// Fine angles, within 16 cells, and coarse ones, the starts of 16 cells.
PHASOR_INLINE void BuildAngles(const Angles& angles, int16_t phi_range, int a_bits,
                               AngleBytes (&out)[2]) {
  const __m256i range = _mm256_set1_epi16(phi_range);
  StoreAngles(angles, CellPhases(a_bits, range), &out[0]);
  const __m256i count = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  StoreAngles(angles,
              _mm256_mulhi_epu16(_mm256_sll_epi16(count, _mm_cvtsi32_si128(20 - a_bits)), range),
              &out[1]);
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
    return _mm256_and_si256(is_set, _mm256_set1_epi8(1 << kAt));
  }
}

// The low 8 bits of the codes, and their top 7 at bits 0 .. 6 (shorter codes end at bit 6 too):
// radius codes once the bits of the angle are masked off.
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
    *top = Shift<7 - kBits>(code);
  } else {
    constexpr int at4 = 15 - kBits, at2 = at4 + (kBits & 4), at1 = at2 + (kBits & 2);
    *low = LoadBytes(part[0] + 64 * kBlock + 32 * kHalf);
    *top = Shift<7 - kBits>(*low);
    if constexpr (kBits > 8) {
      *top = _mm256_and_si256(*top, _mm256_set1_epi8((1 << at4) - 1));
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

PHASOR_INLINE int16_t PhiRange(const PolarLayout& layout, const std::byte* page, int s) {
  int16_t range;
  std::memcpy(&range, page + 2 * (layout.n_slots + s), 2);
  return range;
}

PHASOR_INLINE Slot LoadSlot(const PolarLayout& layout, const std::byte* page,
                            const PageScratch& scratch, int s) {
  const PolarSlot& at = layout.slots[static_cast<std::size_t>(s)];
  const int r_bits = at.width.r_bits;
  Slot slot;
  for (int p = 0; p < 4; ++p) slot.part[p] = page + at.parts.at[p];
  slot.r_first = _mm256_set1_epi32(scratch.r_first.data()[s]);
  slot.r_range = _mm256_set1_epi32(scratch.r_range.data()[s]);
  slot.radius_mask = _mm256_set1_epi32(kRadiusMask[r_bits]);
  return slot;
}

PHASOR_INLINE Words Radii(const Slot& slot, __m256i top) {
  const Words part = Join(_mm256_setzero_si256(), _mm256_and_si256(top, slot.radius_mask));
  return {_mm256_add_epi16(_mm256_mulhrs_epi16(part.first, slot.r_range), slot.r_first),
          _mm256_add_epi16(_mm256_mulhrs_epi16(part.second, slot.r_range), slot.r_first)};
}

// ---- up to 5 angle bits: a table of q . (cos, sin) per head ----

// Of 32 tokens and one slot: where the levels are in a table, and radii.
struct alignas(32) LevelCodes {
  uint8_t index[32];
  int16_t r[2][16];
};

template <int kBits, AngleTable kTable, int kVector = 0>
PHASOR_INLINE void LoadLevelCodes(const Slot& slot, __m256i angle_mask, LevelCodes* out) {
  if constexpr (kVector < kVectors) {
    __m256i low, top;
    CodeBytes<kBits, kVector / 2, kVector % 2>(slot.part, &low, &top);
    __m256i index = _mm256_and_si256(low, angle_mask);
    if constexpr (kTable == AngleTable::kTwoVectors) {
      // Level 15 - j is entry j % 8 of table j / 8, level 16 + j the entry 8 behind it. Bit 7 is
      // for the other table.
      const __m256i table = _mm256_broadcastsi128_si256(
          _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -128, -127, -126, -125, -124, -123, -122, -121));
      const __m256i above = _mm256_cmpgt_epi8(index, _mm256_set1_epi8(15));
      index = _mm256_xor_si256(index, _mm256_andnot_si256(above, _mm256_set1_epi8(15)));
      index = _mm256_or_si256(_mm256_shuffle_epi8(table, index),
                              _mm256_and_si256(above, _mm256_set1_epi8(8)));
    }
    StoreBytes(out->index, index);
    const Words r = Radii(slot, top);
    StoreBytes(out->r[0], r.first);
    StoreBytes(out->r[1], r.second);
    LoadLevelCodes<kBits, kTable, kVector + 1>(slot, angle_mask, out + 1);
  }
}

// q: [g][S][x, y] from the slot at hand on.
template <AngleTable kTable>
PHASOR_INLINE void BuildTables(const Angles& angles, int16_t phi_range, int a_bits,
                               const int32_t* q, std::ptrdiff_t q_stride, int g, uint8_t* out) {
  constexpr bool kTwo = kTable == AngleTable::kTwoVectors;
  const __m256i phase = CellPhases(a_bits, _mm256_set1_epi16(phi_range));
  const __m256i cosine = angles.Cosine(phase), sine = angles.Sine(phase);
  for (int h = 0; h < g; ++h, q += q_stride, out += kTwo ? 64 : 32) {
    const __m256i x = _mm256_mulhrs_epi16(cosine, _mm256_set1_epi32(q[0]));
    const __m256i y = _mm256_mulhrs_epi16(sine, _mm256_set1_epi32(q[1]));
    if (kTwo) {
      const __m256i below = Unzip(_mm256_sub_epi16(x, y)), above = Unzip(_mm256_add_epi16(x, y));
      StoreBytes(out, _mm256_unpacklo_epi64(below, above));
      StoreBytes(out + 32, _mm256_unpackhi_epi64(below, above));
    } else {
      StoreBytes(out, SplitBytes(_mm256_add_epi16(x, y)));
    }
  }
}

template <int kBits, AngleTable kTable>
void LoadLevels(const PolarLayout& layout, const std::byte* page, int first, int n, int n_padded,
                int g, PageScratch* scratch) {
  constexpr int kTableBytes = kTable == AngleTable::kTwoVectors ? 64 : 32;
  auto* codes = reinterpret_cast<LevelCodes*>(scratch->slots.data());
  uint8_t* table = scratch->table.data();
  const Angles angles;
  for (int s = first; s < first + n; ++s, codes += kVectors, table += g * kTableBytes) {
    const int a_bits = layout.slots[static_cast<std::size_t>(s)].width.a_bits;
    LoadLevelCodes<kBits, kTable>(LoadSlot(layout, page, *scratch, s),
                                  _mm256_set1_epi32(kLowMask[a_bits]), codes);
    BuildTables<kTable>(angles, PhiRange(layout, page, s), a_bits, scratch->q16.data() + 2 * s,
                        std::ptrdiff_t{2} * n_padded, g, table);
  }
}

PHASOR_INLINE void AddWords(__m256i x, __m256i* acc) {
  *acc = _mm256_add_epi16(*acc, x);
  __asm__("" : "+x"(*acc));
}

// Tables of one head.
template <AngleTable kTable>
struct HeadTables {
  __m256i low[2], high[2];
  PHASOR_INLINE explicit HeadTables(const uint8_t* at) {
    low[0] = Broadcast16(at);
    low[1] = Broadcast16(at + 16);
    if (kTable == AngleTable::kOneVector) return;
    high[0] = Broadcast16(at + 32);
    high[1] = Broadcast16(at + 48);
  }
  PHASOR_INLINE Words LookUp(const LevelCodes& codes) const {
    const __m256i index = LoadBytes(codes.index);
    if (kTable == AngleTable::kOneVector) {
      return Join(_mm256_shuffle_epi8(low[0], index), _mm256_shuffle_epi8(low[1], index));
    }
    const __m256i other = _mm256_xor_si256(index, _mm256_set1_epi8(-128));
    return Join(
        _mm256_or_si256(_mm256_shuffle_epi8(low[0], index), _mm256_shuffle_epi8(low[1], other)),
        _mm256_or_si256(_mm256_shuffle_epi8(high[0], index), _mm256_shuffle_epi8(high[1], other)));
  }
};

// sum: of heads h .. h + kG - 1, kV times 32 tokens.
template <AngleTable kTable, int kG, int kV>
void AddLevels(const LevelCodes* codes, const uint8_t* table, int table_stride, int n,
               std::ptrdiff_t sum_stride, int16_t* sum) {
  constexpr int kTableBytes = kTable == AngleTable::kTwoVectors ? 64 : 32;
  __m256i acc[kV][kG][2];
  PHASOR_UNROLL for (int v = 0; v < kV; ++v) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      acc[v][h][0] = LoadBytes(sum + v * sum_stride + 32 * h);
      acc[v][h][1] = LoadBytes(sum + v * sum_stride + 32 * h + 16);
    }
  }
  for (; n > 0; --n, codes += kVectors, table += table_stride) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const HeadTables<kTable> tables(table + h * kTableBytes);
      PHASOR_UNROLL for (int v = 0; v < kV; ++v) {
        const Words level = tables.LookUp(codes[v]);
        AddWords(_mm256_mulhrs_epi16(level.first, LoadBytes(codes[v].r[0])), &acc[v][h][0]);
        AddWords(_mm256_mulhrs_epi16(level.second, LoadBytes(codes[v].r[1])), &acc[v][h][1]);
      }
    }
  }
  PHASOR_UNROLL for (int v = 0; v < kV; ++v) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      StoreBytes(sum + v * sum_stride + 32 * h, acc[v][h][0]);
      StoreBytes(sum + v * sum_stride + 32 * h + 16, acc[v][h][1]);
    }
  }
}

// ---- more angle bits: x and y of every token ----

struct alignas(32) Pairs {
  int16_t x[2][16], y[2][16];
};

PHASOR_INLINE Words LookUp(const uint8_t (&table)[2][16], __m256i index) {
  return Join(_mm256_shuffle_epi8(Broadcast16(table[0]), index),
              _mm256_shuffle_epi8(Broadcast16(table[1]), index));
}

// angle: with kTwoVectors, from the middle of the arc up; with kProduct, fine and coarse ones.
template <AngleTable kTable>
PHASOR_INLINE void Directions(const AngleBytes (&angle)[2], __m256i mask, __m256i low,
                              Words* cosine, Words* sine) {
  if constexpr (kTable == AngleTable::kTwoVectors) {
    const __m256i level = _mm256_and_si256(low, mask);
    const __m256i below = _mm256_cmpgt_epi8(_mm256_set1_epi8(16), level);
    const __m256i index = _mm256_xor_si256(level, _mm256_and_si256(below, _mm256_set1_epi8(15)));
    *cosine = LookUp(angle[0].cosine, index);
    // Below the middle sines are negative, up to 2^-15.
    *sine =
        Join(_mm256_xor_si256(_mm256_shuffle_epi8(Broadcast16(angle[0].sine[0]), index), below),
             _mm256_xor_si256(_mm256_shuffle_epi8(Broadcast16(angle[0].sine[1]), index), below));
  } else {
    const __m256i fine = _mm256_and_si256(low, _mm256_set1_epi8(15));
    const __m256i coarse = _mm256_and_si256(_mm256_srli_epi16(low, 4), mask);
    const Words cos_f = LookUp(angle[0].cosine, fine), sin_f = LookUp(angle[0].sine, fine);
    const Words cos_c = LookUp(angle[1].cosine, coarse), sin_c = LookUp(angle[1].sine, coarse);
    const Words cc = Multiply(cos_c, cos_f), ss = Multiply(sin_c, sin_f);
    const Words sc = Multiply(sin_c, cos_f), cs = Multiply(cos_c, sin_f);
    *cosine = {_mm256_subs_epi16(cc.first, ss.first), _mm256_subs_epi16(cc.second, ss.second)};
    *sine = {_mm256_adds_epi16(sc.first, cs.first), _mm256_adds_epi16(sc.second, cs.second)};
  }
}

template <int kBits, AngleTable kTable, int kVector = 0>
PHASOR_INLINE void LoadPairs(const Slot& slot, const AngleBytes (&angle)[2], __m256i mask,
                             Pairs* out) {
  if constexpr (kVector < kVectors) {
    __m256i low, top;
    CodeBytes<kBits, kVector / 2, kVector % 2>(slot.part, &low, &top);
    Words cosine, sine;
    Directions<kTable>(angle, mask, low, &cosine, &sine);
    const Words r = Radii(slot, top);
    const Words x = Multiply(r, cosine), y = Multiply(r, sine);
    StoreBytes(out->x[0], x.first);
    StoreBytes(out->x[1], x.second);
    StoreBytes(out->y[0], y.first);
    StoreBytes(out->y[1], y.second);
    LoadPairs<kBits, kTable, kVector + 1>(slot, angle, mask, out + 1);
  }
}

template <int kBits, AngleTable kTable>
void LoadSlotPairs(const PolarLayout& layout, const std::byte* page, int first, int n,
                   int /*n_padded*/, int /*g*/, PageScratch* scratch) {
  auto* out = reinterpret_cast<Pairs*>(scratch->slots.data());
  // All tables first, so that one slot's codes do not wait for its polynomials.
  AngleBytes angle[kChunkSlots][2];
  const Angles angles;
  for (int i = 0; i < n; ++i) {
    const int a_bits = layout.slots[static_cast<std::size_t>(first + i)].width.a_bits;
    const int16_t phi_range = PhiRange(layout, page, first + i);
    if constexpr (kTable == AngleTable::kTwoVectors) {
      StoreAngles(angles, CellPhases(a_bits, _mm256_set1_epi16(phi_range)), &angle[i][0]);
    } else {
      BuildAngles(angles, phi_range, a_bits, angle[i]);
    }
  }
  for (int i = 0; i < n; ++i, out += kVectors) {
    const int a_bits = layout.slots[static_cast<std::size_t>(first + i)].width.a_bits;
    const int mask_bits = kTable == AngleTable::kTwoVectors ? a_bits : a_bits - 4;
    LoadPairs<kBits, kTable>(LoadSlot(layout, page, *scratch, first + i), angle[i],
                             _mm256_set1_epi32(kLowMask[mask_bits]), out);
  }
}

template <int kG>
void AddPairs(const Pairs* pairs, const int32_t* q, std::ptrdiff_t q_stride, int n, int16_t* sum) {
  __m256i acc[kG][2];
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    acc[h][0] = LoadBytes(sum + 32 * h);
    acc[h][1] = LoadBytes(sum + 32 * h + 16);
  }
  for (; n > 0; --n, pairs += kVectors, q += 2) {
    const __m256i x0 = LoadBytes(pairs->x[0]), x1 = LoadBytes(pairs->x[1]);
    const __m256i y0 = LoadBytes(pairs->y[0]), y1 = LoadBytes(pairs->y[1]);
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const __m256i qx = _mm256_set1_epi32(q[h * q_stride]);
      const __m256i qy = _mm256_set1_epi32(q[h * q_stride + 1]);
      AddWords(_mm256_mulhrs_epi16(x0, qx), &acc[h][0]);
      AddWords(_mm256_mulhrs_epi16(x1, qx), &acc[h][1]);
      AddWords(_mm256_mulhrs_epi16(y0, qy), &acc[h][0]);
      AddWords(_mm256_mulhrs_epi16(y1, qy), &acc[h][1]);
    }
  }
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    StoreBytes(sum + 32 * h, acc[h][0]);
    StoreBytes(sum + 32 * h + 16, acc[h][1]);
  }
}

// ---- runs ----

using LoadFunction = void (*)(const PolarLayout&, const std::byte*, int, int, int, int,
                              PageScratch*);
template <int kBits>
LoadFunction LoaderFor(AngleTable table, bool as_pairs) {
  if (table == AngleTable::kOneVector) return LoadLevels<kBits, AngleTable::kOneVector>;
  if (table == AngleTable::kProduct) return LoadSlotPairs<kBits, AngleTable::kProduct>;
  return as_pairs ? LoadSlotPairs<kBits, AngleTable::kTwoVectors>
                  : LoadLevels<kBits, AngleTable::kTwoVectors>;
}
LoadFunction LoaderFor(const PolarRun& run, bool as_pairs) {
  constexpr LoadFunction (*kFor[kMaxPolarTotalBits + 1])(AngleTable, bool) = {
      nullptr,       nullptr,       nullptr,      LoaderFor<3>, LoaderFor<4>,
      LoaderFor<5>,  LoaderFor<6>,  LoaderFor<7>, LoaderFor<8>, LoaderFor<9>,
      LoaderFor<10>, LoaderFor<11>, LoaderFor<12>};
  return kFor[run.total_bits](run.angle_table, as_pairs);
}

// Slots [first, first + n), which are loaded, for heads [h, h + kG) of g.
template <int kG>
void AddWide(const PageScratch& scratch, int n_padded, int first, int n, int h, int g,
             int16_t* sum) {
  const int32_t* q = scratch.q16.data() + std::ptrdiff_t{2} * (h * n_padded + first);
  const auto* pairs = reinterpret_cast<const Pairs*>(scratch.slots.data());
  for (int v = 0; v < kVectors; ++v, sum += 32 * g) {
    AddPairs<kG>(pairs + v, q, std::ptrdiff_t{2} * n_padded, n, sum + 32 * h);
  }
}
template <AngleTable kTable, int kG>
void AddTables(const PageScratch& scratch, int /*n_padded*/, int /*first*/, int n, int h, int g,
               int16_t* sum) {
  constexpr int kTableBytes = kTable == AngleTable::kTwoVectors ? 64 : 32;
  constexpr int kV = kG == 1 ? 4 : 2;
  const auto* codes = reinterpret_cast<const LevelCodes*>(scratch.slots.data());
  for (int v = 0; v < kVectors; v += kV, sum += 32 * kV * g) {
    AddLevels<kTable, kG, kV>(codes + v, scratch.table.data() + kTableBytes * h, kTableBytes * g, n,
                              32 * g, sum + 32 * h);
  }
}

void AddSlots(AngleTable kind, bool as_pairs, const PageScratch& scratch, int n_padded, int first,
              int n, int g, int16_t* sum) {
  using Function = void (*)(const PageScratch&, int, int, int, int, int, int16_t*);
  constexpr Function kWide[] = {AddWide<1>, AddWide<2>, AddWide<3>, AddWide<4>};
  constexpr Function kOne[] = {AddTables<AngleTable::kOneVector, 1>,
                               AddTables<AngleTable::kOneVector, 2>};
  constexpr Function kTwo[] = {AddTables<AngleTable::kTwoVectors, 1>,
                               AddTables<AngleTable::kTwoVectors, 2>};
  const Function* add = as_pairs ? kWide : kind == AngleTable::kOneVector ? kOne : kTwo;
  const int at_once = as_pairs ? 4 : 2, n_passes = (g + at_once - 1) / at_once;
  for (int pass = 0; pass < n_passes; ++pass) {
    const int h = g * pass / n_passes, n_heads = g * (pass + 1) / n_passes - h;
    add[n_heads - 1](scratch, n_padded, first, n, h, g, sum);
  }
}

// ---- queries ----

// Cosine and sine of an angle in turns, |turns| <= 2, as SinCosTurns.
PHASOR_INLINE void SinCos8(__m256 turns, __m256* sine, __m256* cosine) {
  const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(turns, _mm256_set1_ps(4.0f)));
  const __m256 x = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(q), _mm256_set1_ps(0.25f), turns);
  const __m256 x2 = _mm256_mul_ps(x, x);
  __m256 s = _mm256_set1_ps(kSinTurns[3]), c = _mm256_set1_ps(kCosTurns[4]);
  PHASOR_UNROLL for (int i = 2; i >= 0; --i) {
    s = _mm256_fmadd_ps(s, x2, _mm256_set1_ps(kSinTurns[i]));
  }
  PHASOR_UNROLL for (int i = 3; i >= 0; --i) {
    c = _mm256_fmadd_ps(c, x2, _mm256_set1_ps(kCosTurns[i]));
  }
  s = _mm256_mul_ps(s, x);
  const __m256 swap = _mm256_castsi256_ps(_mm256_slli_epi32(q, 31));
  const __m256 s2 = _mm256_blendv_ps(s, c, swap), c2 = _mm256_blendv_ps(c, s, swap);
  const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000u));
  const __m256i s_sign = _mm256_and_si256(_mm256_slli_epi32(q, 30), sign);
  const __m256i c_sign =
      _mm256_and_si256(_mm256_slli_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(1)), 30), sign);
  *sine = _mm256_xor_ps(s2, _mm256_castsi256_ps(s_sign));
  *cosine = _mm256_xor_ps(c2, _mm256_castsi256_ps(c_sign));
}

PHASOR_INLINE __m128i Load8(const std::byte* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
PHASOR_INLINE void StoreTwice(__m256 x, __m256 y, float* out) {
  const __m256 a = _mm256_unpacklo_ps(x, y), b = _mm256_unpackhi_ps(x, y);
  _mm_store_ps(out, _mm256_castps256_ps128(a));
  _mm_store_ps(out + 4, _mm256_castps256_ps128(b));
  _mm_store_ps(out + 8, _mm256_extractf128_ps(a, 1));
  _mm_store_ps(out + 12, _mm256_extractf128_ps(b, 1));
}
// A 16-bit number in both halves.
PHASOR_INLINE __m256i Twice(__m256 x) {
  const __m256i i = _mm256_cvtps_epi32(x);
  return _mm256_blend_epi16(i, _mm256_slli_epi32(i, 16), 0xaa);
}

// The grids of all slots: radii in units, and what a unit is; the angle that levels count from.
void LoadGrids(const PolarLayout& layout, const std::byte* page, PageScratch* out) {
  const int n = layout.n_slots;
  const __m256i count = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int s = 0; s < n; s += 8) {
    // Beyond the last slot these are other bytes of the page, and masked.
    const __m256 r_min = _mm256_cvtph_ps(Load8(page + 2 * (2 * n + s)));
    const __m256 r_step = _mm256_cvtph_ps(Load8(page + 2 * (3 * n + s)));
    // 2^r_bits, by its exponent.
    const __m256 levels = _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_add_epi32(LoadBytes(layout.r_bits_S.data() + s), _mm256_set1_epi32(127)), 23));
    const __m256 first = _mm256_fmadd_ps(_mm256_set1_ps(0.5f), r_step, r_min);
    const __m256 range = _mm256_mul_ps(levels, r_step);
    const __m256 top = _mm256_fnmadd_ps(_mm256_set1_ps(0.5f), r_step, _mm256_add_ps(r_min, range));
    const __m256 is_slot = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - s), count));
    const __m256 used = _mm256_and_ps(is_slot, _mm256_cmp_ps(top, _mm256_setzero_ps(), _CMP_GT_OQ));
    const __m256 inverse = _mm256_and_ps(used, _mm256_div_ps(_mm256_set1_ps(kRadiusUnits), top));
    const __m256 scale =
        _mm256_and_ps(used, _mm256_mul_ps(top, _mm256_set1_ps(1.0f / kRadiusUnits)));
    StoreBytes(out->r_first.data() + s, Twice(_mm256_mul_ps(first, inverse)));
    StoreBytes(out->r_range.data() + s, Twice(_mm256_mul_ps(range, inverse)));
    _mm256_store_ps(out->scale.data() + s, scale);
  }
  for (int s = 0; s < n; s += 8) {
    const __m256 scale = _mm256_load_ps(out->scale.data() + s);
    // Two tables begin in the middle of the arc.
    const __m256i from_middle =
        _mm256_cmpeq_epi32(LoadBytes(layout.a_bits_S.data() + s), _mm256_set1_epi32(5));
    const __m256i phi_min = _mm256_cvtepu16_epi32(Load8(page + 2 * s));
    const __m256i phi_range = _mm256_cvtepu16_epi32(Load8(page + 2 * (n + s)));
    const __m256 phase = _mm256_cvtepi32_ps(_mm256_add_epi32(
        _mm256_add_epi32(phi_min, phi_min), _mm256_and_si256(phi_range, from_middle)));
    __m256 sine, cosine;
    SinCos8(_mm256_mul_ps(phase, _mm256_set1_ps(0x1p-17f)), &sine, &cosine);
    cosine = _mm256_mul_ps(cosine, scale);
    sine = _mm256_mul_ps(sine, scale);
    // Cells of r_step by an arc, 1/12 of their squares; a query meets half of each.
    const __m256 cells = _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_sub_epi32(_mm256_set1_epi32(127), LoadBytes(layout.a_bits_S.data() + s)), 23));
    const __m256 arc = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(phi_range), cells),
                                     _mm256_mul_ps(scale, _mm256_set1_ps(kArcUnits)));
    const __m256 r_step = _mm256_cvtph_ps(Load8(page + 2 * (3 * n + s)));
    const __m256 square = _mm256_fmadd_ps(r_step, r_step, _mm256_mul_ps(arc, arc));
    const __m256 used = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
    _mm256_store_ps(out->code_error.data() + s,
                    _mm256_and_ps(used, _mm256_mul_ps(square, _mm256_set1_ps(1.0f / 24))));
    StoreTwice(cosine, cosine, out->scale_cos.data() + 2 * s);
    StoreTwice(sine, _mm256_sub_ps(_mm256_setzero_ps(), sine), out->scale_sin.data() + 2 * s);
  }
}

PHASOR_INLINE float SumLanes(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
PHASOR_INLINE float MaxLanes(__m256 x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

// Finds what a unit of a head's queries is, 0 where all scores are. Returns whether 16 bits are
// enough. length: [S].
PHASOR_INLINE bool FindUnit(const float* length, const PageScratch& page, int n_slots, int n_padded,
                            float* unit) {
  __m256 sum = _mm256_setzero_ps(), most = sum, squares = sum, code_error = sum;
  for (int s = 0; s < n_padded; s += 8) {
    const __m256 x = _mm256_load_ps(length + s);
    const __m256 product = _mm256_mul_ps(x, _mm256_load_ps(page.scale.data() + s));
    sum = _mm256_add_ps(sum, product);
    most = _mm256_max_ps(most, product);
    squares = _mm256_fmadd_ps(product, product, squares);
    code_error = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_load_ps(page.code_error.data() + s),
                                 code_error);
  }
  // Rounding can take every slot's part of a sum up by 2 units.
  const float room = 32767.0f - 3.0f * static_cast<float>(n_padded);
  const float one = std::max(SumLanes(sum) * (kRadiusUnits / 32768.0f / room),
                             MaxLanes(most) * (1.0f / kLargestQuery));
  const float error = kSlotError * static_cast<float>(n_slots) * one * one +
                      kLevelError * kRadiusUnits * kRadiusUnits * SumLanes(squares);
  const bool usable = one > 1e-15f && one < 1e15f;
  *unit = usable ? one : 0.0f;
  return one == 0.0f || (usable && error <= kPolarKernelError * SumLanes(code_error));
}

// Queries of one head in units. q: [S][x, y].
PHASOR_INLINE void FoldQuery(const float* q, const PageScratch& page, float unit, int n_padded,
                             int32_t* q16) {
  const __m256 inverse = _mm256_set1_ps(unit > 0 ? 1.0f / unit : 0.0f);
  for (int i = 0; i < 2 * n_padded; i += 16) {
    __m256i word[2];
    PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
      const int at = i + 8 * v;
      const __m256 x = _mm256_load_ps(q + at), swapped = _mm256_permute_ps(x, 0xb1);
      const __m256 turned =
          _mm256_fmadd_ps(x, _mm256_load_ps(page.scale_cos.data() + at),
                          _mm256_mul_ps(swapped, _mm256_load_ps(page.scale_sin.data() + at)));
      word[v] = _mm256_cvtps_epi32(_mm256_mul_ps(turned, inverse));
    }
    const __m256i words = _mm256_packs_epi32(word[0], word[1]);
    StoreBytes(q16 + i, _mm256_unpacklo_epi16(words, words));
    StoreBytes(q16 + i + 8, _mm256_unpackhi_epi16(words, words));
  }
}

// Sums of one head and 32 tokens, in the order of CodeBytes, to scores 16 tokens apart.
PHASOR_INLINE void StoreScores(const int16_t* sum, __m256 factor, float* out) {
  const __m256i a = LoadBytes(sum), b = LoadBytes(sum + 16);
  // a has lanes 0 1 | 4 5 of four tiles, b lanes 2 3 | 6 7. c: lanes 0 2 | 4 6; d: 1 3 | 5 7.
  const __m256i c = _mm256_unpacklo_epi16(a, b), d = _mm256_unpackhi_epi16(a, b);
  // All lanes, of tiles 0 and 1, and of 2 and 3.
  const __m256i tiles[2] = {_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d)};
  const __m256i zero = _mm256_setzero_si256();
  PHASOR_UNROLL for (int i = 0; i < 2; ++i, out += 32) {  // to the upper halves of 32 bits
    const __m256i even = _mm256_unpacklo_epi16(zero, tiles[i]);
    const __m256i odd = _mm256_unpackhi_epi16(zero, tiles[i]);
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(even), factor));
    _mm256_storeu_ps(out + 16, _mm256_mul_ps(_mm256_cvtepi32_ps(odd), factor));
  }
}

void Resize(int n_padded, int g, PageScratch* out) {
  const std::size_t n = static_cast<std::size_t>(n_padded), heads = static_cast<std::size_t>(g);
  out->scale.Resize(n);
  out->code_error.Resize(n);
  out->scale_cos.Resize(2 * n);
  out->scale_sin.Resize(2 * n);
  out->r_first.Resize(n);
  out->r_range.Resize(n);
  out->q16.Resize(heads * 2 * n);
  out->unit.Resize(heads);
  out->sum.Resize(heads * kPageTokens);
  out->table.Resize(heads * kChunkSlots * 64);
  out->slots.Resize(kChunkSlots * kVectors * std::max(sizeof(LevelCodes), sizeof(Pairs)));
}

}  // namespace

void ScorePolarAvx2(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
                    int n_tokens, float* score_GT) {
  static thread_local PageScratch scratch;
  const int n_padded = PaddedPolarSlots(layout);
  Resize(n_padded, g, &scratch);
  LoadGrids(layout, page, &scratch);
  const float* length = prepared + std::ptrdiff_t{2} * g * n_padded;
  bool enough = true;
  for (int h = 0; h < g; ++h) {
    enough &=
        FindUnit(length + h * n_padded, scratch, layout.n_slots, n_padded, scratch.unit.data() + h);
  }
  if (!enough) return ScorePolarFloatAvx2(layout, prepared, g, page, n_tokens, score_GT);
  for (int h = 0; h < g; ++h) {
    const std::ptrdiff_t at = std::ptrdiff_t{2} * h * n_padded;
    FoldQuery(prepared + at, scratch, scratch.unit.data()[h], n_padded, scratch.q16.data() + at);
  }
  std::fill_n(scratch.sum.data(), g * kPageTokens, int16_t{0});
  for (const PolarRun& run : layout.runs) {
    const bool as_pairs = run.angle_table == AngleTable::kProduct ||
                          (run.angle_table == AngleTable::kTwoVectors && g >= kManyHeads);
    const LoadFunction load = LoaderFor(run, as_pairs);
    const int n_chunks = (run.count + kChunkSlots - 1) / kChunkSlots;
    for (int c = 0; c < n_chunks; ++c) {
      const int first = run.first + run.count * c / n_chunks;
      const int n = run.first + run.count * (c + 1) / n_chunks - first;
      load(layout, page, first, n, n_padded, g, &scratch);
      AddSlots(run.angle_table, as_pairs, scratch, n_padded, first, n, g, scratch.sum.data());
    }
  }
  for (int h = 0; h < g; ++h) {
    const __m256 factor = _mm256_set1_ps(0.5f * scratch.unit.data()[h]);
    float* out = score_GT + h * kPageTokens;
    for (int v = 0; v < kVectors; ++v) {
      StoreScores(scratch.sum.data() + 32 * (v * g + h), factor, out + 64 * (v / 2) + 8 * (v % 2));
    }
  }
}

void PreparePolarAvx2(const PolarLayout& layout, const float* q_GD, int g, float* prepared) {
  const int n_padded = PaddedPolarSlots(layout);
  float* out = prepared;
  float* length = prepared + std::ptrdiff_t{2} * g * n_padded;
  std::fill_n(prepared, PreparedPolarFloats(layout, g), 0.0f);
  for (int h = 0; h < g; ++h, out += 2 * n_padded, length += n_padded) {
    const float* q = q_GD + static_cast<std::ptrdiff_t>(h) * layout.head_dim;
    for (int s = 0; s < layout.n_slots; ++s) {
      const PairDims dims = layout.slots[static_cast<std::size_t>(s)].dims;
      const float x = q[dims.x], y = dims.y < 0 ? 0.0f : q[dims.y];
      out[2 * s] = x;
      out[2 * s + 1] = y;
      length[s] = std::sqrt(x * x + y * y);
    }
  }
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
