// Loops over integer pages with NEON, for both levels (simd/neon-inl.h): tbl turns 16 codes into
// levels.
//
// Keys: signed byte products with the two bytes of 15-bit queries. Values of 3 and 4 bits: weights
// are unsigned bytes, so levels become unsigned as well: 64 is added to them and 64 times the sum
// of the weights taken off, where the sum starts. 8-bit values: with udot the same with 128 and the
// two bytes of a 15-bit weight; without it levels and weights of 16 bits, smlal.
#pragma once

#include <algorithm>
#include <cstring>

#include "kvcodec/int_neon-inl.h"

PHASOR_BEGIN_NEON
namespace phasor {
namespace {

// ---- Keys ----

// Book bits of 4 tokens, four times each.
template <int BITS, int BOOK_BITS>
PHASOR_INLINE uint8x16_t SelectBooks(const uint16_t* scale) {
  const uint32x4_t wide = vmovl_u16(vld1_u16(scale));
  const uint32x4_t book = vshlq_n_u32(vandq_u32(wide, vdupq_n_u32((1 << BOOK_BITS) - 1)), BITS);
  return vreinterpretq_u8_u32(vmulq_n_u32(book, 0x01010101u));
}

// 8 tokens (`half` of a row of lanes) for G queries from `head` on.
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
    const uint8x16_t book[2] = {SelectBooks<BITS, BOOK_BITS>(scale),
                                SelectBooks<BITS, BOOK_BITS>(scale + 4)};
    int32x4_t high[G][2], low[G][2];
    PHASOR_UNROLL for (int i = 0; i < 2 * G; ++i) {
      high[i / 2][i % 2] = low[i / 2][i % 2] = vdupq_n_s32(0);
    }
    const std::byte* codes = a.page + shape.codes_at + begin * row_bytes + lane * T::kBytes;
    const int8_t* q = a.q_bytes + 2 * (head * shape.n_inner + begin * shape.group);
    for (int row = begin; row < end; ++row, codes += row_bytes) {
      PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, q += 8) {
        int8x16_t level[2];
        PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
          const uint8x16_t code = half == 0 ? T::Codes(codes, s, v) : T::Codes(codes, s, v + 2);
          level[v] = BITS == 8 ? vreinterpretq_s8_u8(code)
                               : table.Lookup(BOOK_BITS == 0 ? code : vorrq_u8(code, book[v]));
        }
        PHASOR_UNROLL for (int i = 0; i < G; ++i) {
          const int8x16_t qh = Repeat4(q + 2 * i * shape.n_inner);
          const int8x16_t ql = Repeat4(q + 2 * i * shape.n_inner + 4);
          PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
            high[i][v] = AddByteProducts(high[i][v], level[v], qh);
            low[i][v] = AddByteProducts(low[i][v], level[v], ql);
          }
        }
        EndStep();
      }
    }
    PHASOR_UNROLL for (int i = 0; i < 2 * G; ++i) {
      const int h = head + i / 2, v = i % 2;
      float* score = a.score_GT + h * kPageTokens + 16 * lane + 8 * half + 4 * v;
      const float32x4_t f = vmulq_n_f32(LoadF16x4(scale + 4 * v), a.q_step[h]);
      const float32x4_t x = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(high[i / 2][v], 7), low[i / 2][v]));
      vst1q_f32(score, b == 0 ? vmulq_f32(x, f) : vfmaq_f32(vld1q_f32(score), x, f));
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

void ScoreNeon(const IntScoreArgs& a) {
  const int book_bits = a.shape->levels->book_bits;
  if (a.shape->bits == 3) ScoreBits<3, 2>(a);
  if (a.shape->bits == 4 && book_bits == 0) ScoreBits<4, 0>(a);
  if (a.shape->bits == 4 && book_bits == 1) ScoreBits<4, 1>(a);
  if (a.shape->bits == 8) ScoreBits<8, 0>(a);
}

// ---- Values ----

constexpr int kMaxHeads = 4;

// Rounded weights of up to kMaxHeads heads for one block of channels.
struct BlockWeights {
  BlockScales scales;
  alignas(16) float product[kMaxHeads][kPageTokens];  // weight times size, 0 beyond n_tokens
  // 3 and 4 bits: the weights in the first plane. 8 bits: low and high byte of a weight.
  alignas(16) uint8_t byte[kMaxHeads][2][kPageTokens];
  alignas(16) int16_t word[kMaxHeads][kPageTokens];  // 8 bits: the weights
  int32_t sum[kMaxHeads];                            // over the bytes; 8 bits: over the words
  float step[kMaxHeads];
  float largest[kMaxHeads];  // of the products
};

// Sets product[i] and largest[i].
void MultiplyWeights(const float* weight, int n_tokens, BlockWeights* w, int i) {
  float* product = w->product[i];
  int t = 0;
  float32x4_t largest[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
  for (; t + 8 <= n_tokens; t += 8) {
    PHASOR_UNROLL for (int j = 0; j < 2; ++j) {
      const float32x4_t p =
          vmulq_f32(vld1q_f32(weight + t + 4 * j), vld1q_f32(w->scales.size + t + 4 * j));
      vst1q_f32(product + t + 4 * j, p);
      largest[j] = vmaxq_f32(largest[j], p);
    }
  }
  float top = vmaxvq_f32(vmaxq_f32(largest[0], largest[1]));
  for (; t < n_tokens; ++t) {
    product[t] = weight[t] * w->scales.size[t];
    top = std::max(top, product[t]);
  }
  std::fill(product + n_tokens, product + kPageTokens, 0.0f);
  w->largest[i] = top;
}

// 16 numbers as bytes; larger ones than 255 count as 255, negative ones as 0.
PHASOR_INLINE uint8x16_t PackBytes(const int32x4_t q[4]) {
  const uint16x8_t low = vqmovun_high_s32(vqmovun_s32(q[0]), q[1]);
  const uint16x8_t high = vqmovun_high_s32(vqmovun_s32(q[2]), q[3]);
  return vqmovn_high_u16(vqmovn_u16(low), high);
}

// Weights of 8 bits.
void QuantizeBytes(const float* threshold, BlockWeights* w, int i) {
  const float inverse = kByteWeightLevels / w->largest[i];
  uint32_t sum = 0;
  for (int t = 0; t < kPageTokens; t += 16) {
    int32x4_t whole[4];
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) {
      const float32x4_t p = vld1q_f32(w->product[i] + t + 4 * j);
      whole[j] = vcvtq_s32_f32(vfmaq_n_f32(vld1q_f32(threshold + t + 4 * j), p, inverse));
    }
    const uint8x16_t bytes = PackBytes(whole);
    vst1q_u8(w->byte[i][0] + t, bytes);
    sum += vaddlvq_u8(bytes);
  }
  w->sum[i] = static_cast<int32_t>(sum);
}

// Weights of 15 bits. Scales of 8-bit codes are not negative.
void QuantizeWords(BlockWeights* w, int i) {
  const float inverse = kWeightLevels / w->largest[i];
  int32_t sum = 0;
  for (int t = 0; t < kPageTokens; t += 8) {
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(w->product[i] + t), inverse));
    const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(w->product[i] + t + 4), inverse));
    const int16x8_t size = vqmovn_high_s32(vqmovn_s32(a), b);
    vst1q_s16(w->word[i] + t, size);
    vst1_u8(w->byte[i][0] + t, vmovn_u16(vreinterpretq_u16_s16(size)));
    vst1_u8(w->byte[i][1] + t, vshrn_n_u16(vreinterpretq_u16_s16(size), 8));
    sum += vaddlvq_s16(size);
  }
  w->sum[i] = sum;
}

// Returns whether any weight counts.
template <int BITS>
bool QuantizeWeights(const float* threshold, BlockWeights* w, int i) {
  const float top = w->largest[i];
  w->step[i] = 0;
  if (!(top >= kSmallestWeight)) {
    std::memset(w->byte[i], 0, sizeof(w->byte[i]));
    std::memset(w->word[i], 0, sizeof(w->word[i]));
    w->sum[i] = 0;
    return false;
  }
  w->step[i] = top / (BITS == 8 ? kWeightLevels : kByteWeightLevels);
  if constexpr (BITS == 8) {
    QuantizeWords(w, i);
  } else {
    QuantizeBytes(threshold, w, i);
  }
  return true;
}

// out[l] += sum[l] * step for the channels that exist.
PHASOR_INLINE void AddSums(int32x4_t sum, float step, int n_channels, float* out) {
  const float32x4_t x = vcvtq_f32_s32(sum);
  if (n_channels >= 4) {
    vst1q_f32(out, vfmaq_n_f32(vld1q_f32(out), x, step));
    return;
  }
  float lane[4];
  vst1q_f32(lane, x);
  for (int l = 0; l < n_channels; ++l) out[l] = __builtin_fmaf(lane[l], step, out[l]);
}

// Sixteen channels, 3 or 4 bits.
template <int BITS, int BOOK_BITS, int G>
void AccumulateBytes(const IntAccumulateArgs& a, const BlockWeights& w, int head, int lane) {
  using T = Tile<BITS>;
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const std::byte* codes = a.page + shape.codes_at + lane * T::kBytes;
  const Table<BOOK_BITS> table(*shape.levels);
  uint32x4_t acc[4][G];
  PHASOR_UNROLL for (int i = 0; i < 4 * G; ++i) {
    acc[i / G][i % G] = vdupq_n_u32(static_cast<uint32_t>(-64 * w.sum[i % G]));
  }
  for (int t = 0; t < a.n_tokens; codes += row_bytes) {
    PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, t += 4) {
      const uint8x16_t book = Repeat4Unsigned(w.scales.book + t);
      const int8x16_t sign = Repeat4(w.scales.sign + t);
      uint8x16_t level[4];
      PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
        const uint8x16_t code = T::Codes(codes, s, v);
        const int8x16_t plain = table.Lookup(BOOK_BITS == 0 ? code : vorrq_u8(code, book));
        level[v] = vreinterpretq_u8_s8(vmlaq_s8(vdupq_n_s8(64), plain, sign));
      }
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const uint8x16_t wi = Repeat4Unsigned(w.byte[i][0] + t);
        PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
          acc[v][i] = AddByteProducts(acc[v][i], level[v], wi);
        }
      }
      EndStep();
    }
  }
  PHASOR_UNROLL for (int i = 0; i < 4 * G; ++i) {
    const int h = i % G, v = i / G, channel = 16 * lane + 4 * v;
    AddSums(vreinterpretq_s32_u32(acc[v][h]), w.step[h], shape.head_dim - channel,
            a.out_GD + (head + h) * shape.head_dim + channel);
  }
}

#if PHASOR_NEON_DOT
// Eight channels, 8 bits: codes + 128 and the two bytes of the weights.
constexpr int kWordVectors = 2;
template <int G>
PHASOR_INLINE void SumWords(const std::byte* codes, std::size_t row_bytes, int n_tokens,
                            const BlockWeights& w, int32x4_t (&sum)[kWordVectors][G]) {
  uint32x4_t low[2][G], high[2][G];
  PHASOR_UNROLL for (int i = 0; i < 2 * G; ++i) {
    low[i / G][i % G] = vdupq_n_u32(static_cast<uint32_t>(-128 * w.sum[i % G]));
    high[i / G][i % G] = vdupq_n_u32(0);
  }
  for (int t = 0; t < n_tokens; codes += row_bytes) {
    PHASOR_UNROLL for (int s = 0; s < 2; ++s, t += 4) {
      uint8x16_t level[2];
      PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
        level[v] = veorq_u8(LoadBytes(codes + 64 * s + 16 * v), vdupq_n_u8(128));
      }
      PHASOR_UNROLL for (int i = 0; i < 2 * G; ++i) {
        const int v = i / G, h = i % G;
        low[v][h] = AddByteProducts(low[v][h], level[v], Repeat4Unsigned(w.byte[h][0] + t));
        high[v][h] = AddByteProducts(high[v][h], level[v], Repeat4Unsigned(w.byte[h][1] + t));
      }
    }
  }
  PHASOR_UNROLL for (int i = 0; i < 2 * G; ++i) {
    const int v = i / G, h = i % G;
    sum[v][h] = vreinterpretq_s32_u32(vaddq_u32(low[v][h], vshlq_n_u32(high[v][h], 8)));
  }
}
#else
// Four channels, 8 bits: codes and weights of 16 bits, a sum for every channel and token of four.
constexpr int kWordVectors = 1;
template <int G>
PHASOR_INLINE void SumWords(const std::byte* codes, std::size_t row_bytes, int n_tokens,
                            const BlockWeights& w, int32x4_t (&sum)[kWordVectors][G]) {
  int32x4_t acc[G][4];
  PHASOR_UNROLL for (int i = 0; i < 4 * G; ++i) acc[i / 4][i % 4] = vdupq_n_s32(0);
  for (int t = 0; t < n_tokens; codes += row_bytes) {
    PHASOR_UNROLL for (int s = 0; s < 2; ++s, t += 4) {
      const int8x16_t code = vreinterpretq_s8_u8(LoadBytes(codes + 64 * s));
      const int16x8_t low = vmovl_s8(vget_low_s8(code)), high = vmovl_high_s8(code);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const int16x4_t four = vld1_s16(w.word[i] + t);
        acc[i][0] = vmlal_s16(acc[i][0], vget_low_s16(low), four);
        acc[i][1] = vmlal_s16(acc[i][1], vget_high_s16(low), four);
        acc[i][2] = vmlal_s16(acc[i][2], vget_low_s16(high), four);
        acc[i][3] = vmlal_s16(acc[i][3], vget_high_s16(high), four);
      }
    }
  }
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    sum[0][i] = vpaddq_s32(vpaddq_s32(acc[i][0], acc[i][1]), vpaddq_s32(acc[i][2], acc[i][3]));
  }
}
#endif

// Sixteen channels, 8 bits.
template <int G>
void AccumulateWords(const IntAccumulateArgs& a, const BlockWeights& w, int head, int lane) {
  const IntPageShape& shape = *a.shape;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * Tile<8>::kBytes;
  const std::byte* codes = a.page + shape.codes_at + lane * Tile<8>::kBytes;
  for (int first = 0; first < 4; first += kWordVectors) {
    int32x4_t sum[kWordVectors][G];
    SumWords(codes + 16 * first, row_bytes, a.n_tokens, w, sum);
    PHASOR_UNROLL for (int i = 0; i < kWordVectors * G; ++i) {
      const int h = i % G, channel = 16 * lane + 4 * (first + i / G);
      AddSums(sum[i / G][h], w.step[h], shape.head_dim - channel,
              a.out_GD + (head + h) * shape.head_dim + channel);
    }
  }
}

template <int BITS, int BOOK_BITS, int G>
void AccumulateHeads(const IntAccumulateArgs& a, BlockWeights* w, int block, int head) {
  const IntPageShape& shape = *a.shape;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page) + block * kPageTokens;
  bool any = false;
  for (int i = 0; i < G; ++i) {
    MultiplyWeights(a.weight_GT + (head + i) * kPageTokens, a.n_tokens, w, i);
    any |= QuantizeWeights<BITS>(Thresholds(scales, head + i), w, i);
  }
  if (!any) return;
  const int begin = block * shape.block;
  const int end = block + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
  for (int channel = begin; channel < end; channel += 16) {
    if constexpr (BITS == 8) {
      AccumulateWords<G>(a, *w, head, channel / 16);
    } else {
      AccumulateBytes<BITS, BOOK_BITS, G>(a, *w, head, channel / 16);
    }
  }
}

template <int BITS, int BOOK_BITS>
void AccumulateBits(const IntAccumulateArgs& a) {
  BlockWeights w = {};
  for (int b = 0; b < a.shape->n_blocks; ++b) {
    const auto* scales = reinterpret_cast<const uint16_t*>(a.page) + b * kPageTokens;
    LoadScales<BITS, BOOK_BITS>(scales, &w.scales);
    int head = 0;
    for (; head + 4 <= a.g; head += 4) AccumulateHeads<BITS, BOOK_BITS, 4>(a, &w, b, head);
    if (a.g - head == 3) AccumulateHeads<BITS, BOOK_BITS, 3>(a, &w, b, head);
    if (a.g - head == 2) AccumulateHeads<BITS, BOOK_BITS, 2>(a, &w, b, head);
    if (a.g - head == 1) AccumulateHeads<BITS, BOOK_BITS, 1>(a, &w, b, head);
  }
}

void AccumulateNeon(const IntAccumulateArgs& a) {
  const int book_bits = a.shape->levels->book_bits;
  if (a.shape->bits == 3) AccumulateBits<3, 2>(a);
  if (a.shape->bits == 4 && book_bits == 0) AccumulateBits<4, 0>(a);
  if (a.shape->bits == 4 && book_bits == 1) AccumulateBits<4, 1>(a);
  if (a.shape->bits == 8) AccumulateBits<8, 0>(a);
}

}  // namespace
}  // namespace phasor
PHASOR_END_NEON
