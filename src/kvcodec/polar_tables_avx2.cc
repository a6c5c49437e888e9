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
struct Levels {
  __m256i index;
  Words r;
};
struct alignas(32) StoredLevels {
  uint8_t index[32];
  int16_t r[2][16];
};

template <int kBits, AngleTable kTable, int kVector>
PHASOR_INLINE Levels LevelsOf(const Slot& slot, __m256i angle_mask) {
  __m256i low, top;
  CodeBytes<kBits, kVector / 2, kVector % 2>(slot.part, &low, &top);
  __m256i index = _mm256_and_si256(low, angle_mask);
  if constexpr (kTable == AngleTable::kTwoVectors) {
    index = _mm256_add_epi8(index, _mm256_set1_epi8(0x70));  // bit 7: of the other table
  }
  return {index, Radii(slot, top)};
}

PHASOR_INLINE __m256i AngleMask(const PolarSlots& slots, int s) {
  return _mm256_set1_epi32(
      kPolarLowMask[slots.layout.slots[static_cast<std::size_t>(s)].width.a_bits]);
}

template <int kBits, AngleTable kTable, int kVector = 0>
PHASOR_INLINE void StoreLevels(const Slot& slot, __m256i angle_mask, StoredLevels* out) {
  if constexpr (kVector < kPolarVectors) {
    const Levels levels = LevelsOf<kBits, kTable, kVector>(slot, angle_mask);
    StoreBytes(out->index, levels.index);
    StoreBytes(out->r[0], levels.r.first);
    StoreBytes(out->r[1], levels.r.second);
    StoreLevels<kBits, kTable, kVector + 1>(slot, angle_mask, out + 1);
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
      const __m256i backwards = _mm256_broadcastsi128_si256(
          _mm_setr_epi8(14, 12, 10, 8, 6, 4, 2, 0, 15, 13, 11, 9, 7, 5, 3, 1));
      const __m256i below = _mm256_shuffle_epi8(_mm256_sub_epi16(x, y), backwards);
      StoreBytes(out, _mm256_permute4x64_epi64(below, 0x72));
      StoreBytes(out + 32, SplitBytes(_mm256_add_epi16(x, y)));
    } else {
      StoreBytes(out, SplitBytes(_mm256_add_epi16(x, y)));
    }
  }
}

template <AngleTable kTable>
constexpr int kTableBytes = kTable == AngleTable::kTwoVectors ? 64 : 32;

template <AngleTable kTable>
void BuildAllTables(const PolarSlots& slots) {
  const PolarSlot* slot = slots.layout.slots.data() + slots.first;
  const int32_t* q = slots.scratch->plan.q16.data() + 2 * slots.first;
  uint8_t* table = slots.scratch->table.data();
  const Angles angles;
  for (int i = 0; i < slots.n; ++i, q += 2, table += slots.g * kTableBytes<kTable>) {
    BuildTables<kTable>(angles, CellPhases(slot[i].width.a_bits, PhiRange(slots, slots.first + i)),
                        q, std::ptrdiff_t{2} * slots.n_padded, slots.g, table);
    slots.fetcher->Step();
  }
}

template <int kBits, AngleTable kTable>
void StoreAllLevels(const PolarSlots& slots) {
  auto* out = reinterpret_cast<StoredLevels*>(slots.scratch->codes.data());
  for (int s = slots.first; s < slots.first + slots.n; ++s, out += kPolarVectors) {
    StoreLevels<kBits, kTable>(LoadSlot(slots, s), AngleMask(slots, s), out);
  }
}

// Tables of one head.
template <AngleTable kTable>
struct HeadTables {
  __m256i low[2], high[2];  // bytes of levels 0 .. 15, 16 .. 31
  PHASOR_INLINE explicit HeadTables(const uint8_t* at) {
    low[0] = Broadcast16(at);
    high[0] = Broadcast16(at + 16);
    if (kTable == AngleTable::kOneVector) return;
    low[1] = Broadcast16(at + 32);
    high[1] = Broadcast16(at + 48);
  }
  PHASOR_INLINE Words LookUp(__m256i index) const {
    if (kTable == AngleTable::kOneVector) {
      return Join(_mm256_shuffle_epi8(low[0], index), _mm256_shuffle_epi8(high[0], index));
    }
    const __m256i other = _mm256_xor_si256(index, _mm256_set1_epi8(-128));
    return Join(
        _mm256_or_si256(_mm256_shuffle_epi8(low[0], index), _mm256_shuffle_epi8(low[1], other)),
        _mm256_or_si256(_mm256_shuffle_epi8(high[0], index), _mm256_shuffle_epi8(high[1], other)));
  }
};

// Heads [h, h + kG), kV times 32 tokens from `vector` on.
template <AngleTable kTable, int kG, int kV>
void AddStored(const PolarSlots& slots, int h, int vector) {
  const auto* codes = reinterpret_cast<const StoredLevels*>(slots.scratch->codes.data()) + vector;
  const uint8_t* table = slots.scratch->table.data() + kTableBytes<kTable> * h;
  Sums<kG, kV> sums(slots, vector, h);
  for (int n = slots.n; n > 0; --n) {
    PHASOR_UNROLL for (int i = 0; i < kG; ++i) {
      const HeadTables<kTable> tables(table + i * kTableBytes<kTable>);
      PHASOR_UNROLL for (int v = 0; v < kV; ++v) {
        const Words level = tables.LookUp(LoadBytes(codes[v].index));
        AddWords(_mm256_mulhrs_epi16(level.first, LoadBytes(codes[v].r[0])), &sums.acc[v][i][0]);
        AddWords(_mm256_mulhrs_epi16(level.second, LoadBytes(codes[v].r[1])), &sums.acc[v][i][1]);
      }
    }
    codes += kPolarVectors;
    table += slots.g * kTableBytes<kTable>;
  }
  sums.Store();
}

template <AngleTable kTable, int kG>
void AddStoredHeads(const PolarSlots& slots, int h) {
  constexpr int kV = kG == 1 ? 4 : 2;
  for (int v = 0; v < kPolarVectors; v += kV) AddStored<kTable, kG, kV>(slots, h, v);
}

// The same for all kG heads there are, codes straight from the page.
template <int kBits, AngleTable kTable, int kG, int kV, int kFirst, int kVector = 0>
PHASOR_INLINE void AddSlot(const Slot& slot, __m256i angle_mask, const uint8_t* table,
                           Sums<kG, kV>* sums) {
  if constexpr (kVector < kV) {
    const Levels levels = LevelsOf<kBits, kTable, kFirst + kVector>(slot, angle_mask);
    PHASOR_UNROLL for (int i = 0; i < kG; ++i) {
      const Words level = HeadTables<kTable>(table + i * kTableBytes<kTable>).LookUp(levels.index);
      __m256i* acc = sums->acc[kVector][i];
      acc[0] = _mm256_add_epi16(acc[0], _mm256_mulhrs_epi16(level.first, levels.r.first));
      acc[1] = _mm256_add_epi16(acc[1], _mm256_mulhrs_epi16(level.second, levels.r.second));
    }
    AddSlot<kBits, kTable, kG, kV, kFirst, kVector + 1>(slot, angle_mask, table, sums);
  }
}

template <int kBits, AngleTable kTable, int kG, int kV, int kFirst = 0>
void AddFromPage(const PolarSlots& slots) {
  if constexpr (kFirst < kPolarVectors) {
    const uint8_t* table = slots.scratch->table.data();
    Sums<kG, kV> sums(slots, kFirst, 0);
    Slot slot = LoadSlot(slots, slots.first);
    __m256i angle_mask = AngleMask(slots, slots.first);
    LineFetcher fetcher = *slots.fetcher;  // or it would be kept in memory
    for (int s = slots.first; s < slots.first + slots.n; ++s) {
      fetcher.Step();
      if (kTable == AngleTable::kOneVector) {
        slot = LoadSlot(slots, s);
        angle_mask = AngleMask(slots, s);
      } else {  // all widths of the run are one; the parts lie behind each other
        slot.r_first = _mm256_set1_epi32(slots.scratch->plan.r_first.data()[s]);
        slot.r_range = _mm256_set1_epi32(slots.scratch->plan.r_range.data()[s]);
      }
      AddSlot<kBits, kTable, kG, kV, kFirst>(slot, angle_mask, table, &sums);
      for (int p = 0; p < 4; ++p) slot.part[p] += PartBytes(kFieldParts[p]);
      table += kG * kTableBytes<kTable>;
    }
    *slots.fetcher = fetcher;
    sums.Store();
    AddFromPage<kBits, kTable, kG, kV, kFirst + kV>(slots);
  }
}

template <int kBits, AngleTable kTable>
void AddSlots(const PolarSlots& slots) {
  BuildAllTables<kTable>(slots);
  if (slots.g == 1) return AddFromPage<kBits, kTable, 1, 4>(slots);
  if constexpr (kTable == AngleTable::kTwoVectors) {
    // With more tokens at a time g++ keeps tables in registers and sums in memory.
    if (slots.g == 2) return AddFromPage<kBits, kTable, 2, 1>(slots);
  }
  StoreAllLevels<kBits, kTable>(slots);
  for (int h = 0; h + 1 < slots.g; h += 2) AddStoredHeads<kTable, 2>(slots, h);
  if (slots.g % 2 != 0) AddStoredHeads<kTable, 1>(slots, slots.g - 1);
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
