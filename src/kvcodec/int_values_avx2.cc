// Values of integer pages with AVX2. 3- and 4-bit codes: pmaddubsw of byte weights and levels.
// Products of two bytes fit 16-bit sums (kMaxLevel), and sums of several steps do where the weights
// are small, which most are: they are rounded relative to the largest of a page. So a plan per page
// says after which tiles the 16-bit sums have to move to 32 bits. 8-bit codes: widened to 16 bits,
// pmaddwd with 15-bit weights.
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#include <algorithm>
#include <cstdlib>

#include "kvcodec/int_avx2-inl.h"
#include "simd/line_fetcher.h"

namespace phasor {
namespace {

constexpr int kMaxHeads = 8;        // whose byte weights meet the codes together
constexpr int kMaxWordHeads = 4;    // the same of words
constexpr int kMostPairedRows = 4;  // of byte weights that two groups of channels meet together

// Byte weights of the query heads that have any.
struct ByteRows {
  alignas(32) uint8_t byte[kMaxHeads][kPageTokens];
  float step[kMaxHeads];
  int head[kMaxHeads];
  int n = 0;
};

// Tiles whose 16-bit sums fit together; or one tile whose steps do not, `dense`.
struct Span {
  int n_tiles;
  bool dense;
};
struct SpanPlan {
  Span span[kPageTokens / 8];
  int n = 0;
};

// One head's products of weight and scale.
struct HeadWeights {
  const float* weight;
  const float* threshold;
  int n_tokens;
};

int LargestLevel(const IntLevels& levels) {
  int most = 1;
  for (int i = 0; i < 1 << (levels.bits + levels.book_bits); ++i) {
    most = std::max(most, std::abs(int{levels.level[i]}));
  }
  return most;
}

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// 32 numbers of 0 .. 255 as bytes in order; larger ones count as 255, negative ones as 0.
PHASOR_INLINE __m256i PackBytes(const __m256i* q) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i a = _mm256_packus_epi32(q[0], q[1]), b = _mm256_packus_epi32(q[2], q[3]);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
}

// Eight products of weight and scale from `t` on, zero beyond n_tokens.
PHASOR_INLINE __m256 LoadProducts(const HeadWeights& head, const RowScales& rows, int t) {
  const __m256 scale = _mm256_load_ps(rows.scale + t);
  if (t + 8 <= head.n_tokens) return _mm256_mul_ps(_mm256_loadu_ps(head.weight + t), scale);
  const __m256i place =
      _mm256_add_epi32(_mm256_set1_epi32(t), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  const __m256i some = _mm256_cmpgt_epi32(_mm256_set1_epi32(head.n_tokens), place);
  return _mm256_mul_ps(_mm256_maskload_ps(head.weight + t, some), scale);
}

// Four chains, so that heads do not wait for each other's latencies.
PHASOR_INLINE float LargestProduct(const HeadWeights& head, const RowScales& rows) {
  __m256 largest[4];
  PHASOR_UNROLL for (__m256& l : largest) l = _mm256_setzero_ps();
  for (int t = 0; t < head.n_tokens; t += 32) {
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) {
      largest[j] = _mm256_max_ps(largest[j], LoadProducts(head, rows, t + 8 * j));
    }
  }
  return Largest(
      _mm256_max_ps(_mm256_max_ps(largest[0], largest[1]), _mm256_max_ps(largest[2], largest[3])));
}

// byte[t] = products / largest * 255, up or down by their thresholds.
PHASOR_INLINE void RoundToBytes(const HeadWeights& head, const RowScales& rows, float largest,
                                uint8_t* byte) {
  const __m256 inverse = _mm256_set1_ps(kByteWeightLevels / largest);
  for (int t = 0; t < kPageTokens; t += 32) {
    __m256i q[4];
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) {
      const int at = t + 8 * j;
      q[j] = _mm256_cvttps_epi32(_mm256_fmadd_ps(LoadProducts(head, rows, at), inverse,
                                                 _mm256_loadu_ps(head.threshold + at)));
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(byte + t), PackBytes(q));
  }
}

// Rounds the weights of heads [first, end).
PHASOR_INLINE void RoundHeads(const IntAccumulateArgs& a, const RowScales& rows,
                              const uint16_t* scales, int n_tokens, int first, int end,
                              ByteRows* out) {
  out->n = 0;
  for (int h = first; h < end; ++h) {
    const HeadWeights head = {a.weight_GT + h * kPageTokens, Thresholds(scales, h), n_tokens};
    const float largest = LargestProduct(head, rows);
    if (!(largest >= kSmallestWeight)) continue;
    const int i = out->n++;
    out->head[i] = h;
    out->step[i] = largest / kByteWeightLevels;
    RoundToBytes(head, rows, largest, out->byte[i]);
  }
}

// A 16-bit sum takes two weights times levels a step; kSteps steps are a tile. With the largest of
// all rows in place of each row's own the plan serves all of them.
template <int kSteps>
void PlanSpans(const ByteRows& bytes, int n_tokens, int largest_level, SpanPlan* plan) {
  __m256i most[kPageTokens / 32];  // word 2 s + k: tokens 4 s + 2 k and 4 s + 2 k + 1
  PHASOR_UNROLL for (__m256i& m : most) m = _mm256_setzero_si256();
  for (int i = 0; i < bytes.n; ++i) {
    PHASOR_UNROLL for (int v = 0; v < kPageTokens / 32; ++v) {
      __m256i sum = _mm256_maddubs_epi16(Load256(bytes.byte[i] + 32 * v), _mm256_set1_epi8(1));
      sum = _mm256_add_epi16(sum, _mm256_srli_epi64(sum, 32));
      if (kSteps == 4) sum = _mm256_add_epi16(sum, _mm256_srli_si256(sum, 8));
      most[v] = _mm256_max_epi16(most[v], sum);
    }
  }
  alignas(32) uint16_t sum[kPageTokens / 2];
  PHASOR_UNROLL for (int v = 0; v < kPageTokens / 32; ++v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(sum + 16 * v), most[v]);
  }
  const int limit = 32767 / largest_level;
  int run[2] = {limit + 1, limit + 1};  // the first tile begins a span
  bool dense = false;
  plan->n = 0;
  for (int tile = 0; tile * 4 * kSteps < n_tokens; ++tile) {
    const int a = sum[tile * 2 * kSteps], b = sum[tile * 2 * kSteps + 1];
    run[0] += a;
    run[1] += b;
    if (!dense && run[0] <= limit && run[1] <= limit) {
      ++plan->span[plan->n - 1].n_tiles;
      continue;
    }
    dense = a > limit || b > limit;
    plan->span[plan->n++] = {1, dense};
    run[0] = a;
    run[1] = b;
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

// How many groups of eight channels go through the loop together for G rows: what is broadcast
// serves all of them, as long as their sums stay in registers.
constexpr int GroupsFor(int g) { return g <= kMostPairedRows ? 2 : 1; }

// The 16-bit sums move to 32 bits in memory: registers are for the former.
template <int N>
PHASOR_INLINE void MoveSums(__m256i* word, __m256i* sum) {
  PHASOR_UNROLL for (int i = 0; i < N; ++i) {
    const __m256i wide = _mm256_madd_epi16(word[i], _mm256_set1_epi16(1));
    _mm256_store_si256(sum + i, _mm256_add_epi32(_mm256_load_si256(sum + i), wide));
    word[i] = _mm256_setzero_si256();
  }
}

// n tiles for which 16-bit sums have room; kDense: steps for which they do. word[i * C + c]: two
// tokens' weights of row i times levels of group c.
template <int BITS, int BOOK_BITS, int G, int C, bool kDense>
PHASOR_INLINE void AddTiles(const Table<BOOK_BITS>& table, const RowScales& rows,
                            const std::byte* codes, std::size_t row_bytes, int half,
                            const uint8_t* byte, int t, int n, LineFetcher& fetcher, __m256i* sum) {
  using T = Tile<BITS>;
  __m256i word[G * C];
  PHASOR_UNROLL for (__m256i& w : word) w = _mm256_setzero_si256();
  for (; n > 0; --n, codes += row_bytes) {
    fetcher.Step();
    T tile[C];
    PHASOR_UNROLL for (int c = 0; c < C; ++c) tile[c].Load(codes, half + c);
    PHASOR_UNROLL for (int step = 0; step < T::kSteps; ++step, t += 4) {
      const Selector selector = rows.SelectorOf(t);
      const __m256i sign = Broadcast4(rows.sign + t);
      __m256i level[C];
      PHASOR_UNROLL for (int c = 0; c < C; ++c) {
        level[c] = _mm256_sign_epi8(table.Lookup(tile[c].Codes(step), selector), sign);
      }
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const __m256i w = Broadcast4(byte + i * kPageTokens + t);
        PHASOR_UNROLL for (int c = 0; c < C; ++c) {
          __m256i& to = word[i * C + c];
          to = _mm256_add_epi16(to, _mm256_maddubs_epi16(w, level[c]));
          // Keeps g++ from regrouping the sums of unrolled steps, which costs registers.
          __asm__("" : "+x"(to));
        }
      }
      if (kDense) MoveSums<G * C>(word, sum);
    }
  }
  if (!kDense) MoveSums<G * C>(word, sum);
}

// C groups of eight channels, 3 or 4 bits, the G rows.
template <int BITS, int BOOK_BITS, int G, int C>
__attribute__((noinline)) void AccumulateBytes(const IntAccumulateArgs& a, const RowScales& rows,
                                               const ByteRows& bytes, const SpanPlan& plan,
                                               int channel, LineFetcher& fetcher) {
  using T = Tile<BITS>;
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const std::byte* codes = a.page + shape.codes_at + channel / 16 * T::kBytes;
  const int half = channel / 8 % 2;
  const Table<BOOK_BITS> table(*shape.levels);
  const uint8_t* byte = bytes.byte[0];
  __m256i sum[G * C];
  PHASOR_UNROLL for (__m256i& s : sum) s = _mm256_setzero_si256();
  __asm__ volatile("" : : "r"(sum) : "memory");  // they stay in memory
  int t = 0;
  for (int s = 0; s < plan.n; ++s) {
    const int n = plan.span[s].n_tiles;
    if (plan.span[s].dense) {
      AddTiles<BITS, BOOK_BITS, G, C, true>(table, rows, codes, row_bytes, half, byte, t, n,
                                            fetcher, sum);
    } else {
      AddTiles<BITS, BOOK_BITS, G, C, false>(table, rows, codes, row_bytes, half, byte, t, n,
                                             fetcher, sum);
    }
    t += 4 * T::kSteps * n;
    codes += row_bytes * static_cast<std::size_t>(n);
  }
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    PHASOR_UNROLL for (int c = 0; c < C; ++c) {
      const int at = channel + 8 * c;
      AddSums(sum[i * C + c], bytes.step[i], shape.head_dim - at,
              a.out_GD + bytes.head[i] * shape.head_dim + at);
    }
  }
}

template <int BITS, int BOOK_BITS, int G = 1>
void AccumulateRows(const IntAccumulateArgs& a, const RowScales& rows, const ByteRows& bytes,
                    const SpanPlan& plan, int begin, int end, LineFetcher& fetcher) {
  if constexpr (G < kMaxHeads) {
    if (bytes.n > G) {
      return AccumulateRows<BITS, BOOK_BITS, G + 1>(a, rows, bytes, plan, begin, end, fetcher);
    }
  }
  int channel = begin;
  if constexpr (GroupsFor(G) == 2) {
    for (; channel + 8 < end; channel += 16) {
      AccumulateBytes<BITS, BOOK_BITS, G, 2>(a, rows, bytes, plan, channel, fetcher);
    }
  }
  for (; channel < end; channel += 8) {
    AccumulateBytes<BITS, BOOK_BITS, G, 1>(a, rows, bytes, plan, channel, fetcher);
  }
}

template <int BITS, int BOOK_BITS>
void AccumulateByteCodes(const IntAccumulateArgs& a) {
  const IntPageShape& shape = *a.shape;
  const int largest_level = LargestLevel(*shape.levels);
  RowScales rows;
  ByteRows bytes;
  SpanPlan plan;
  // A step a tile.
  const int n_channels = 8 * GroupsFor(std::min(a.g, kMaxHeads));
  LineFetcher fetcher(a.next, (shape.head_dim + n_channels - 1) / n_channels *
                                  (kPageTokens / (4 * Tile<BITS>::kSteps)) *
                                  ((a.g + kMaxHeads - 1) / kMaxHeads));
  for (int b = 0; b < shape.n_blocks; ++b) {
    const auto* scales = reinterpret_cast<const uint16_t*>(a.page) + b * kPageTokens;
    LoadScales<BOOK_BITS>(scales, &rows);
    const int begin = b * shape.block;
    const int end = b + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
    for (int head = 0; head < a.g; head += kMaxHeads) {
      const int last = std::min(a.g, head + kMaxHeads);
      if (a.n_tokens == kPageTokens) {  // nearly always: no masks
        RoundHeads(a, rows, scales, kPageTokens, head, last, &bytes);
      } else {
        RoundHeads(a, rows, scales, a.n_tokens, head, last, &bytes);
      }
      if (bytes.n == 0) continue;
      PlanSpans<Tile<BITS>::kSteps>(bytes, a.n_tokens, largest_level, &plan);
      AccumulateRows<BITS, BOOK_BITS>(a, rows, bytes, plan, begin, end, fetcher);
    }
  }
}

// ---- 8 bits ----

struct WordWeights {
  alignas(32) int16_t w[kMaxWordHeads][kPageTokens];
  float step[kMaxWordHeads];
};

// Returns whether any weight counts.
PHASOR_INLINE bool RoundToWords(const HeadWeights& head, const RowScales& rows, int i,
                                WordWeights* out) {
  const float top = LargestProduct(head, rows);
  out->step[i] = 0;
  if (!(top >= kSmallestWeight)) {
    __builtin_memset(out->w[i], 0, sizeof(out->w[i]));
    return false;
  }
  const __m256 inverse = _mm256_set1_ps(kWeightLevels / top);
  out->step[i] = top / kWeightLevels;
  for (int t = 0; t < kPageTokens; t += 16) {
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(LoadProducts(head, rows, t), inverse));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(LoadProducts(head, rows, t + 8), inverse));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out->w[i] + t),
                       _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8));
  }
  return true;
}

// Eight channels.
template <int G>
void AccumulateWords(const IntAccumulateArgs& a, const WordWeights& w, int head, int channel,
                     LineFetcher& fetcher) {
  using T = Tile<8>;
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const std::byte* codes =
      a.page + shape.codes_at + channel / 16 * T::kBytes + 32 * (channel / 8 % 2);
  __m256i acc[G][2];
  PHASOR_UNROLL for (int i = 0; i < G; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  for (int t = 0; t < a.n_tokens; codes += row_bytes) {
    fetcher.Step();
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
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    AddSums(SumPairs(acc[i][0], acc[i][1]), w.step[i], shape.head_dim - channel,
            a.out_GD + (head + i) * shape.head_dim + channel);
  }
}

template <int G>
void AccumulateWordHeads(const IntAccumulateArgs& a, const RowScales& rows, int block, int head,
                         LineFetcher& fetcher) {
  const IntPageShape& shape = *a.shape;
  WordWeights w;
  bool any = false;
  for (int i = 0; i < G; ++i) {
    const float* weight = a.weight_GT + (head + i) * kPageTokens;
    any |= a.n_tokens == kPageTokens ? RoundToWords({weight, nullptr, kPageTokens}, rows, i, &w)
                                     : RoundToWords({weight, nullptr, a.n_tokens}, rows, i, &w);
  }
  if (!any) return;
  const int begin = block * shape.block;
  const int end = block + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
  for (int channel = begin; channel < end; channel += 8)
    AccumulateWords<G>(a, w, head, channel, fetcher);
}

void AccumulateWordCodes(const IntAccumulateArgs& a) {
  RowScales rows;
  LineFetcher fetcher(a.next, (a.shape->head_dim + 7) / 8 * (kPageTokens / (4 * Tile<8>::kSteps)) *
                                  ((a.g + 3) / 4));
  for (int b = 0; b < a.shape->n_blocks; ++b) {
    LoadScales<0>(reinterpret_cast<const uint16_t*>(a.page) + b * kPageTokens, &rows);
    int head = 0;
    for (; head + 4 <= a.g; head += 4) AccumulateWordHeads<4>(a, rows, b, head, fetcher);
    if (a.g - head == 3) AccumulateWordHeads<3>(a, rows, b, head, fetcher);
    if (a.g - head == 2) AccumulateWordHeads<2>(a, rows, b, head, fetcher);
    if (a.g - head == 1) AccumulateWordHeads<1>(a, rows, b, head, fetcher);
  }
}

}  // namespace

void AccumulateIntAvx2(const IntAccumulateArgs& a) {
  const int book_bits = a.shape->levels->book_bits;
  if (a.shape->bits == 3) AccumulateByteCodes<3, 2>(a);
  if (a.shape->bits == 4 && book_bits == 0) AccumulateByteCodes<4, 0>(a);
  if (a.shape->bits == 4 && book_bits == 1) AccumulateByteCodes<4, 1>(a);
  if (a.shape->bits == 8) AccumulateWordCodes(a);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif
