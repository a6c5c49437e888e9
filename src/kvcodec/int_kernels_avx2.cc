// AVX2: pshufb turns 32 codes into levels. Keys and 8-bit values: levels widened to 16 bits,
// pmaddwd with 16-bit queries or weights. Values of 3 and 4 bits: pmaddubsw of byte weights and
// levels; products of two bytes fit 16-bit sums (kMaxLevel).
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "simd/target.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

PHASOR_INLINE __m256i Load256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
PHASOR_INLINE __m128i Load128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
PHASOR_INLINE __m256i Broadcast4(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return _mm256_set1_epi32(x);
}
PHASOR_INLINE __m256i Broadcast8(const void* p) {
  int64_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return _mm256_set1_epi64x(x);
}
PHASOR_INLINE __m256 LoadF16(const uint16_t* p) { return _mm256_cvtph_ps(Load128(p)); }

// The levels of up to 32 (book, code) pairs. `low` is or-ed to the code; the sign bits of `high`
// choose the second table; both from the low bits of the row's scale.
struct Selector {
  __m256i low, high;
};
template <int BOOK_BITS>
struct Table {
  __m256i level[2];
  explicit Table(const IntLevels& levels) {
    level[0] = _mm256_broadcastsi128_si256(Load128(levels.level));
    level[1] = _mm256_broadcastsi128_si256(Load128(levels.level + 16));
  }
  PHASOR_INLINE __m256i Lookup(__m256i code, const Selector& s) const {
    if (BOOK_BITS == 2) code = _mm256_or_si256(code, s.low);
    const __m256i first = _mm256_shuffle_epi8(level[0], code);
    if (BOOK_BITS == 0) return first;
    return _mm256_blendv_epi8(first, _mm256_shuffle_epi8(level[1], code), s.high);
  }
  // From the low byte of each scale, repeated as the levels need it. One book bit: bit 0 chooses
  // the table. Two: bit 0 is bit 3 of the index, bit 1 chooses the table.
  PHASOR_INLINE static Selector Select(__m256i scale_byte) {
    if (BOOK_BITS == 0) return {scale_byte, scale_byte};
    const __m256i low = _mm256_and_si256(_mm256_slli_epi16(scale_byte, 3), _mm256_set1_epi8(8));
    return {low, _mm256_slli_epi16(scale_byte, BOOK_BITS == 1 ? 7 : 6)};
  }
};

// Half a tile (8 lanes, `half` 0 or 1): its packed bits, and the codes of step s as bytes.
template <int BITS>
struct Tile;

template <>
struct Tile<4> {
  static constexpr int kBytes = 64, kSteps = 2;
  __m256i byte;
  PHASOR_INLINE void Load(const std::byte* p, int half) { byte = Load256(p + 32 * half); }
  PHASOR_INLINE __m256i Codes(int s) const {
    return _mm256_and_si256(s == 0 ? byte : _mm256_srli_epi16(byte, 4), _mm256_set1_epi8(15));
  }
};

template <>
struct Tile<8> {
  static constexpr int kBytes = 128, kSteps = 2;
  const std::byte* bytes;
  PHASOR_INLINE void Load(const std::byte* p, int half) { bytes = p + 32 * half; }
  PHASOR_INLINE __m256i Codes(int s) const { return Load256(bytes + 64 * s); }
};

template <>
struct Tile<3> {
  static constexpr int kBytes = 96, kSteps = 4;
  __m256i low, high;  // bit s of a byte of `high` comes from bit s + 2
  PHASOR_INLINE void Load(const std::byte* p, int half) {
    low = Load256(p + 32 * half);
    const __m256i h = Load256(p + 64);
    high = half == 0 ? _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(15)), 2)
                     : _mm256_srli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(-16)), 2);
  }
  PHASOR_INLINE __m256i Codes(int s) const {
    const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * s), _mm256_set1_epi8(3));
    return _mm256_or_si256(a, _mm256_and_si256(_mm256_srli_epi16(high, s), _mm256_set1_epi8(4)));
  }
};

// acc + x. The barrier keeps g++ from regrouping the sums of unrolled steps, which costs registers.
PHASOR_INLINE void Add(__m256i x, __m256i* acc) {
  *acc = _mm256_add_epi32(*acc, x);
  __asm__("" : "+x"(*acc));
}

PHASOR_INLINE __m256i WidenLow(__m256i x) {
  return _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x));
}
PHASOR_INLINE __m256i WidenHigh(__m256i x) {
  return _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1));
}
// acc: two partial sums of each of lanes 0-3, and of 4-7.
PHASOR_INLINE __m256i SumPairs(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8);
}

// ---- Keys ----

template <int BITS, int BOOK_BITS, int G>
void ScoreLanes(const IntScoreArgs& a, int head, int lane, int half) {
  using T = Tile<BITS>;
  const IntPageShape& shape = *a.shape;
  const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page) + 16 * lane + 8 * half;
  const Table<BOOK_BITS> table(*shape.levels);
  for (int b = 0; b < shape.n_blocks; ++b) {
    const int begin = b * rows_per_block;
    const int end = b + 1 == shape.n_blocks ? n_rows : begin + rows_per_block;
    const uint16_t* scale = scales + b * kPageTokens;
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,  //
                                            0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const Selector selector = Table<BOOK_BITS>::Select(
        _mm256_shuffle_epi8(_mm256_cvtepu16_epi32(Load128(scale)), spread));
    __m256i acc[G][2];
    PHASOR_UNROLL for (int i = 0; i < G; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
    const std::byte* codes = a.page + shape.codes_at + begin * row_bytes + lane * T::kBytes;
    const int16_t* q = a.q + head * shape.n_inner + begin * shape.group;
    for (int row = begin; row < end; ++row, codes += row_bytes) {
      T tile;
      tile.Load(codes, half);
      PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, q += 4) {
        __m256i level = tile.Codes(s);
        if (BITS != 8) level = table.Lookup(level, selector);
        const __m256i low = WidenLow(level), high = WidenHigh(level);
        PHASOR_UNROLL for (int i = 0; i < G; ++i) {
          const __m256i qi = Broadcast8(q + i * shape.n_inner);
          Add(_mm256_madd_epi16(low, qi), &acc[i][0]);
          Add(_mm256_madd_epi16(high, qi), &acc[i][1]);
        }
      }
    }
    const __m256 size = LoadF16(scale);
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float* score = a.score_GT + (head + i) * kPageTokens + 16 * lane + 8 * half;
      const __m256 x = _mm256_cvtepi32_ps(SumPairs(acc[i][0], acc[i][1]));
      const __m256 f = _mm256_mul_ps(_mm256_set1_ps(a.q_step[head + i]), size);
      _mm256_storeu_ps(
          score, b == 0 ? _mm256_mul_ps(x, f) : _mm256_fmadd_ps(x, f, _mm256_loadu_ps(score)));
    }
  }
}

template <int BITS, int BOOK_BITS, int G>
void ScoreHeads(const IntScoreArgs& a, int head) {
  for (int t = 0; t < a.n_tokens; t += 8) {
    ScoreLanes<BITS, BOOK_BITS, G>(a, head, t / 16, t / 8 % 2);
  }
}

template <int BITS, int BOOK_BITS>
void ScoreBits(const IntScoreArgs& a) {
  int head = 0;
  for (; head + 4 <= a.g; head += 4) ScoreHeads<BITS, BOOK_BITS, 4>(a, head);
  if (a.g - head == 3) ScoreHeads<BITS, BOOK_BITS, 3>(a, head);
  if (a.g - head == 2) ScoreHeads<BITS, BOOK_BITS, 2>(a, head);
  if (a.g - head == 1) ScoreHeads<BITS, BOOK_BITS, 1>(a, head);
}

void Score(const IntScoreArgs& a) {
  const int book_bits = a.shape->levels->book_bits;
  if (a.shape->bits == 3) ScoreBits<3, 2>(a);
  if (a.shape->bits == 4 && book_bits == 0) ScoreBits<4, 0>(a);
  if (a.shape->bits == 4 && book_bits == 1) ScoreBits<4, 1>(a);
  if (a.shape->bits == 8) ScoreBits<8, 0>(a);
}

// ---- Values ----

constexpr int kMaxHeads = 4;

// Rounded weights of up to kMaxHeads heads for one block of channels: 16 bits for 8-bit codes, else
// bytes: the weights and, where `rest` is set, what is left in units of 1/255.
struct BlockWeights {
  union {
    alignas(32) int16_t w[kMaxHeads][kPageTokens];
    alignas(32) uint8_t byte[kMaxHeads][2][kPageTokens];
  };
  alignas(32) float scale[kPageTokens];  // magnitudes
  alignas(32) uint8_t low[kPageTokens];  // Selector of each token
  alignas(32) uint8_t high[kPageTokens];
  alignas(32) int8_t sign[kPageTokens];  // 1 or -1
  float step[kMaxHeads];
  float largest[kMaxHeads];  // weight times scale
  float largest_scale;
  bool rest[kMaxHeads];
};

PHASOR_INLINE float Largest(__m256 x) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

template <int BOOK_BITS>
PHASOR_INLINE void LoadScales(const uint16_t* scales, BlockWeights* w) {
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  for (int t = 0; t < kPageTokens; t += 32) {
    const __m256i a = Load256(scales + t), b = Load256(scales + t + 16);
    const __m256i byte = _mm256_set1_epi16(255);
    const __m256i low = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    const __m256i negative = _mm256_packs_epi16(_mm256_srai_epi16(a, 15), _mm256_srai_epi16(b, 15));
    const Selector selector = Table<BOOK_BITS>::Select(_mm256_permute4x64_epi64(low, 0xd8));
    _mm256_store_si256(reinterpret_cast<__m256i*>(w->low + t), selector.low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(w->high + t), selector.high);
    _mm256_store_si256(
        reinterpret_cast<__m256i*>(w->sign + t),
        _mm256_or_si256(_mm256_permute4x64_epi64(negative, 0xd8), _mm256_set1_epi8(1)));
    const __m256i pa = _mm256_and_si256(a, magnitude), pb = _mm256_and_si256(b, magnitude);
    _mm256_store_ps(w->scale + t, _mm256_cvtph_ps(_mm256_castsi256_si128(pa)));
    _mm256_store_ps(w->scale + t + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(pa, 1)));
    _mm256_store_ps(w->scale + t + 16, _mm256_cvtph_ps(_mm256_castsi256_si128(pb)));
    _mm256_store_ps(w->scale + t + 24, _mm256_cvtph_ps(_mm256_extracti128_si256(pb, 1)));
  }
  __m256 largest = _mm256_load_ps(w->scale);
  for (int t = 8; t < kPageTokens; t += 8) {
    largest = _mm256_max_ps(largest, _mm256_load_ps(w->scale + t));
  }
  w->largest_scale = Largest(largest);
}

// 32 numbers of 0 .. 255 as bytes in order; larger ones count as 255, negative ones as 0.
PHASOR_INLINE __m256i PackBytes(const __m256i* q) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i a = _mm256_packus_epi32(q[0], q[1]), b = _mm256_packus_epi32(q[2], q[3]);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
}

// Eight weights from `t` on, zero beyond n_tokens.
PHASOR_INLINE __m256 LoadWeights(const float* weight, int t, int n_tokens) {
  if (t + 8 <= n_tokens) return _mm256_loadu_ps(weight + t);
  const __m256i place =
      _mm256_add_epi32(_mm256_set1_epi32(t), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_maskload_ps(weight + t, _mm256_cmpgt_epi32(_mm256_set1_epi32(n_tokens), place));
}

// Sets largest[i]. Four chains, so that heads do not wait for each other's latencies.
PHASOR_INLINE void FindLargest(const float* weight, int n_tokens, BlockWeights* w, int i) {
  __m256 largest[4];
  PHASOR_UNROLL for (__m256& l : largest) l = _mm256_setzero_ps();
  for (int t = 0; t < n_tokens; t += 32) {
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) {
      const __m256 p = _mm256_mul_ps(LoadWeights(weight, t + 8 * j, n_tokens),
                                     _mm256_load_ps(w->scale + t + 8 * j));
      largest[j] = _mm256_max_ps(largest[j], p);
    }
  }
  w->largest[i] = Largest(
      _mm256_max_ps(_mm256_max_ps(largest[0], largest[1]), _mm256_max_ps(largest[2], largest[3])));
}

// Returns whether any weight counts.
template <int BITS>
PHASOR_INLINE bool QuantizeWeights(const float* weight, int n_tokens, const float* threshold,
                                   BlockWeights* w, int i) {
  const float top = w->largest[i];
  w->step[i] = 0;
  w->rest[i] = false;
  if (!(top >= kSmallestWeight)) {
    __builtin_memset(w->w[i], 0, sizeof(w->w[i]));
    return false;
  }
  constexpr float kLevels = BITS == 8 ? kWeightLevels : kByteWeightLevels;
  const __m256 inverse = _mm256_set1_ps(kLevels / top);
  w->step[i] = top / kLevels;
  if (BITS != 8 && MayNeedRest(top, w->largest_scale)) {
    float squares = 0;
    for (int t = 0; t < n_tokens; ++t) {
      const float p = weight[t] * w->scale[t];
      squares += p * p;
    }
    w->rest[i] = NeedsRest(top, squares);
  }
  for (int t = 0; t < kPageTokens; t += 32) {
    __m256i q[4];
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) {
      const __m256 p = _mm256_mul_ps(LoadWeights(weight, t + 8 * j, n_tokens),
                                     _mm256_load_ps(w->scale + t + 8 * j));
      q[j] = BITS == 8 ? _mm256_cvtps_epi32(_mm256_mul_ps(p, inverse))
                       : _mm256_cvttps_epi32(
                             _mm256_fmadd_ps(p, inverse, _mm256_loadu_ps(threshold + t + 8 * j)));
    }
    if (BITS == 8) {
      auto* out = reinterpret_cast<__m256i*>(w->w[i] + t);
      const __m256i a = _mm256_packus_epi32(q[0], q[1]), b = _mm256_packus_epi32(q[2], q[3]);
      _mm256_store_si256(out, _mm256_permute4x64_epi64(a, 0xd8));
      _mm256_store_si256(out + 1, _mm256_permute4x64_epi64(b, 0xd8));
    } else {
      _mm256_store_si256(reinterpret_cast<__m256i*>(w->byte[i][0] + t), PackBytes(q));
    }
  }
  return true;
}

// Where head i needs it, its weights again: whole units, and what is left.
void SplitWeights(const float* weight, int n_tokens, const float* threshold, BlockWeights* w,
                  int i) {
  if (!w->rest[i]) {
    __builtin_memset(w->byte[i][1], 0, kPageTokens);
    return;
  }
  const __m256 inverse = _mm256_set1_ps(kByteWeightLevels / w->largest[i]);
  const __m256 fine = _mm256_mul_ps(inverse, _mm256_set1_ps(255.0f));
  const __m256 step = _mm256_set1_ps(w->step[i]);
  for (int t = 0; t < kPageTokens; t += 32) {
    __m256i whole[4], left[4];
    for (int j = 0; j < 4; ++j) {
      const int at = t + 8 * j;
      const __m256 p =
          _mm256_mul_ps(LoadWeights(weight, at, n_tokens), _mm256_load_ps(w->scale + at));
      whole[j] =
          _mm256_min_epi32(_mm256_cvttps_epi32(_mm256_mul_ps(p, inverse)), _mm256_set1_epi32(255));
      const __m256 rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(whole[j]), step, p);
      left[j] = _mm256_cvttps_epi32(_mm256_fmadd_ps(rest, fine, _mm256_loadu_ps(threshold + at)));
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(w->byte[i][0] + t), PackBytes(whole));
    _mm256_store_si256(reinterpret_cast<__m256i*>(w->byte[i][1] + t), PackBytes(left));
  }
}

// out[l] += sum[l] * step for the channels that exist.
PHASOR_INLINE void AddSums(__m256i sum, float step, int n_channels, float* out) {
  const __m256 x = _mm256_cvtepi32_ps(sum), f = _mm256_set1_ps(step);
  if (n_channels >= 8) {
    _mm256_storeu_ps(out, _mm256_fmadd_ps(x, f, _mm256_loadu_ps(out)));
    return;
  }
  const __m256i m =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(n_channels), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  _mm256_maskstore_ps(out, m, _mm256_fmadd_ps(x, f, _mm256_maskload_ps(out, m)));
}

// Eight channels, 3 or 4 bits.
template <int BITS, int BOOK_BITS, int G>
void AccumulateBytes(const IntAccumulateArgs& a, const BlockWeights& w, int plane, int head,
                     int lane, int half) {
  using T = Tile<BITS>;
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const std::byte* codes = a.page + shape.codes_at + lane * T::kBytes;
  const Table<BOOK_BITS> table(*shape.levels);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i acc[G];
  PHASOR_UNROLL for (int i = 0; i < G; ++i) acc[i] = _mm256_setzero_si256();
  for (int t = 0; t < a.n_tokens; codes += row_bytes) {
    T tile;
    tile.Load(codes, half);
    PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, t += 4) {
      const Selector selector{Broadcast4(w.low + t), Broadcast4(w.high + t)};
      const __m256i level =
          _mm256_sign_epi8(table.Lookup(tile.Codes(s), selector), Broadcast4(w.sign + t));
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const __m256i wi = Broadcast4(w.byte[i][plane] + t);
        Add(_mm256_madd_epi16(_mm256_maddubs_epi16(wi, level), ones), &acc[i]);
      }
    }
  }
  const int channel = 16 * lane + 8 * half;
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    AddSums(acc[i], w.step[i], shape.head_dim - channel,
            a.out_GD + (head + i) * shape.head_dim + channel);
  }
}

// Eight channels, 8 bits.
template <int G>
void AccumulateWords(const IntAccumulateArgs& a, const BlockWeights& w, int head, int lane,
                     int half) {
  using T = Tile<8>;
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const std::byte* codes = a.page + shape.codes_at + lane * T::kBytes + 32 * half;
  __m256i acc[G][2];
  PHASOR_UNROLL for (int i = 0; i < G; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  for (int t = 0; t < a.n_tokens; codes += row_bytes) {
    PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, t += 4) {
      const __m256i low = _mm256_cvtepi8_epi16(Load128(codes + 64 * s));
      const __m256i high = _mm256_cvtepi8_epi16(Load128(codes + 64 * s + 16));
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const __m256i wi = Broadcast8(w.w[i] + t);
        Add(_mm256_madd_epi16(low, wi), &acc[i][0]);
        Add(_mm256_madd_epi16(high, wi), &acc[i][1]);
      }
    }
  }
  const int channel = 16 * lane + 8 * half;
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    AddSums(SumPairs(acc[i][0], acc[i][1]), w.step[i], shape.head_dim - channel,
            a.out_GD + (head + i) * shape.head_dim + channel);
  }
}

template <int BITS, int BOOK_BITS, int G>
void AccumulateHeads(const IntAccumulateArgs& a, BlockWeights* w, int block, int head) {
  const IntPageShape& shape = *a.shape;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page) + block * kPageTokens;
  const bool full = a.n_tokens == kPageTokens;  // nearly always: no masks
  bool any = false, rest = false;
  for (int i = 0; i < G; ++i) {
    const float* weight = a.weight_GT + (head + i) * kPageTokens;
    full ? FindLargest(weight, kPageTokens, w, i) : FindLargest(weight, a.n_tokens, w, i);
  }
  for (int i = 0; i < G; ++i) {
    const float* weight = a.weight_GT + (head + i) * kPageTokens;
    const float* threshold = Thresholds(scales, head + i);
    any |= full ? QuantizeWeights<BITS>(weight, kPageTokens, threshold, w, i)
                : QuantizeWeights<BITS>(weight, a.n_tokens, threshold, w, i);
    rest |= w->rest[i];
  }
  if (!any) return;
  if (rest) {
    for (int i = 0; i < G; ++i) {
      SplitWeights(a.weight_GT + (head + i) * kPageTokens, a.n_tokens, Thresholds(scales, head + i),
                   w, i);
    }
  }
  const int begin = block * shape.block;
  const int end = block + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
  for (int plane = 0; plane < (rest ? 2 : 1); ++plane) {
    for (int channel = begin; channel < end; channel += 8) {
      if constexpr (BITS == 8) {
        AccumulateWords<G>(a, *w, head, channel / 16, channel / 8 % 2);
      } else {
        AccumulateBytes<BITS, BOOK_BITS, G>(a, *w, plane, head, channel / 16, channel / 8 % 2);
      }
    }
    for (float& step : w->step) step /= 255;
  }
}

template <int BITS, int BOOK_BITS>
void AccumulateBits(const IntAccumulateArgs& a) {
  BlockWeights w;
  for (int b = 0; b < a.shape->n_blocks; ++b) {
    LoadScales<BOOK_BITS>(reinterpret_cast<const uint16_t*>(a.page) + b * kPageTokens, &w);
    int head = 0;
    for (; head + 4 <= a.g; head += 4) AccumulateHeads<BITS, BOOK_BITS, 4>(a, &w, b, head);
    if (a.g - head == 3) AccumulateHeads<BITS, BOOK_BITS, 3>(a, &w, b, head);
    if (a.g - head == 2) AccumulateHeads<BITS, BOOK_BITS, 2>(a, &w, b, head);
    if (a.g - head == 1) AccumulateHeads<BITS, BOOK_BITS, 1>(a, &w, b, head);
  }
}

void Accumulate(const IntAccumulateArgs& a) {
  const int book_bits = a.shape->levels->book_bits;
  if (a.shape->bits == 3) AccumulateBits<3, 2>(a);
  if (a.shape->bits == 4 && book_bits == 0) AccumulateBits<4, 0>(a);
  if (a.shape->bits == 4 && book_bits == 1) AccumulateBits<4, 1>(a);
  if (a.shape->bits == 8) AccumulateBits<8, 0>(a);
}

// ---- Decoding ----

// Numbers of a group of 8 channels of 4 tokens from level[channel][token] bytes.
template <int BITS, int BOOK_BITS>
void DecodeValues(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const int n_lane_blocks = shape.n_lanes / 16;
  const Table<BOOK_BITS> table(*shape.levels);
  BlockWeights w;
  for (int b = 0; b < shape.n_blocks; ++b) {
    LoadScales<BOOK_BITS>(scales + b * kPageTokens, &w);
    const int begin = b * shape.block;
    const int end = b + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
    for (int row = 0; row * 4 * T::kSteps < n_tokens; ++row) {
      for (int channel = begin; channel < end; channel += 8) {
        T tile;
        const int index = row * n_lane_blocks + channel / 16;
        tile.Load(page + shape.codes_at + index * T::kBytes, channel / 8 % 2);
        const __m256i m = _mm256_cmpgt_epi32(_mm256_set1_epi32(end - channel),
                                             _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        for (int s = 0; s < T::kSteps; ++s) {
          const int t = (row * T::kSteps + s) * 4;
          __m256i level = tile.Codes(s);
          if (BITS != 8) {
            level = table.Lookup(level, Selector{Broadcast4(w.low + t), Broadcast4(w.high + t)});
          }
          for (int i = 0; i < 4 && t + i < n_tokens; ++i) {
            const __m256i l =
                _mm256_srai_epi32(_mm256_sll_epi32(level, _mm_cvtsi32_si128(24 - 8 * i)), 24);
            const __m256 f = _mm256_set1_ps(w.scale[t + i] * static_cast<float>(w.sign[t + i]));
            float* out = x_TD + (t + i) * shape.head_dim + channel;
            const __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(l), f);
            if (end - channel >= 8) {
              _mm256_storeu_ps(out, x);
            } else {
              _mm256_maskstore_ps(out, m, x);
            }
          }
        }
      }
    }
  }
}

template <int BITS, int BOOK_BITS>
void DecodeKeys(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const int n_lane_blocks = shape.n_lanes / 16;
  const Table<BOOK_BITS> table(*shape.levels);
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,  //
                                          0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
  for (int t = 0; t < n_tokens; t += 8) {
    const int n = n_tokens - t < 8 ? n_tokens - t : 8;
    for (int c = 0; c < shape.head_dim; c += 4) {
      const uint16_t* scale = scales + (c / shape.block) * kPageTokens + t;
      const int index = c / shape.group * n_lane_blocks + t / 16;
      T tile;
      tile.Load(page + shape.codes_at + index * T::kBytes, t / 8 % 2);
      __m256i code = tile.Codes(0);
      const int s = c % shape.group / 4;
      if (s == 1) code = tile.Codes(1);
      if (T::kSteps == 4 && s == 2) code = tile.Codes(2 % T::kSteps);
      if (T::kSteps == 4 && s == 3) code = tile.Codes(3 % T::kSteps);
      if (BITS != 8) {
        code = table.Lookup(code, Table<BOOK_BITS>::Select(_mm256_shuffle_epi8(
                                      _mm256_cvtepu16_epi32(Load128(scale)), spread)));
      }
      alignas(32) int8_t level[32];
      alignas(32) float size[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(level), code);
      _mm256_store_ps(size, LoadF16(scale));
      const int n_channels = shape.head_dim - c;
      for (int i = 0; i < n; ++i) {
        float* out = x_TD + (t + i) * shape.head_dim + c;
        int32_t four;
        __builtin_memcpy(&four, level + 4 * i, sizeof(four));
        const __m128 x = _mm_mul_ps(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four))),
                                    _mm_set1_ps(size[i]));
        if (n_channels >= 4) {
          _mm_storeu_ps(out, x);
          continue;
        }
        alignas(16) float last[4];
        _mm_store_ps(last, x);
        for (int j = 0; j < n_channels; ++j) out[j] = last[j];
      }
    }
  }
}

template <int BITS, int BOOK_BITS>
void DecodeBits(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const bool key = shape.role == KvRole::kKey;
  (key ? DecodeKeys<BITS, BOOK_BITS> : DecodeValues<BITS, BOOK_BITS>)(shape, page, n_tokens, x_TD);
}

void Decode(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const int book_bits = shape.levels->book_bits;
  if (shape.bits == 3) DecodeBits<3, 2>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4 && book_bits == 0) DecodeBits<4, 0>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4 && book_bits == 1) DecodeBits<4, 1>(shape, page, n_tokens, x_TD);
  if (shape.bits == 8) DecodeBits<8, 0>(shape, page, n_tokens, x_TD);
}

// ---- Search ----

// The nearest levels of 32 places -64 .. 63. table[k]: places 16 k .. 16 k + 15 of 0 .. 127.
PHASOR_INLINE __m256i Nearest(const __m256i* table, __m256i place) {
  const __m256i index = _mm256_and_si256(place, _mm256_set1_epi8(127));
  __m256i level = _mm256_setzero_si256();
  PHASOR_UNROLL for (int k = 0; k < 8; ++k) {
    // Only in row k: 0 .. 15; below it negative, above it beyond 15: + 112 sets the top bit.
    const __m256i row = _mm256_sub_epi8(index, _mm256_set1_epi8(static_cast<int8_t>(16 * k)));
    const __m256i only = _mm256_or_si256(row, _mm256_adds_epu8(row, _mm256_set1_epi8(112)));
    level = _mm256_or_si256(level, _mm256_shuffle_epi8(table[k], only));
  }
  return level;
}

void Search(const IntSearchArgs& a) {
  for (int b = 0; b < a.n_books; ++b) {
    __m256i table[8];
    for (int k = 0; k < 8; ++k) {
      table[k] = _mm256_broadcastsi128_si256(Load128(a.nearest[b] + 16 * k));
    }
    for (int step = 0; step < kSearchSteps; ++step) {
      const __m256 inverse = _mm256_set1_ps(a.inverse[step]);
      __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      for (int first = 0; first < a.n; first += 32) {
        __m256i x[4];
        PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
          // The row is padded to 16 numbers.
          const int at = first + 8 * i;
          x[i] = at < (a.n + 15) / 16 * 16
                     ? _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(a.x + at), inverse))
                     : _mm256_setzero_si256();
        }
        // The order of the bytes does not matter.
        const __m256i plus =
            _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
        PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
          const __m256i y = v == 0 ? plus : _mm256_sub_epi8(_mm256_setzero_si256(), plus);
          const __m256i place =
              _mm256_max_epi8(_mm256_min_epi8(y, _mm256_set1_epi8(63)), _mm256_set1_epi8(-64));
          const __m256i e = _mm256_abs_epi8(_mm256_sub_epi8(y, Nearest(table, place)));
          sum[v] = _mm256_add_epi32(
              sum[v], _mm256_madd_epi16(_mm256_maddubs_epi16(e, e), _mm256_set1_epi16(1)));
        }
      }
      const int n_padded = (32 - a.n % 32) % 32;  // zeros, each counted with its nearest level
      for (int v = 0; v < 2; ++v) {
        alignas(32) int32_t lane[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lane), sum[v]);
        int32_t total = -n_padded * a.nearest[b][0] * a.nearest[b][0];
        for (int32_t l : lane) total += l;
        a.error[step][2 * b + v] = total;
      }
    }
  }
}

constexpr IntKernels kSet = {Score, Accumulate, Decode, Search};

#undef PHASOR_INLINE

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const IntKernels* IntKernelsAvx2() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsAvx2() { return nullptr; }
}  // namespace phasor
#endif
