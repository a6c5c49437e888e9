// The loops of both AVX-512 levels over pages of integer codes: 64 codes become levels, one
// vpdpbusd multiplies them by the bytes of four inner places for 16 lanes. Levels are looked up
// once for all queries. No include guard; to be included once by a kernel file, inside its region
// and namespace, behind what it says here:
//
// struct LevelTable: the levels of all books and their mirror images, `offset` added to each.
//   LevelTable(const IntLevels&, int offset);
//   struct Selector: which book and sign, per byte.
//   static Selector Select(__m512i bytes): from the upper bits of indices (Book16, Selector16).
//   static __m512i Index(__m512i codes, int mask, const Selector&): codes under the mask, and above
//     them what LookUp needs of the selector.
//   __m512i LookUp(__m512i index, const Selector&)
//   __m512i LookUpPlus(__m512i index, const Selector&): for bytes of a book alone, without a sign.
// struct NearestLevels: the levels of a book nearest to whole numbers -64 .. 63.
//   void Load(const IntSearchArgs&, int book);
//   __m512i LookUp(__m512i numbers);

// The upper bits of a table index from f16 scales: book, and above it the sign.
PHASOR_INLINE __m512i Book16(__m512i scale, const IntLevels& levels) {
  const __m512i book =
      _mm512_and_si512(scale, _mm512_set1_epi16(static_cast<int16_t>((1 << levels.book_bits) - 1)));
  return _mm512_sll_epi16(book, _mm_cvtsi32_si128(levels.bits));
}
PHASOR_INLINE __m512i Selector16(__m512i scale, const IntLevels& levels) {
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi16(scale, 10), _mm512_set1_epi16(0x20));
  return _mm512_or_si512(sign, Book16(scale, levels));
}

PHASOR_INLINE __m512 LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PHASOR_INLINE __m512 LoadAbsF16(const uint16_t* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_cvtph_ps(_mm256_and_si256(h, _mm256_set1_epi16(0x7fff)));
}

// The packed bits of 16 lanes x group inner places. Codes(s): the bytes of step s, what is above
// kMask is junk.
template <int BITS>
struct Tile;

template <>
struct Tile<4> {
  static constexpr int kBytes = 64, kSteps = 2, kMask = 15;
  __m512i byte;
  PHASOR_INLINE void Load(const std::byte* p) { byte = _mm512_loadu_si512(p); }
  PHASOR_INLINE __m512i Codes(int s) const { return s == 0 ? byte : _mm512_srli_epi16(byte, 4); }
};

template <>
struct Tile<8> {
  static constexpr int kBytes = 128, kSteps = 2;
  const std::byte* bytes;
  PHASOR_INLINE void Load(const std::byte* p) { bytes = p; }
  PHASOR_INLINE __m512i Codes(int s) const { return _mm512_loadu_si512(bytes + 64 * s); }
};

template <>
struct Tile<3> {
  static constexpr int kBytes = 96, kSteps = 4, kMask = 7;
  __m512i low, high;
  PHASOR_INLINE void Load(const std::byte* p) {
    low = _mm512_loadu_si512(p);
    high = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64)));
  }
  PHASOR_INLINE __m512i Codes(int s) const {
    const __m512i a = s == 0 ? low : _mm512_srli_epi16(low, 2 * s);
    // Bit s (lanes 8 and up: s + 4) comes to bit 2.
    const int64_t down = (s - 2) & 63, up = s + 2;
    const __m512i b =
        _mm512_rorv_epi64(high, _mm512_setr_epi64(down, down, down, down, up, up, up, up));
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8(3), a, b, 0xca);
  }
};

// The levels of step s; 8-bit codes are their own.
template <int BITS>
PHASOR_INLINE __m512i Levels(const Tile<BITS>& tile, int s, const LevelTable& table,
                             const LevelTable::Selector& selector) {
  if constexpr (BITS == 8) {
    return tile.Codes(s);
  } else {
    return table.LookUp(LevelTable::Index(tile.Codes(s), Tile<BITS>::kMask, selector), selector);
  }
}
// The same for rows whose sign is left to their scale, kKeyOffset added.
template <int BITS>
constexpr int kKeyOffset = BITS == 8 ? 128 : 64;
template <int BITS>
PHASOR_INLINE __m512i UnsignedLevels(const Tile<BITS>& tile, int s, const LevelTable& table,
                                     const LevelTable::Selector& selector) {
  if constexpr (BITS == 8) {
    return _mm512_xor_si512(tile.Codes(s), _mm512_set1_epi8(-128));
  } else {
    return table.LookUpPlus(LevelTable::Index(tile.Codes(s), Tile<BITS>::kMask, selector),
                            selector);
  }
}

PHASOR_INLINE __m512i Broadcast4(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return _mm512_set1_epi32(x);
}

PHASOR_INLINE __mmask16 TailMask(int n) {
  if (n <= 0) return 0;
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

// ---- Keys ----

// G queries from `head`, NB blocks of 16 tokens from lane block `lane`.
template <int BITS, int G, int NB>
void ScoreLanes(const IntScoreArgs& a, int head, int lane, LineFetcher& fetcher) {
  using T = Tile<BITS>;
  const IntPageShape& shape = *a.shape;
  const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  // Levels become unsigned: the offset is added here and taken from the sum.
  const LevelTable table(*shape.levels, kKeyOffset<BITS>);
  const __m512i spread =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  for (int b = 0; b < shape.n_blocks; ++b) {
    const int begin = b * rows_per_block;
    const int end = b + 1 == shape.n_blocks ? n_rows : begin + rows_per_block;
    const uint16_t* scale = scales + b * kPageTokens + 16 * lane;
    LevelTable::Selector selector[NB];
    __m512i high[G][NB], low[G][NB];
    PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
      if (BITS != 8) {
        const __m512i h = _mm512_cvtepu16_epi32(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scale + 16 * n)));
        selector[n] = LevelTable::Select(_mm512_shuffle_epi8(Book16(h, *shape.levels), spread));
      }
      PHASOR_UNROLL for (int i = 0; i < G; ++i) { high[i][n] = low[i][n] = _mm512_setzero_si512(); }
    }
    const std::byte* codes = a.page + shape.codes_at + begin * row_bytes + lane * T::kBytes;
    const int8_t* q = a.q_bytes + 2 * (head * shape.n_inner + begin * shape.group);
    for (int row = begin; row < end; ++row, codes += row_bytes) {
      fetcher.Step();
      T tile[NB];
      PHASOR_UNROLL for (int n = 0; n < NB; ++n) tile[n].Load(codes + n * T::kBytes);
      PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, q += 8) {
        __m512i level[NB];
        PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
          level[n] = UnsignedLevels(tile[n], s, table, selector[n]);
        }
        PHASOR_UNROLL for (int i = 0; i < G; ++i) {
          const __m512i qh = Broadcast4(q + 2 * i * shape.n_inner);
          const __m512i ql = Broadcast4(q + 2 * i * shape.n_inner + 4);
          PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
            AddByteProducts(high[i][n], level[n], qh);
            AddByteProducts(low[i][n], level[n], ql);
          }
        }
      }
    }
    PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
      const __m512 size = BITS == 8 ? LoadAbsF16(scale + 16 * n) : LoadF16(scale + 16 * n);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        float* score = a.score_GT + (head + i) * kPageTokens + 16 * (lane + n);
        const int32_t bias = kKeyOffset<BITS> * a.q_sum[(head + i) * shape.n_blocks + b];
        __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[i][n], 7), low[i][n]);
        sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(bias));
        const __m512 f = _mm512_mul_ps(_mm512_set1_ps(a.q_step[head + i]), size);
        const __m512 x = _mm512_cvtepi32_ps(sum);
        _mm512_storeu_ps(
            score, b == 0 ? _mm512_mul_ps(x, f) : _mm512_fmadd_ps(x, f, _mm512_loadu_ps(score)));
      }
    }
  }
}

template <int BITS, int G>
void ScoreHeads(const IntScoreArgs& a, int head, LineFetcher& fetcher) {
  constexpr int kBlocks = G <= 2 ? 4 : 2;
  const int end = (a.n_tokens + 15) / 16;
  int lane = 0;
  for (; lane + kBlocks <= end; lane += kBlocks)
    ScoreLanes<BITS, G, kBlocks>(a, head, lane, fetcher);
  for (; lane < end; ++lane) ScoreLanes<BITS, G, 1>(a, head, lane, fetcher);
}

template <int BITS>
void ScoreBits(const IntScoreArgs& a) {
  const int n_rows = a.shape->n_inner / a.shape->group;
  LineFetcher fetcher(a.next, n_rows * ((a.g + 3) / 4) * (a.g <= 2 ? 2 : 4));
  int head = 0;
  for (; head + 4 <= a.g; head += 4) ScoreHeads<BITS, 4>(a, head, fetcher);
  if (a.g - head == 3) ScoreHeads<BITS, 3>(a, head, fetcher);
  if (a.g - head == 2) ScoreHeads<BITS, 2>(a, head, fetcher);
  if (a.g - head == 1) ScoreHeads<BITS, 1>(a, head, fetcher);
}

void Score(const IntScoreArgs& a) {
  if (a.shape->bits == 3) ScoreBits<3>(a);
  if (a.shape->bits == 4) ScoreBits<4>(a);
  if (a.shape->bits == 8) ScoreBits<8>(a);
}

// ---- Values ----

constexpr int kVectors = kPageTokens / 16;
constexpr int kMaxHeads = 8;

// Rounded weights of up to kMaxHeads heads for one block of channels: w = 256 * high + low (8-bit
// codes), or low alone.
struct BlockWeights {
  alignas(64) uint8_t low[kMaxHeads][kPageTokens];
  alignas(64) uint8_t high[kMaxHeads][kPageTokens];
  alignas(64) uint8_t selector[kPageTokens];
  alignas(64) float scale[kPageTokens];
  alignas(32) float step[kMaxHeads];
  alignas(32) float inverse[kMaxHeads];
};

PHASOR_INLINE void LoadScales(const uint16_t* scales, const IntLevels& levels, BlockWeights* w) {
  for (int v = 0; v < kVectors; ++v) {
    _mm512_store_ps(w->scale + 16 * v, LoadAbsF16(scales + 16 * v));
  }
  for (int v = 0; v < kVectors / 2; ++v) {
    const __m512i s = Selector16(_mm512_loadu_si512(scales + 32 * v), levels);
    _mm256_store_si256(reinterpret_cast<__m256i*>(w->selector + 32 * v), _mm512_cvtepi16_epi8(s));
  }
}

// The low bytes of 64 numbers of 0 .. 255 in order; larger ones count as 255.
PHASOR_INLINE __m512i PackBytes(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
  return _mm512_permutexvar_epi32(order, bytes);
}

// Weights times scales, zero beyond n_tokens.
PHASOR_INLINE void Products(const float* weight, int n_tokens, const BlockWeights& w,
                            __m512* product) {
  PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
    product[v] = _mm512_mul_ps(_mm512_maskz_loadu_ps(TailMask(n_tokens - 16 * v), weight + 16 * v),
                               _mm512_load_ps(w.scale + 16 * v));
  }
}

// Steps of n <= kMaxHeads heads and their inverses, 0 for heads whose weights are all too small.
// Together, so that one head's chain of latencies lies beside those of the others. Returns whether
// any weight counts.
template <int BITS>
PHASOR_INLINE bool FindSteps(const float* weight_GT, int n, int n_tokens, BlockWeights* w) {
  __m512 largest[kMaxHeads];
  PHASOR_UNROLL for (int i = 0; i < kMaxHeads; ++i) largest[i] = _mm512_setzero_ps();
  for (int i = 0; i < n; ++i) {
    __m512 product[kVectors];
    Products(weight_GT + i * kPageTokens, n_tokens, *w, product);
    PHASOR_UNROLL for (int v = 0; v < kVectors / 2; ++v) {
      product[v] = _mm512_max_ps(product[v], product[v + kVectors / 2]);
    }
    largest[i] =
        _mm512_max_ps(_mm512_max_ps(product[0], product[1]), _mm512_max_ps(product[2], product[3]));
  }
  const __m256 top = MaxRows(largest);
  constexpr float kLevels = BITS == 8 ? kWeightLevels : kByteWeightLevels;
  const __mmask8 counts = _mm256_cmp_ps_mask(top, _mm256_set1_ps(kSmallestWeight), _CMP_GE_OQ);
  const __m256 levels = _mm256_set1_ps(kLevels);
  _mm256_store_ps(w->inverse, _mm256_maskz_div_ps(counts, levels, top));
  _mm256_store_ps(w->step, _mm256_maskz_div_ps(counts, top, levels));
  return counts != 0;
}

template <int BITS>
PHASOR_INLINE void QuantizeWeights(const float* weight, int n_tokens, const float* threshold,
                                   BlockWeights* w, int i) {
  __m512 product[kVectors];
  Products(weight, n_tokens, *w, product);
  const __m512 inverse = _mm512_set1_ps(w->inverse[i]);
  __m512i q[kVectors];
  PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
    q[v] = BITS == 8 ? _mm512_cvtps_epi32(_mm512_mul_ps(product[v], inverse))
                     : _mm512_cvttps_epi32(_mm512_fmadd_ps(product[v], inverse,
                                                           _mm512_loadu_ps(threshold + 16 * v)));
  }
  for (int h = 0; h < 2; ++h) {
    const __m512i* p = q + 4 * h;
    if (BITS == 8) {
      const __m512i byte = _mm512_set1_epi32(255);
      _mm512_store_si512(w->high[i] + 64 * h,
                         PackBytes(_mm512_srli_epi32(p[0], 8), _mm512_srli_epi32(p[1], 8),
                                   _mm512_srli_epi32(p[2], 8), _mm512_srli_epi32(p[3], 8)));
      _mm512_store_si512(w->low[i] + 64 * h,
                         PackBytes(_mm512_and_si512(p[0], byte), _mm512_and_si512(p[1], byte),
                                   _mm512_and_si512(p[2], byte), _mm512_and_si512(p[3], byte)));
    } else {
      _mm512_store_si512(w->low[i] + 64 * h, PackBytes(p[0], p[1], p[2], p[3]));
    }
  }
}

// Blocks of 16 channels that AccumulateLanes takes at a time: accumulators, levels and constants
// stay in 32 registers.
template <int BITS>
constexpr int LanesAtOnce(int g) {
  return BITS == 8 || g > 4 ? 2 : 4;
}
// Steps of the fetcher per row of tiles and AccumulateLanes.
template <int BITS>
constexpr int TileSteps(int g) {
  return BITS == 3 ? 4 : BITS == 8 ? 2 : g > 4 ? 1 : 2;
}

// G outputs from `head`, whose weights start at `slot`; NB blocks of 16 channels.
template <int BITS, int G, int NB>
__attribute__((noinline)) void AccumulateLanes(const IntAccumulateArgs& a, const BlockWeights& w,
                                               int head, int slot, int lane,
                                               LineFetcher* page_fetcher) {
  using T = Tile<BITS>;
  LineFetcher fetcher = *page_fetcher;  // or it would be kept in memory
  constexpr int kPlanes = BITS == 8 ? 2 : 1;
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const std::byte* codes = a.page + shape.codes_at + lane * T::kBytes;
  const LevelTable table(*shape.levels, 0);
  const int n_rows = (a.n_tokens + 4 * T::kSteps - 1) / (4 * T::kSteps);
  __m512i acc[G][NB][kPlanes];
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
      PHASOR_UNROLL for (int p = 0; p < kPlanes; ++p) acc[i][n][p] = _mm512_setzero_si512();
    }
  }
  int t = 0;
  for (int row = 0; row < n_rows; ++row, codes += row_bytes) {
    fetcher.Steps<TileSteps<BITS>(G)>();
    T tile[NB];
    PHASOR_UNROLL for (int n = 0; n < NB; ++n) tile[n].Load(codes + n * T::kBytes);
    PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, t += 4) {
      const auto selector = LevelTable::Select(Broadcast4(w.selector + t));
      __m512i level[NB];
      PHASOR_UNROLL for (int n = 0; n < NB; ++n) level[n] = Levels(tile[n], s, table, selector);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const __m512i low = Broadcast4(w.low[slot + i] + t);
        PHASOR_UNROLL for (int n = 0; n < NB; ++n) { AddByteProducts(acc[i][n][0], low, level[n]); }
        if constexpr (kPlanes == 2) {
          const __m512i high = Broadcast4(w.high[slot + i] + t);
          PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
            AddByteProducts(acc[i][n][1], high, level[n]);
          }
        }
      }
    }
  }
  *page_fetcher = fetcher;
  // Read once: the compiler takes stores of outputs for changes of what the arguments point to.
  const int head_dim = shape.head_dim;
  float* const out = a.out_GD + static_cast<std::ptrdiff_t>(head) * head_dim + 16 * lane;
  const float* const steps = w.step + slot;
  PHASOR_UNROLL for (int n = 0; n < NB; ++n) {
    const __mmask16 m = TailMask(head_dim - 16 * (lane + n));
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float* at = out + static_cast<std::ptrdiff_t>(i) * head_dim + 16 * n;
      __m512i sum = acc[i][n][0];
      if constexpr (kPlanes == 2) {
        sum = _mm512_add_epi32(sum, _mm512_slli_epi32(acc[i][n][1], 8));
      }
      _mm512_mask_storeu_ps(at, m,
                            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(steps[i]),
                                            _mm512_maskz_loadu_ps(m, at)));
    }
  }
}

template <int BITS, int G>
void AccumulateHeads(const IntAccumulateArgs& a, const BlockWeights& w, int head, int slot,
                     int lane, int end, LineFetcher* fetcher) {
  constexpr int kBlocks = LanesAtOnce<BITS>(G);
  for (; lane + kBlocks <= end; lane += kBlocks) {
    AccumulateLanes<BITS, G, kBlocks>(a, w, head, slot, lane, fetcher);
  }
  if (kBlocks > 2 && lane + 2 <= end) {
    AccumulateLanes<BITS, G, 2>(a, w, head, slot, lane, fetcher);
    lane += 2;
  }
  for (; lane < end; ++lane) AccumulateLanes<BITS, G, 1>(a, w, head, slot, lane, fetcher);
}

// Lane blocks [lane, end) of the n <= kMaxHeads heads from `first`.
template <int BITS>
void AccumulateChunk(const IntAccumulateArgs& a, const BlockWeights& w, int first, int n, int lane,
                     int end, LineFetcher* fetcher) {
  int i = 0;
  if constexpr (BITS != 8) {
    if (n == 8) AccumulateHeads<BITS, 8>(a, w, first, 0, lane, end, fetcher);
    if (n == 7) AccumulateHeads<BITS, 7>(a, w, first, 0, lane, end, fetcher);
    if (n == 6) AccumulateHeads<BITS, 6>(a, w, first, 0, lane, end, fetcher);
    if (n == 5) AccumulateHeads<BITS, 5>(a, w, first, 0, lane, end, fetcher);
    if (n >= 5) return;
  }
  for (; i + 4 <= n; i += 4) AccumulateHeads<BITS, 4>(a, w, first + i, i, lane, end, fetcher);
  if (n - i == 3) AccumulateHeads<BITS, 3>(a, w, first + i, i, lane, end, fetcher);
  if (n - i == 2) AccumulateHeads<BITS, 2>(a, w, first + i, i, lane, end, fetcher);
  if (n - i == 1) AccumulateHeads<BITS, 1>(a, w, first + i, i, lane, end, fetcher);
}

// Steps of the fetcher beside AccumulateLanes: their number for a page and for one head.
constexpr int kWeightSteps = 28;
int HeadSteps(int g) { return (kWeightSteps / 2 + g - 1) / g; }

// Calls of AccumulateLanes for so many blocks of 16 channels, as AccumulateHeads makes them.
template <int BITS>
constexpr int LaneCalls(int lanes, int heads) {
  const int at_once = LanesAtOnce<BITS>(heads), left = lanes % at_once;
  return lanes / at_once + left / 2 + left % 2;
}

template <int BITS>
int AccumulateSteps(const IntPageShape& shape, int g) {
  constexpr int kRows = kPageTokens / (4 * Tile<BITS>::kSteps);
  const int block_lanes = shape.block / 16, whole = shape.n_blocks - 1;
  const int last_lanes = shape.n_lanes / 16 - whole * block_lanes;
  int n_tiles = 0;  // as AccumulateChunk divides the heads
  for (int left = g; left > 0;) {
    const int heads = std::min(left, BITS == 8 ? 4 : kMaxHeads);
    const int calls =
        whole * LaneCalls<BITS>(block_lanes, heads) + LaneCalls<BITS>(last_lanes, heads);
    n_tiles += kRows * calls * TileSteps<BITS>(heads);
    left -= heads;
  }
  return n_tiles + shape.n_blocks * 2 * g * HeadSteps(g);
}

template <int BITS>
void AccumulateBits(const IntAccumulateArgs& a) {
  const IntPageShape& shape = *a.shape;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
  const bool full = a.n_tokens == kPageTokens;  // nearly always: no masks
  BlockWeights w;
  LineFetcher fetcher(a.next, AccumulateSteps<BITS>(shape, a.g));
  for (int b = 0; b < shape.n_blocks; ++b) {
    const uint16_t* scale = scales + b * kPageTokens;
    LoadScales(scale, *shape.levels, &w);
    const int lane = b * shape.block / 16;
    const int end = b + 1 == shape.n_blocks ? shape.n_lanes / 16 : (b + 1) * shape.block / 16;
    for (int first = 0; first < a.g; first += kMaxHeads) {
      const int n = a.g - first < kMaxHeads ? a.g - first : kMaxHeads;
      const float* weight_GT = a.weight_GT + first * kPageTokens;
      const bool any = full ? FindSteps<BITS>(weight_GT, n, kPageTokens, &w)
                            : FindSteps<BITS>(weight_GT, n, a.n_tokens, &w);
      if (!any) continue;
      fetcher.Steps(n * HeadSteps(a.g));
      for (int i = 0; i < n; ++i) {
        fetcher.Steps(HeadSteps(a.g));
        const float* weight = weight_GT + i * kPageTokens;
        const float* threshold = Thresholds(scale, first + i);
        if (full) {
          QuantizeWeights<BITS>(weight, kPageTokens, threshold, &w, i);
        } else {
          QuantizeWeights<BITS>(weight, a.n_tokens, threshold, &w, i);
        }
      }
      AccumulateChunk<BITS>(a, w, first, n, lane, end, &fetcher);
    }
  }
  fetcher.Finish();
}

void Accumulate(const IntAccumulateArgs& a) {
  if (a.shape->bits == 3) AccumulateBits<3>(a);
  if (a.shape->bits == 4) AccumulateBits<4>(a);
  if (a.shape->bits == 8) AccumulateBits<8>(a);
}

// ---- Decoding ----

template <int BITS>
void DecodeValues(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const int n_lane_blocks = shape.n_lanes / 16;
  const LevelTable table(*shape.levels, 0);
  BlockWeights w;
  for (int b = 0; b < shape.n_blocks; ++b) {
    LoadScales(scales + b * kPageTokens, *shape.levels, &w);
    const int begin = b * shape.block / 16;
    const int end = b + 1 == shape.n_blocks ? n_lane_blocks : (b + 1) * shape.block / 16;
    for (int row = 0; row * 4 * T::kSteps < n_tokens; ++row) {
      for (int lane = begin; lane < end; ++lane) {
        T tile;
        tile.Load(page + shape.codes_at + (row * n_lane_blocks + lane) * T::kBytes);
        const __mmask16 m = TailMask(shape.head_dim - 16 * lane);
        PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s) {
          const int t = (row * T::kSteps + s) * 4;
          const __m512i level =
              Levels(tile, s, table, LevelTable::Select(Broadcast4(w.selector + t)));
          PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
            const __m512i l =
                _mm512_srai_epi32(i == 3 ? level : _mm512_slli_epi32(level, 24 - 8 * i), 24);
            const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(l), _mm512_set1_ps(w.scale[t + i]));
            if (t + i < n_tokens) {
              _mm512_mask_storeu_ps(x_TD + (t + i) * shape.head_dim + 16 * lane, m, x);
            }
          }
        }
      }
    }
  }
}

// Sixteen channels of sixteen tokens from four step vectors (dword: token, byte: channel).
PHASOR_INLINE void StoreKeys(const __m512i* level, const float* scale, int n_tokens, __mmask16 m,
                             int head_dim, float* x_TD) {
  const __m512i a = _mm512_unpacklo_epi32(level[0], level[1]);
  const __m512i b = _mm512_unpackhi_epi32(level[0], level[1]);
  const __m512i c = _mm512_unpacklo_epi32(level[2], level[3]);
  const __m512i d = _mm512_unpackhi_epi32(level[2], level[3]);
  // Each 128-bit lane of row[j]: the channels of token 4 * lane + j.
  const __m512i row[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c),
                          _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)};
  PHASOR_UNROLL for (int j = 0; j < 4; ++j) {
    const __m128i bytes[4] = {_mm512_castsi512_si128(row[j]), _mm512_extracti32x4_epi32(row[j], 1),
                              _mm512_extracti32x4_epi32(row[j], 2),
                              _mm512_extracti32x4_epi32(row[j], 3)};
    PHASOR_UNROLL for (int k = 0; k < 4; ++k) {
      const int t = 4 * k + j;
      if (t >= n_tokens) continue;
      const __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes[k]));
      _mm512_mask_storeu_ps(x_TD + t * head_dim, m, _mm512_mul_ps(x, _mm512_set1_ps(scale[t])));
    }
  }
}

template <int BITS>
void DecodeKeys(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  constexpr int kTiles = 4 / T::kSteps;  // 16 channels
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const int n_rows = shape.n_inner / shape.group, n_lane_blocks = shape.n_lanes / 16;
  const LevelTable table(*shape.levels, 0);
  const __m512i spread =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  for (int c = 0; c < shape.head_dim; c += 16) {
    const int b = c / shape.block, row = c / shape.group;
    const __mmask16 m = TailMask(shape.head_dim - c);
    for (int t = 0; t < n_tokens; t += 16) {
      const uint16_t* scale = scales + b * kPageTokens + t;
      alignas(64) float size[16];
      _mm512_store_ps(size, LoadAbsF16(scale));
      const __m512i h =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scale)));
      const auto selector =
          LevelTable::Select(_mm512_shuffle_epi8(Selector16(h, *shape.levels), spread));
      __m512i level[4];
      PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
        T tile;  // past the last row of tiles the last repeats; its channels are masked
        const int r = row + i < n_rows ? row + i : n_rows - 1;
        tile.Load(page + shape.codes_at + (r * n_lane_blocks + t / 16) * T::kBytes);
        PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s) {
          level[i * T::kSteps + s] = Levels(tile, s, table, selector);
        }
      }
      StoreKeys(level, size, n_tokens - t, m, shape.head_dim, x_TD + t * shape.head_dim + c);
    }
  }
}

template <int BITS>
void DecodeBits(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const bool key = shape.role == KvRole::kKey;
  (key ? DecodeKeys<BITS> : DecodeValues<BITS>)(shape, page, n_tokens, x_TD);
}

void Decode(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  if (shape.bits == 3) DecodeBits<3>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4) DecodeBits<4>(shape, page, n_tokens, x_TD);
  if (shape.bits == 8) DecodeBits<8>(shape, page, n_tokens, x_TD);
}

// ---- Search ----

// kVariants: books and signs.
template <int kVariants>
void SearchVariants(const IntSearchArgs& a) {
  constexpr int kTogether = 2 * kMaxBooks / kVariants;  // steps
  const int n_padded = (4 - a.n % 4) % 4;  // zeros, each counted with its nearest level
  NearestLevels nearest[kVariants / 2];
  PHASOR_UNROLL for (int b = 0; b < kVariants / 2; ++b) nearest[b].Load(a, b);
  // Packing leaves 4 rows of each of 4 channels in 16 bytes; 4 channels of a row are to be a dword.
  const __m512i by_row = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  for (int step = 0; step < kSearchSteps; step += kTogether) {
    __m512i sum[kTogether][kVariants];
    PHASOR_UNROLL for (int k = 0; k < kTogether; ++k) {
      PHASOR_UNROLL for (int v = 0; v < kVariants; ++v) sum[k][v] = _mm512_setzero_si512();
    }
    for (int c = 0; c < a.n; c += 4) {
      const float* at = a.x_DT + 16 * c;
      PHASOR_UNROLL for (int k = 0; k < kTogether; ++k) {
        const __m512 inverse = _mm512_loadu_ps(a.inverse[step + k]);
        __m512i x[4];
        PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
          x[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at + 16 * i), inverse));
        }
        const __m512i plus = _mm512_shuffle_epi8(
            _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3])),
            by_row);
        const __m512i minus = _mm512_sub_epi8(_mm512_setzero_si512(), plus);
        PHASOR_UNROLL for (int v = 0; v < kVariants; ++v) {
          const __m512i signed_x = v % 2 == 0 ? plus : minus;
          const __m512i place = _mm512_max_epi8(_mm512_min_epi8(signed_x, _mm512_set1_epi8(63)),
                                                _mm512_set1_epi8(-64));
          const __m512i e =
              _mm512_abs_epi8(_mm512_sub_epi8(signed_x, nearest[v / 2].LookUp(place)));
          AddByteProducts(sum[k][v], e, e);
        }
      }
    }
    PHASOR_UNROLL for (int k = 0; k < kTogether; ++k) {
      PHASOR_UNROLL for (int v = 0; v < kVariants; ++v) {
        const int zero = a.nearest[v / 2][0];
        _mm512_storeu_si512(a.error[step + k][v],
                            _mm512_sub_epi32(sum[k][v], _mm512_set1_epi32(n_padded * zero * zero)));
      }
    }
  }
}

void Search(const IntSearchArgs& a) {
  if (a.n_books == 2) return SearchVariants<4>(a);
  PHASOR_CHECK(a.n_books == 4);
  SearchVariants<8>(a);
}

constexpr IntKernels kSet = {Score, Accumulate, Decode, Search};
