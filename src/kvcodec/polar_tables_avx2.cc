// Scores of polar slots of up to 5 angle bits with AVX2: T[k] = q . (cos, sin) over the angle
// levels is a table of 16-bit numbers per head, looked up byte by byte with vpshufb and multiplied
// by the radius (vpmulhrsw).
//
// A table of 32 levels counts from the middle of the arc, where the queries have been turned to:
// T[16 + j] = x cos(j) + y sin(j) and T[15 - j] = x cos(j) - y sin(j), so one cosine and one sine
// serve two levels.
#if defined(__x86_64__)
#include "kvcodec/polar_words_avx2-inl.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// Of 32 tokens and one slot: where the levels are in a table, and radii.
struct alignas(32) LevelCodes {
  uint8_t index[32];
  int16_t r[2][16];
};

template <int kBits, AngleTable kTable, int kVector = 0>
PHASOR_INLINE void LoadLevelCodes(const Slot& slot, __m256i angle_mask, LevelCodes* out) {
  if constexpr (kVector < kPolarVectors) {
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
PHASOR_INLINE void BuildTables(const Angles& angles, __m256i phase, const int32_t* q,
                               std::ptrdiff_t q_stride, int g, uint8_t* out) {
  constexpr bool kTwo = kTable == AngleTable::kTwoVectors;
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
void LoadLevels(const PolarSlots& slots) {
  constexpr int kTableBytes = kTable == AngleTable::kTwoVectors ? 64 : 32;
  PolarPageScratch* scratch = slots.scratch;
  auto* codes = reinterpret_cast<LevelCodes*>(scratch->codes.data());
  uint8_t* table = scratch->table.data();
  const Angles angles;
  for (int s = slots.first; s < slots.first + slots.n; ++s) {
    const int a_bits = slots.layout.slots[static_cast<std::size_t>(s)].width.a_bits;
    LoadLevelCodes<kBits, kTable>(LoadSlot(slots, s), _mm256_set1_epi32(kPolarLowMask[a_bits]),
                                  codes);
    BuildTables<kTable>(angles, CellPhases(a_bits, PhiRange(slots, s)),
                        scratch->plan.q16.data() + 2 * s, std::ptrdiff_t{2} * slots.n_padded,
                        slots.g, table);
    codes += kPolarVectors;
    table += slots.g * kTableBytes;
  }
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
  for (; n > 0; --n, codes += kPolarVectors, table += table_stride) {
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

// Heads [h, h + kG).
template <AngleTable kTable, int kG>
void AddHeads(const PolarSlots& slots, int h) {
  constexpr int kTableBytes = kTable == AngleTable::kTwoVectors ? 64 : 32;
  constexpr int kV = kG == 1 ? 4 : 2;
  const auto* codes = reinterpret_cast<const LevelCodes*>(slots.scratch->codes.data());
  const uint8_t* table = slots.scratch->table.data() + kTableBytes * h;
  for (int v = 0; v < kPolarVectors; v += kV) {
    AddLevels<kTable, kG, kV>(codes + v, table, kTableBytes * slots.g, slots.n, 32 * slots.g,
                              slots.scratch->sum.data() + 32 * (v * slots.g + h));
  }
}

template <int kBits, AngleTable kTable>
void AddSlots(const PolarSlots& slots) {
  LoadLevels<kBits, kTable>(slots);
  for (int h = 0; h + 1 < slots.g; h += 2) AddHeads<kTable, 2>(slots, h);
  if (slots.g % 2 != 0) AddHeads<kTable, 1>(slots, slots.g - 1);
}

template <int kBits>
void AddBits(const PolarSlots& slots) {
  if (slots.layout.slots[static_cast<std::size_t>(slots.first)].width.a_bits <= 4) {
    AddSlots<kBits, AngleTable::kOneVector>(slots);
  } else {
    AddSlots<kBits, AngleTable::kTwoVectors>(slots);
  }
}

}  // namespace

void AddPolarTablesAvx2(const PolarSlots& slots) {
  constexpr void (*kAdd[kMaxPolarTotalBits + 1])(const PolarSlots&) = {
      nullptr,    nullptr,    nullptr,    AddBits<3>,  AddBits<4>,  AddBits<5>, AddBits<6>,
      AddBits<7>, AddBits<8>, AddBits<9>, AddBits<10>, AddBits<11>, AddBits<12>};
  kAdd[slots.layout.slots[static_cast<std::size_t>(slots.first)].width.total()](slots);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
