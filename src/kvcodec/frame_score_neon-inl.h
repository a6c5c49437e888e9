// Scores of frame codecs with NEON, for both levels (simd/neon-inl.h): codes become bytes by shifts
// and masks and meet the 8-bit query in sdot, 4 tokens times 4 channels at a time. A code has at
// most 7 bits and so is a signed byte as it is. As in frame_kernels_avx2.cc, the second pass is for
// the heads and for the widest channels that need it. The queries are in the order of FrameWord:
// narrowing two halves of 16-bit numbers leaves FrameDword here too.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/frame_neon-inl.h"
#include "simd/line_fetcher.h"

namespace phasor {
namespace {

// Where the queries of a quad are among 64.
constexpr auto kQuadByte = [] {
  std::array<int32_t, 16> at = {};
  for (int q = 0; q < 16; ++q) at[static_cast<std::size_t>(q)] = 4 * FrameDword(q);
  return at;
}();

// How many of the widest quads need sixteenths for the rest to have at most `power` of the layout's
// code_power.
int FineQuads(const FrameLayout& layout, float power) {
  int n_quads = layout.n_quads - layout.quads_of_bits[0];
  for (int bits = 1; bits <= kMaxFrameBits; ++bits) {
    const int n = layout.quads_of_bits[bits];
    const float spread = static_cast<float>(1 << bits) / 4.5f, each = 4 * spread * spread;
    if (each * static_cast<float>(n) > power) return n_quads - static_cast<int>(power / each);
    power -= each * static_cast<float>(n);
    n_quads -= n;
  }
  return n_quads;
}

// Per thread: the 8-bit query of the page at hand, and what its integer sums are turned back with.
struct PageQuery {
  AlignedBuffer<int8_t> q8, q8_fine;  // q8_fine: sixteenths of a step
  AlignedBuffer<float> scale, middle, factor, unit, unit_fine;
  AlignedBuffer<int32_t> at_Q;
  std::vector<float*> score, score_fine;
  AlignedBuffer<uint8_t> middle_fine;  // middle_bytes_S of the quads with sixteenths
  AlignedBuffer<float> power;          // per head: code_power that 8 bits can do with
};

struct ScoreJob {
  const FrameLayout& layout;
  int n_quads;  // the first ones count, the others do not
  const std::byte* codes;
  const int8_t* q8;     // [n_padded / 64][g][kFrames][64]
  const int32_t* at_Q;  // where in a head's part of q8 a quad begins
  // Per head that q8 holds: what one step of the integer sum is worth, and the scores it is added
  // to [128].
  const float* unit;
  float* const* score;
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_NEON
namespace phasor {
namespace {

// acc[tile][quarter][head] += codes times query of one quad; tiles kFirst, kFirst + 1, ...
template <int kBits, int kFirst, int kTiles, int kG, int kTile = 0>
PHASOR_INLINE void AddTiles(int32x4_t (&acc)[kTiles][4][kG], const std::byte* quad,
                            const int8_t* q8) {
  if constexpr (kTile < kTiles) {
    int8x16_t code[4];
    PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
      code[v] = vreinterpretq_s8_u8(TileCodes<kBits, kFirst + kTile>(quad + 16 * v));
    }
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const int8x16_t q = Repeat4(q8 + 64 * (h * kFrames + FrameOf(kFirst + kTile)));
      PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
        acc[kTile][v][h] = AddByteProducts(acc[kTile][v][h], code[v], q);
      }
    }
    EndStep();
    AddTiles<kBits, kFirst, kTiles, kG, kTile + 1>(acc, quad, q8);
  }
}

// The quads of one width, as many of them as are left.
template <int kBits, int kFirst, int kTiles, int kG>
PHASOR_INLINE void AddQuads(int32x4_t (&acc)[kTiles][4][kG], const ScoreJob& job, int* left,
                            const std::byte** code, const int32_t** at, const int8_t* q8) {
  const int n = std::min(job.layout.quads_of_bits[kBits], *left);
  *left -= n;
  for (const int32_t* const end = *at + n; *at != end; ++*at, *code += 64 * kBits) {
    AddTiles<kBits, kFirst, kTiles, kG>(acc, *code, q8 + **at);
  }
}

// Heads [head, head + kG) of tiles kFirst and on. Sums of 1024 channels stay below 2^24.
template <int kFirst, int kTiles, int kG>
void ScoreTiles(const ScoreJob& job, int head) {
  int32x4_t acc[kTiles][4][kG];
  PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
    PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
      PHASOR_UNROLL for (int h = 0; h < kG; ++h) acc[i][v][h] = vdupq_n_s32(0);
    }
  }
  const std::byte* code = job.codes;
  const int32_t* at = job.at_Q;
  const int8_t* q8 = job.q8 + head * kFrames * 64;
  int left = job.n_quads;
  AddQuads<7, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  AddQuads<6, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  AddQuads<5, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  AddQuads<4, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  AddQuads<3, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  AddQuads<2, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  AddQuads<1, kFirst, kTiles, kG>(acc, job, &left, &code, &at, q8);
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    const float32x4_t unit = vdupq_n_f32(job.unit[head + h]);
    float* score = job.score[head + h] + kFirst * kFrameTile;
    PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
      PHASOR_UNROLL for (int v = 0; v < 4; ++v, score += 4) {
        vst1q_f32(score, vfmaq_f32(vld1q_f32(score), vcvtq_f32_s32(acc[i][v][h]), unit));
      }
    }
  }
}

// As many tiles at a time as leave sums and codes in registers.
template <int kG, int kFirst = 0>
void ScoreHeads(const ScoreJob& job, int head) {
  constexpr int kTiles = kG == 1 ? 2 : 1;
  if constexpr (kFirst < kFrameTiles) {
    ScoreTiles<kFirst, kTiles, kG>(job, head);
    ScoreHeads<kG, kFirst + kTiles>(job, head);
  }
}

void ScorePass(const ScoreJob& job, int g) {
  int head = 0;
  for (; g - head > 5; head += 4) ScoreHeads<4>(job, head);
  switch (g - head) {
    case 5:
      ScoreHeads<3>(job, head);
      return ScoreHeads<2>(job, head + 3);
    case 4:
      return ScoreHeads<4>(job, head);
    case 3:
      return ScoreHeads<3>(job, head);
    case 2:
      return ScoreHeads<2>(job, head);
    default:
      return ScoreHeads<1>(job, head);
  }
}

// Unit of a head and its inverse: what the largest product of query and scale becomes 126.9 =
// 2047 * 2032 / 2^15 by; and the code_power up to which 8 bits are enough.
void FindUnit(const FrameLayout& layout, const float* largest, int g, int head, PageQuery* out) {
  float32x4_t most[2] = {vdupq_n_f32(0), vdupq_n_f32(0)}, power[2] = {most[0], most[0]};
  for (int s = 0; s < layout.n_padded; s += 64) {
    const float* at = largest + FrameQueryRow(s, g, head, 0) / kFrames;
    PHASOR_UNROLL for (int v = 0; v < 16; ++v) {
      const float32x4_t product =
          vmulq_f32(vld1q_f32(at + 4 * v), vld1q_f32(out->scale.data() + s + 4 * v));
      most[v % 2] = vmaxq_f32(most[v % 2], product);
      power[v % 2] = vfmaq_f32(power[v % 2], product, product);
    }
  }
  const float bound = vmaxvq_f32(vmaxq_f32(most[0], most[1]));
  const bool usable = bound > 1e-30f && bound < 1e30f;
  const float unit = usable ? bound * (32768.0f / (2047.0f * 2032.0f)) : 0.0f;
  out->factor[static_cast<std::size_t>(head)] = usable ? 2032.0f / bound : 0.0f;
  out->unit[static_cast<std::size_t>(head)] = unit;
  // unit^2 / 12 code_power against sum (q scale)^2 / 12; a turning q is half its bound squared.
  const float sum = vaddvq_f32(vaddq_f32(power[0], power[1]));
  out->power[static_cast<std::size_t>(head)] =
      unit > 0 ? sum * kFrameQueryError / (unit * unit) : INFINITY;
}

// 64 queries times the middles of their codes, in 4 sums.
PHASOR_INLINE float32x4_t CodesBelow(const uint8_t* middle_codes, const int8x16_t q[4]) {
  int32x4_t sum = vdupq_n_s32(0);
  PHASOR_UNROLL for (int p = 0; p < 4; ++p) {
    sum = AddByteProducts(sum, vreinterpretq_s8_u8(vld1q_u8(middle_codes + 16 * p)), q[p]);
  }
  return vcvtq_f32_s32(sum);
}

// 16 scales of 64 slots times their largest queries times factor, at p the quads p, p + 4, p + 8
// and p + 12 as FrameDword has them: the 16-bit numbers that FoldFrame multiplies with.
PHASOR_INLINE void FoldScales(const float* largest, const float* scale, float32x4_t factor,
                              int16x8_t m[8]) {
  int16x4_t quad[16];
  PHASOR_UNROLL for (int v = 0; v < 16; ++v) {
    const float32x4_t x = vmulq_f32(vld1q_f32(largest + 4 * v), vld1q_f32(scale + 4 * v));
    quad[v] = vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(x, factor)));
  }
  PHASOR_UNROLL for (int p = 0; p < 4; ++p) {
    m[p] = vcombine_s16(quad[p], quad[p + 4]);
    m[p + 4] = vcombine_s16(quad[p + 8], quad[p + 12]);
  }
}

// 64 queries of one frame to bytes; kFine: and to sixteenths. Returns what the codes' middles times
// these come to.
template <bool kFine>
PHASOR_INLINE float32x4_t FoldFrame(const int16_t* normalized, const int16x8_t m[8],
                                    const uint8_t* middle_codes, const uint8_t* middle_fine,
                                    int8_t* q8, int8_t* q8_fine) {
  int16x8_t q[8], rest[8];
  PHASOR_UNROLL for (int v = 0; v < 8; ++v) {
    q[v] = vqrdmulhq_s16(vld1q_s16(normalized + 8 * v), m[v]);
    if constexpr (kFine) {
      const int16x8_t whole = vrshrq_n_s16(q[v], 4);
      rest[v] = vsubq_s16(q[v], vshlq_n_s16(whole, 4));
      q[v] = whole;
    }
  }
  int8x16_t coarse[4], fine[4];
  PHASOR_UNROLL for (int p = 0; p < 4; ++p) {
    coarse[p] = vqmovn_high_s16(vqmovn_s16(q[p]), q[p + 4]);
    vst1q_s8(q8 + 16 * p, coarse[p]);
    if constexpr (kFine) {
      fine[p] = vqmovn_high_s16(vqmovn_s16(rest[p]), rest[p + 4]);
      vst1q_s8(q8_fine + 16 * p, fine[p]);
    }
  }
  const float32x4_t below = CodesBelow(middle_codes, coarse);
  if constexpr (!kFine) return below;
  return vfmaq_n_f32(below, CodesBelow(middle_fine, fine), 0.0625f);
}

// One head: query times scales to bytes; its scores become what the channels' middles contribute.
// kFine: with the sixteenths, which go to place fine_at.
template <bool kFine>
void FoldHead(const FrameLayout& layout, const FrameQuery& query, int g, int h, int fine_at,
              PageQuery* out, float* score_T) {
  const std::size_t head = static_cast<std::size_t>(h);
  const float32x4_t factor = vdupq_n_f32(kFine ? 16 * out->factor[head] : out->factor[head]);
  const float32x4_t unit = vdupq_n_f32(out->unit[head]);
  float32x4_t partial[kFrames];
  for (int s = 0; s < layout.n_padded; s += 64) {
    const std::ptrdiff_t row = FrameQueryRow(s, g, h, 0);
    int16x8_t m[8];
    FoldScales(query.largest + row / kFrames, out->scale.data() + s, factor, m);
    const uint8_t* middle_codes = layout.middle_bytes_S.data() + s;
    const uint8_t* middle_fine = kFine ? out->middle_fine.data() + s : nullptr;
    int8_t* q8_fine = kFine ? out->q8_fine.data() + FrameQueryRow(s, g, fine_at, 0) : nullptr;
    for (int i = 0; i < kFrames; ++i) {
      const float32x4_t codes_below =
          FoldFrame<kFine>(query.normalized + row + 64 * i, m, middle_codes, middle_fine,
                           out->q8.data() + row + 64 * i, kFine ? q8_fine + 64 * i : nullptr);
      const float* turned = query.turned + row + 64 * i;
      const float* middle = out->middle.data() + s;
      float32x4_t sum[4];
      PHASOR_UNROLL for (int v = 0; v < 16; ++v) {
        const float32x4_t t = vld1q_f32(turned + 4 * v), a = vld1q_f32(middle + 4 * v);
        sum[v % 4] = v < 4 ? vmulq_f32(t, a) : vfmaq_f32(sum[v % 4], t, a);
      }
      const float32x4_t all = vfmsq_f32(
          vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3])), codes_below, unit);
      partial[i] = s == 0 ? all : vaddq_f32(partial[i], all);
    }
  }
  for (int i = 0; i < kFrames; ++i) {
    const float32x4_t sum = vdupq_n_f32(vaddvq_f32(partial[i]));
    for (int t = 0; t < kFrameTokens; t += 4) vst1q_f32(score_T + kFrameTokens * i + t, sum);
  }
}

// The grids of a page by slot, 0 in the padding.
void LoadGrids(const FrameLayout& layout, const std::byte* page, PageQuery* out) {
  const int n_slots = 4 * layout.n_quads;
  for (int s = 0; s < n_slots; s += 4) {
    const float32x4_t scale = LoadF16x4(page + 2 * s), low = LoadF16x4(page + 2 * (n_slots + s));
    vst1q_f32(out->scale.data() + s, scale);
    vst1q_f32(out->middle.data() + s, vfmaq_f32(low, scale, vld1q_f32(layout.middle_S.data() + s)));
  }
  std::fill(out->scale.data() + n_slots, out->scale.data() + layout.n_padded, 0.0f);
  std::fill(out->middle.data() + n_slots, out->middle.data() + layout.n_padded, 0.0f);
}

// Sizes of what a page's query needs, and where quads begin in it.
void ResizePageQuery(const FrameLayout& layout, int g, PageQuery* out) {
  const std::size_t n = static_cast<std::size_t>(layout.n_padded);
  const std::size_t heads = static_cast<std::size_t>(g);
  for (auto* buffer : {&out->scale, &out->middle}) buffer->Resize(n);
  for (auto* buffer : {&out->unit, &out->factor, &out->unit_fine, &out->power}) {
    buffer->Resize(heads);
  }
  out->q8.Resize(heads * kFrames * n);
  out->at_Q.Resize(n / 4);
  for (int q = 0; q < layout.n_padded / 4; ++q) {
    out->at_Q[static_cast<std::size_t>(q)] =
        q / 16 * g * kFrames * 64 + kQuadByte[static_cast<std::size_t>(q % 16)];
  }
}

void ScorePageNeon(const FrameLayout& layout, const FrameQuery& query, int g, const std::byte* page,
                   float* score_GT, Upcoming next) {
  LineFetcher fetcher(next, g);
  static thread_local PageQuery scratch;
  ResizePageQuery(layout, g, &scratch);
  LoadGrids(layout, page, &scratch);
  float least = INFINITY;
  for (int h = 0; h < g; ++h) {
    FindUnit(layout, query.largest, g, h, &scratch);
    least = std::min(least, scratch.power[static_cast<std::size_t>(h)]);
  }
  // Half as much error where there are sixteenths anyway.
  const int n_fine = least < layout.code_power ? FineQuads(layout, 0.5f * least) : 0;
  if (n_fine > 0) {
    const std::size_t n = static_cast<std::size_t>(layout.n_padded);
    scratch.q8_fine.Resize(scratch.q8.size());
    scratch.middle_fine.Resize(n);
    std::memcpy(scratch.middle_fine.data(), layout.middle_bytes_S.data(), n);
    for (int q = n_fine; q < layout.n_quads; ++q) {
      std::memset(scratch.middle_fine.data() + q / 16 * 64 + 4 * FrameDword(q), 0, 4);
    }
  }
  scratch.score.clear();
  scratch.score_fine.clear();
  for (int h = 0; h < g; ++h) {
    const std::size_t head = static_cast<std::size_t>(h), at = scratch.score_fine.size();
    float* score_T = score_GT + h * kPageTokens;
    fetcher.Step();
    scratch.score.push_back(score_T);
    if (n_fine > 0 && scratch.power[head] < layout.code_power) {
      scratch.unit_fine[at] = 0.0625f * scratch.unit[head];
      scratch.score_fine.push_back(score_T);
      FoldHead<true>(layout, query, g, h, static_cast<int>(at), &scratch, score_T);
    } else {
      FoldHead<false>(layout, query, g, h, 0, &scratch, score_T);
    }
  }
  const std::byte* codes = page + layout.first_code;
  ScorePass({layout, layout.n_quads, codes, scratch.q8.data(), scratch.at_Q.data(),
             scratch.unit.data(), scratch.score.data()},
            g);
  if (scratch.score_fine.empty()) return;
  ScorePass({layout, n_fine, codes, scratch.q8_fine.data(), scratch.at_Q.data(),
             scratch.unit_fine.data(), scratch.score_fine.data()},
            static_cast<int>(scratch.score_fine.size()));
}

void ScoreNeon(const FrameLayout& layout, const FrameQuery& query, int g,
               std::span<const PageToScore> pages) {
  for (const PageToScore& p : pages) {
    ScorePageNeon(layout, query, g, p.page, p.score_GT, p.next);
  }
}

// The 64 queries of one frame from slot s on, and the same rounded to 2047 steps.
PHASOR_INLINE void PrepareFrame(const float* cosine, const float* sine, const float* x,
                                const float* y, const float* inverse, float* turned,
                                int16_t* normalized) {
  int16x4_t quad[16];
  PHASOR_UNROLL for (int v = 0; v < 16; ++v) {
    const float32x4_t value = vfmaq_f32(vmulq_f32(vld1q_f32(sine + 4 * v), vld1q_f32(y + 4 * v)),
                                        vld1q_f32(cosine + 4 * v), vld1q_f32(x + 4 * v));
    vst1q_f32(turned + 4 * v, value);
    quad[v] =
        vqmovn_s32(vcvtnq_s32_f32(Clamp(vmulq_f32(value, vld1q_f32(inverse + 4 * v)), 2047.0f)));
  }
  PHASOR_UNROLL for (int v = 0; v < 8; ++v) {
    const int from = v / 4 * 8 + v % 4;
    vst1q_s16(normalized + 8 * v, vcombine_s16(quad[from], quad[from + 4]));
  }
}

void PrepareNeon(const FrameLayout& layout, const float* q_GD, int g, const FrameQuery& query) {
  const int n = layout.n_padded, n_slots = 4 * layout.n_quads;
  static thread_local AlignedBuffer<float> scratch;
  scratch.Resize(static_cast<std::size_t>(3 * n));
  float* x = scratch.data();
  float* y = x + n;
  float* inverse = y + n;
  for (int h = 0; h < g; ++h) {
    const float* q = q_GD + static_cast<std::ptrdiff_t>(h) * layout.head_dim;
    for (int s = 0; s < n_slots; ++s) {
      const int a = layout.channel_S[s], b = layout.partner_S[s];
      x[s] = a < 0 ? 0.0f : q[a];
      y[s] = b == a ? 0.0f : q[b];
    }
    std::fill(x + n_slots, x + n, 0.0f);
    std::fill(y + n_slots, y + n, 0.0f);
    for (int s = 0; s < n; s += 4) {
      const float32x4_t a = vld1q_f32(x + s), b = vld1q_f32(y + s);
      const float32x4_t length = vsqrtq_f32(vfmaq_f32(vmulq_f32(b, b), a, a));
      const uint32x4_t some = vcgtq_f32(length, vdupq_n_f32(0.0f));
      vst1q_f32(query.largest + FrameQueryRow(s, g, h, 0) / kFrames + s % 64, length);
      vst1q_f32(inverse + s,
                vbslq_f32(some, vdivq_f32(vdupq_n_f32(2047.0f), length), vdupq_n_f32(0.0f)));
    }
    for (int i = 0; i < kFrames; ++i) {
      const float* cosine = layout.cos_IS.data() + static_cast<std::ptrdiff_t>(i) * n;
      const float* sine = layout.sin_IS.data() + static_cast<std::ptrdiff_t>(i) * n;
      for (int s = 0; s < n; s += 64) {
        const std::ptrdiff_t row = FrameQueryRow(s, g, h, i);
        PrepareFrame(cosine + s, sine + s, x + s, y + s, inverse + s, query.turned + row,
                     query.normalized + row);
      }
    }
  }
}

}  // namespace
}  // namespace phasor
PHASOR_END_NEON
