// Scores of polar slots of 5 angle bits and more with AVX2: x and y of every token become 16-bit
// integers once for all heads, and meet the 16-bit queries in vpmulhrsw. Beyond 5 bits an angle is
// a coarse one plus a fine one; one head and two turn their queries by the coarse one instead.
#if defined(__x86_64__)
#include "kvcodec/polar_words_avx2-inl.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// Cosines and sines of 16 angles, low and high bytes.
struct alignas(32) AngleBytes {
  uint8_t cosine[2][16], sine[2][16];
};

PHASOR_INLINE void StoreAngles(const Angles& angles, __m256i phase, AngleBytes* out) {
  StoreBytes(out->cosine, SplitBytes(angles.Cosine(phase)));
  StoreBytes(out->sine, SplitBytes(angles.Sine(phase)));
}

// The starts of every 16 of the 2^bits cells that make up `range`.
PHASOR_INLINE __m256i CoarsePhases(int bits, __m256i range) {
  const __m256i count = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm256_mulhi_epu16(_mm256_sll_epi16(count, _mm_cvtsi32_si128(20 - bits)), range);
}

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
    const __m256i level = _mm256_add_epi8(_mm256_and_si256(low, mask), _mm256_set1_epi8(-16));
    const __m256i below = _mm256_cmpgt_epi8(_mm256_setzero_si256(), level);
    const __m256i index = _mm256_xor_si256(level, below);
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
  if constexpr (kVector < kPolarVectors) {
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
void LoadSlots(const PolarSlots& slots) {
  constexpr bool kTwo = kTable == AngleTable::kTwoVectors;
  // All tables first, so that one slot's codes do not wait for its polynomials.
  AngleBytes angle[kPolarChunkSlots][2];
  const Angles angles;
  const PolarSlot* slot = slots.layout.slots.data() + slots.first;
  for (int i = 0; i < slots.n; ++i) {
    const int a_bits = slot[i].width.a_bits;
    const __m256i range = PhiRange(slots, slots.first + i);
    StoreAngles(angles, CellPhases(a_bits, range), &angle[i][0]);
    if (!kTwo) StoreAngles(angles, CoarsePhases(a_bits, range), &angle[i][1]);
  }
  auto* out = reinterpret_cast<Pairs*>(slots.scratch->codes.data());
  for (int i = 0; i < slots.n; ++i, out += kPolarVectors) {
    const int mask_bits = slot[i].width.a_bits - (kTwo ? 0 : 4);
    LoadPairs<kBits, kTable>(LoadSlot(slots, slots.first + i), angle[i],
                             _mm256_set1_epi32(kPolarLowMask[mask_bits]), out);
    slots.fetcher->Step();
  }
}

template <int kG>
void AddPairs(const Pairs* pairs, const int32_t* q, std::ptrdiff_t q_stride, int n, int16_t* sum) {
  __m256i acc[kG][2];
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    acc[h][0] = LoadBytes(sum + 32 * h);
    acc[h][1] = LoadBytes(sum + 32 * h + 16);
  }
  for (; n > 0; --n, pairs += kPolarVectors, q += 2) {
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

// Heads [h, h + kG).
template <int kG>
void AddHeads(const PolarSlots& slots, int h) {
  const std::ptrdiff_t q_stride = std::ptrdiff_t{2} * slots.n_padded;
  const int32_t* q = slots.scratch->plan.q16.data() + h * q_stride + 2 * slots.first;
  const auto* pairs = reinterpret_cast<const Pairs*>(slots.scratch->codes.data());
  for (int v = 0; v < kPolarVectors; ++v) {
    AddPairs<kG>(pairs + v, q, q_stride, slots.n,
                 slots.scratch->sum.data() + 32 * (v * slots.g + h));
  }
}

// ---- coarse angles on the side of the query ----

// Of one head, over 16 coarse angles c: q . (cos c, sin c) and q . (-sin c, cos c), which meet
// r cos f and r sin f of the fine angles.
struct alignas(32) TurnedQuery {
  uint8_t along[2][16], across[2][16];
};

template <int kG>
struct ProductTables {
  AngleBytes fine;
  TurnedQuery query[kG];
};

template <int kG>
void BuildProductTables(const PolarSlots& slots, ProductTables<kG>* out) {
  const Angles angles;
  const PolarSlot* slot = slots.layout.slots.data() + slots.first;
  const std::ptrdiff_t q_stride = std::ptrdiff_t{2} * slots.n_padded;
  const int32_t* q = slots.scratch->plan.q16.data() + 2 * slots.first;
  for (int i = 0; i < slots.n; ++i, q += 2) {
    const int a_bits = slot[i].width.a_bits;
    const __m256i range = PhiRange(slots, slots.first + i);
    StoreAngles(angles, CellPhases(a_bits, range), &out[i].fine);
    const __m256i phase = CoarsePhases(a_bits, range);
    const __m256i cosine = angles.Cosine(phase), sine = angles.Sine(phase);
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const __m256i x = _mm256_set1_epi32(q[h * q_stride]);
      const __m256i y = _mm256_set1_epi32(q[h * q_stride + 1]);
      const __m256i along =
          _mm256_adds_epi16(_mm256_mulhrs_epi16(cosine, x), _mm256_mulhrs_epi16(sine, y));
      const __m256i across =
          _mm256_subs_epi16(_mm256_mulhrs_epi16(cosine, y), _mm256_mulhrs_epi16(sine, x));
      StoreBytes(out[i].query[h].along, SplitBytes(along));
      StoreBytes(out[i].query[h].across, SplitBytes(across));
    }
    slots.fetcher->Step();
  }
}

// Vectors kFirst .. kFirst + kV - 1 of a slot. acc: [vector][head][2].
template <int kBits, int kG, int kV, int kFirst, int kVector = 0>
PHASOR_INLINE void AddProduct(const Slot& slot, __m256i mask, const ProductTables<kG>& table,
                              __m256i (*acc)[kG][2]) {
  if constexpr (kVector < kV) {
    __m256i low, top;
    CodeBytes<kBits, (kFirst + kVector) / 2, (kFirst + kVector) % 2>(slot.part, &low, &top);
    const __m256i fine = _mm256_and_si256(low, _mm256_set1_epi8(15));
    const __m256i coarse = _mm256_and_si256(_mm256_srli_epi16(low, 4), mask);
    const Words r = Radii(slot, top);
    const Words cosine = Multiply(r, LookUp(table.fine.cosine, fine));
    const Words sine = Multiply(r, LookUp(table.fine.sine, fine));
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const Words along = Multiply(LookUp(table.query[h].along, coarse), cosine);
      const Words across = Multiply(LookUp(table.query[h].across, coarse), sine);
      __m256i* sum = acc[kVector][h];
      AddWords(_mm256_add_epi16(along.first, across.first), &sum[0]);
      AddWords(_mm256_add_epi16(along.second, across.second), &sum[1]);
    }
    AddProduct<kBits, kG, kV, kFirst, kVector + 1>(slot, mask, table, acc);
  }
}

template <int kBits, int kG, int kV, int kFirst = 0>
void AddProducts(const PolarSlots& slots, const ProductTables<kG>* table) {
  if constexpr (kFirst < kPolarVectors) {
    Sums<kG, kV> sums(slots, kFirst, 0);
    for (int i = 0; i < slots.n; ++i) {
      const int s = slots.first + i;
      const int a_bits = slots.layout.slots[static_cast<std::size_t>(s)].width.a_bits;
      AddProduct<kBits, kG, kV, kFirst>(
          LoadSlot(slots, s), _mm256_set1_epi32(kPolarLowMask[a_bits - 4]), table[i], sums.acc);
    }
    sums.Store();
    AddProducts<kBits, kG, kV, kFirst + kV>(slots, table);
  }
}

template <int kBits, int kG>
void AddTurned(const PolarSlots& slots) {
  ProductTables<kG> table[kPolarChunkSlots];
  BuildProductTables<kG>(slots, table);
  AddProducts<kBits, kG, kPolarVectors / kG>(slots, table);
}

template <int kBits>
void AddBits(const PolarSlots& slots) {
  if (slots.layout.slots[static_cast<std::size_t>(slots.first)].width.a_bits <= 5) {
    LoadSlots<kBits, AngleTable::kTwoVectors>(slots);
  } else if (slots.g == 1) {
    return AddTurned<kBits, 1>(slots);
  } else if (slots.g == 2) {
    return AddTurned<kBits, 2>(slots);
  } else {
    LoadSlots<kBits, AngleTable::kProduct>(slots);
  }
  constexpr void (*kHeads[])(const PolarSlots&, int) = {AddHeads<1>, AddHeads<2>, AddHeads<3>,
                                                        AddHeads<4>};
  const int n_passes = (slots.g + 3) / 4;
  for (int pass = 0; pass < n_passes; ++pass) {
    const int h = slots.g * pass / n_passes;
    kHeads[slots.g * (pass + 1) / n_passes - h - 1](slots, h);
  }
}

}  // namespace

void AddPolarPairsAvx2(const PolarSlots& slots) {
  constexpr void (*kAdd[kMaxPolarTotalBits + 1])(const PolarSlots&) = {
      nullptr,    nullptr,    nullptr,    AddBits<3>,  AddBits<4>,  AddBits<5>, AddBits<6>,
      AddBits<7>, AddBits<8>, AddBits<9>, AddBits<10>, AddBits<11>, AddBits<12>};
  kAdd[slots.layout.slots[static_cast<std::size_t>(slots.first)].width.total()](slots);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
