// The loop of both AVX-512 levels' scores of polar codecs. A step is either
// - two slots of up to 5 angle bits: per head a table of T[k] = q . (cos, sin) over 32 levels of
//   each. The codes of 16 tokens and both slots stand in the words of a vector, so that one
//   vpermi2w finds T for all of them and one vpdpwssd multiplies by the radii and adds;
// - two slots of 6 angle bits, the same with 64 levels and a vpermi2w for each slot; or
// - one slot of 7 or 8 angle bits, whose angle is a coarse one c plus a fine one f: the words of a
//   vector are r (cos f, sin f) of 16 tokens, and per head 16 entries (A, B) with
//   A = q . (cos c, sin c) and B = q . (-sin c, cos c) are looked up with vpermd.
//
// No include guard; to be included once by a kernel file, inside its region and namespace, behind
// polar_codes_avx512-inl.h and
//   __m512i EachTwice(__m512i a, __m512i b, int k): bytes a, a, b, b of every dword, each its byte
//   k;
//   __m512i BothTwice(__m512i a, __m512i b, int k): a, b, a, b.

constexpr int kTiles = 4;  // of 16 tokens, of a block of CodeBytes
static_assert(kPolarBlocks * 16 * kTiles == kPageTokens);

constexpr int CaseOf(PolarStepKind kind, int total_bits) {
  return 16 * static_cast<int>(kind) + total_bits;
}

// Radii of the codes in the upper bytes of `words`.
PHASOR_INLINE __m512i Radii(uint32_t mask, const PolarStepRadii& radii, __m512i words) {
  const __m512i code = _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(mask)));
  return _mm512_add_epi16(
      _mm512_mulhi_epu16(code, _mm512_set1_epi32(static_cast<int>(radii.range))),
      _mm512_set1_epi32(static_cast<int>(radii.first)));
}

// Of two slots and the tiles of a block: where in the table, and radii.
template <PolarStepKind kKind, int kBits>
PHASOR_INLINE void LoadPair(const std::byte* page, const PolarStep& step,
                            const PolarStepRadii& radii, int block, __m512i* index, __m512i* r) {
  __m512i low[2], top[2];
  CodeBytes<kBits>(page, step.part[0], block, &low[0], &top[0]);
  CodeBytes<kBits>(page, step.part[1], block, &low[1], &top[1]);
  PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
    const __m512i words = EachTwice(low[0], low[1], k);
    r[k] =
        Radii(step.radius_words, radii, HasOneByte(kBits) ? words : EachTwice(top[0], top[1], k));
    // A table of 64 has a vector for each slot; with two of them the low 6 bits serve as they are.
    index[k] = kKind == PolarStepKind::kLevels64
                   ? words
                   : _mm512_ternarylogic_epi32(words, _mm512_set1_epi16(0x1f),
                                               _mm512_set1_epi32(0x200000), 0xea);
  }
}

// Of a slot with coarse and fine angles: the coarse one (in the low 4 bits), and r (cos, sin) of
// the fine one.
template <int kBits>
PHASOR_INLINE void LoadProduct(const std::byte* page, const PolarStep& step,
                               const PolarStepRadii& radii, const int16_t* fine, int block,
                               __m512i* coarse, __m512i* r) {
  __m512i low, top;
  CodeBytes<kBits>(page, step.part[0], block, &low, &top);
  const __m512i directions = _mm512_load_si512(fine);
  PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
    const __m512i words = BothTwice(low, top, k);
    coarse[k] = _mm512_srli_epi32(words, 4);
    r[k] = _mm512_mulhrs_epi16(Radii(step.radius_words, radii, words),
                               _mm512_permutexvar_epi32(words, directions));
  }
}

// Adds the products of a step to the sums of kG heads.
template <PolarStepKind kKind, int kG>
PHASOR_INLINE void AddProducts(const int16_t* table, std::ptrdiff_t plane,
                               const __m512i (&index)[kTiles], const __m512i (&r)[kTiles],
                               __m512i (&acc)[kG][kTiles]) {
  if constexpr (kKind == PolarStepKind::kLevels32) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const __m512i a = _mm512_load_si512(table + kPolarTableWords * h);
      const __m512i b = _mm512_load_si512(table + kPolarTableWords * h + 32);
      PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
        AddWordProducts(acc[h][k], _mm512_permutex2var_epi16(a, index[k], b), r[k]);
      }
    }
  } else if constexpr (kKind == PolarStepKind::kLevels64) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const int16_t *at = table + kPolarTableWords * h, *at_b = at + plane;
      const __m512i a0 = _mm512_load_si512(at), a1 = _mm512_load_si512(at + 32);
      const __m512i b0 = _mm512_load_si512(at_b), b1 = _mm512_load_si512(at_b + 32);
      PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
        const __m512i a = _mm512_permutex2var_epi16(a0, index[k], a1);
        const __m512i b = _mm512_permutex2var_epi16(b0, index[k], b1);
        AddWordProducts(acc[h][k], _mm512_mask_blend_epi16(0xaaaaaaaa, a, b), r[k]);
      }
    }
  } else {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const __m512i q = _mm512_load_si512(table + kPolarTableWords * h);
      PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
        AddWordProducts(acc[h][k], _mm512_permutexvar_epi32(index[k], q), r[k]);
      }
    }
  }
}

// Where a scan stands.
struct Place {
  const std::byte* page;
  const PolarStep* step;
  const PolarStepRadii* radii;
  const int16_t *table, *fine;
  std::ptrdiff_t plane;
};

template <PolarStepKind kKind, int kBits, int kG>
PHASOR_INLINE void AddStep(const Place& at, int block, __m512i (&acc)[kG][kTiles]) {
  __m512i index[kTiles], r[kTiles];
  if constexpr (kKind == PolarStepKind::kProduct) {
    LoadProduct<kBits>(at.page, *at.step, *at.radii, at.fine, block, index, r);
  } else {
    LoadPair<kKind, kBits>(at.page, *at.step, *at.radii, block, index, r);
  }
  AddProducts<kKind>(at.table, at.plane, index, r, acc);
}

// Adds what all steps contribute to the sums of kG heads and a block of tokens.
template <int kG>
void Scan(const PolarScan& args, int block) {
  __m512i acc[kG][kTiles];
  int32_t* sum = args.sum + 16 * kTiles * block;
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
      acc[h][k] = _mm512_load_si512(sum + h * kPageTokens + 16 * k);
    }
  }
  Place at = {args.page, args.step, args.radii, args.table, args.fine, args.plane};
  const PolarStep* end = args.step + args.n;
  for (; at.step != end; ++at.step, ++at.radii, at.fine += 32) {
    args.fetcher->Step();
    switch (CaseOf(at.step->kind, at.step->total_bits)) {
#define PHASOR_CASE(kind, bits)                             \
  case CaseOf(PolarStepKind::kind, bits):                   \
    AddStep<PolarStepKind::kind, bits, kG>(at, block, acc); \
    break
      PHASOR_CASE(kLevels32, 3);
      PHASOR_CASE(kLevels32, 4);
      PHASOR_CASE(kLevels32, 5);
      PHASOR_CASE(kLevels32, 6);
      PHASOR_CASE(kLevels32, 7);
      PHASOR_CASE(kLevels32, 8);
      PHASOR_CASE(kLevels32, 9);
      PHASOR_CASE(kLevels32, 10);
      PHASOR_CASE(kLevels32, 11);
      PHASOR_CASE(kLevels64, 7);
      PHASOR_CASE(kLevels64, 8);
      PHASOR_CASE(kLevels64, 9);
      PHASOR_CASE(kLevels64, 10);
      PHASOR_CASE(kLevels64, 11);
      PHASOR_CASE(kLevels64, 12);
      PHASOR_CASE(kProduct, 8);
      PHASOR_CASE(kProduct, 9);
      PHASOR_CASE(kProduct, 10);
      PHASOR_CASE(kProduct, 11);
      PHASOR_CASE(kProduct, 12);
#undef PHASOR_CASE
    }
    at.table += PolarTables(at.step->kind) * at.plane;
  }
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
      _mm512_store_si512(sum + h * kPageTokens + 16 * k, acc[h][k]);
    }
  }
}

void ScanHeads(const PolarScan& scan, int n_heads) {
  constexpr void (*kScan[])(const PolarScan&, int) = {Scan<1>, Scan<2>, Scan<3>, Scan<4>};
  for (int block = 0; block < kPolarBlocks; ++block) kScan[n_heads - 1](scan, block);
}
