// Frame codecs with AVX2: codes become bytes by shifts and masks and meet the 8-bit query in
// vpmaddubsw, 8 tokens times 4 channels at a time. Sums of pairs stay in 16 bits for as many quads
// as cannot overflow (at 4 bits eight) and are added to the scores then. Where 8-bit queries are
// too coarse the second pass is for the heads and for the widest channels that need it: rounding
// errors are multiplied by codes, so narrow channels add little. The queries are in the order of
// FrameWord: packing 16-bit numbers in lanes of 128 bits leaves FrameDword here too.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/polar_grid.h"  // kPolarInfinity
#include "simd/target.h"

// GCC 12 takes the deliberately undefined register inside its own intrinsics for a mistake
// (gcc.gnu.org bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__clang__)
#define PHASOR_UNROLL _Pragma("unroll")
#else
#define PHASOR_UNROLL _Pragma("GCC unroll 16")
#endif

namespace phasor {
namespace {

constexpr int kRowFloats = kPageTokens;
constexpr int kCoarseLimit = 127;  // of an 8-bit query
constexpr int kFineLimit = 8;      // of the sixteenths of its steps

// [D][128] floats: one page with tokens in lanes.
float* TileScratch(int head_dim) {
  static thread_local AlignedBuffer<float> tile;
  tile.Resize(static_cast<std::size_t>((head_dim + 7) / 8 * 8) * kRowFloats);
  return tile.data();
}

// Where the queries of a quad are among 64.
constexpr auto kQuadByte = [] {
  std::array<int32_t, 16> at = {};
  for (int q = 0; q < 16; ++q) at[static_cast<std::size_t>(q)] = 4 * FrameDword(q);
  return at;
}();

// Neighbouring quads of one width, and whether the 16-bit sums must leave for the scores behind
// them.
struct Step {
  int bits, n_quads;
  bool flush;
};

// The first n_quads, as far as they have codes, for queries of up to `limit`.
void PlanSteps(const FrameLayout& layout, int n_quads, int limit, std::vector<Step>* steps) {
  constexpr int kRoom = 32767;
  steps->clear();
  int room = kRoom;
  for (int bits = kMaxFrameBits; bits > 0; --bits) {
    const int cost = 2 * limit * ((1 << bits) - 1);
    int left = std::min(layout.quads_of_bits[bits], n_quads);
    n_quads -= left;
    while (left > 0) {
      const int n = std::min(left, room / cost);
      if (n == 0) {
        steps->back().flush = true;
        room = kRoom;
        continue;
      }
      steps->push_back({bits, n, false});
      room -= n * cost;
      left -= n;
    }
  }
  if (!steps->empty()) steps->back().flush = true;
}

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

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

#define PHASOR_INLINE inline __attribute__((always_inline))

PHASOR_INLINE __m256 Set(float x) { return _mm256_set1_ps(x); }
PHASOR_INLINE __m256i LoadBytes(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
PHASOR_INLINE void StoreBytes(void* at, __m256i x) {
  _mm256_storeu_si256(static_cast<__m256i*>(at), x);
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
PHASOR_INLINE __m256 Clamp(__m256 x, float limit) {
  return _mm256_max_ps(_mm256_min_ps(x, Set(limit)), Set(-limit));
}

// Moves bits up by kBy, or down by -kBy, in words of 16 bits: callers mask what is not theirs.
template <int kBy>
PHASOR_INLINE __m256i Shift(__m256i x) {
  if constexpr (kBy > 0) return _mm256_slli_epi16(x, kBy);
  if constexpr (kBy < 0) return _mm256_srli_epi16(x, -kBy);
  return x;
}

// Codes of tokens 8 kHalf .. 8 kHalf + 7 of one tile of a quad: byte 4 t + k is token t, slot k.
template <int kBits, int kTile, int kHalf>
PHASOR_INLINE __m256i TileCodes(const std::byte* quad) {
  constexpr bool k4 = (kBits & 4) != 0, k2 = (kBits & 2) != 0, k1 = (kBits & 1) != 0;
  constexpr int at2 = k4 ? 4 : 0, at1 = at2 + (k2 ? 2 : 0);
  const std::byte* part4 = quad + 32 * kHalf;
  const std::byte* part2 = part4 + (k4 ? 256 : 0);
  const std::byte* part1 = part2 + (k2 ? 128 : 0);
  __m256i code = _mm256_setzero_si256();
  if constexpr (k4) {
    code = _mm256_and_si256(Shift<-4 * (kTile % 2)>(LoadBytes(part4 + 64 * (kTile / 2))),
                            _mm256_set1_epi8(15));
  }
  if constexpr (k2) {
    const __m256i part =
        _mm256_and_si256(Shift<at2 - 2 * (kTile % 4)>(LoadBytes(part2 + 64 * (kTile / 4))),
                         _mm256_set1_epi8(3 << at2));
    code = k4 ? _mm256_or_si256(code, part) : part;
  }
  if constexpr (k1) {
    const __m256i part =
        _mm256_and_si256(Shift<at1 - kTile>(LoadBytes(part1)), _mm256_set1_epi8(1 << at1));
    code = k4 || k2 ? _mm256_or_si256(code, part) : part;
  }
  return code;
}

// acc[tile][half][head] += codes times query of one quad; tiles kFirst, kFirst + 1, ...
template <int kBits, int kFirst, int kTiles, int kG, int kTile = 0>
PHASOR_INLINE void AddTiles(__m256i (&acc)[kTiles][2][kG], const std::byte* quad,
                            const int8_t* q8) {
  if constexpr (kTile < kTiles) {
    const __m256i code0 = TileCodes<kBits, kFirst + kTile, 0>(quad);
    const __m256i code1 = TileCodes<kBits, kFirst + kTile, 1>(quad);
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      int32_t four;
      std::memcpy(&four, q8 + 64 * (h * kFrameTiles + kFirst + kTile), 4);
      const __m256i q = _mm256_set1_epi32(four);
      acc[kTile][0][h] = _mm256_add_epi16(acc[kTile][0][h], _mm256_maddubs_epi16(code0, q));
      acc[kTile][1][h] = _mm256_add_epi16(acc[kTile][1][h], _mm256_maddubs_epi16(code1, q));
    }
    AddTiles<kBits, kFirst, kTiles, kG, kTile + 1>(acc, quad, q8);
  }
}

// n quads of one width.
template <int kBits, int kFirst, int kTiles, int kG>
PHASOR_INLINE void AddQuads(__m256i (&acc)[kTiles][2][kG], const std::byte*& code,
                            const int32_t*& at, int n, const int8_t* q8) {
  for (const int32_t* const end = at + n; at != end; ++at, code += 64 * kBits) {
    AddTiles<kBits, kFirst, kTiles, kG>(acc, code, q8 + *at);
  }
}

struct ScoreJob {
  const std::vector<Step>& steps;
  const std::byte* codes;
  const int8_t* q8;     // [n_padded / 64][g][kFrameTiles][64]
  const int32_t* at_Q;  // where in a head's part of q8 a quad begins
  // Per head that q8 holds: what one step of the integer sum is worth, and the scores it is added
  // to [128].
  const float* unit;
  float* const* score;
};

// The sums of heads [head, head + kG) go into their scores and start again.
template <int kFirst, int kTiles, int kG>
PHASOR_INLINE void Flush(const ScoreJob& job, int head, __m256i (&acc)[kTiles][2][kG]) {
  const __m256i ones = _mm256_set1_epi16(1);
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    const __m256 unit = Set(job.unit[head + h]);
    float* score = job.score[head + h] + kFirst * kFrameTile;
    PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
      PHASOR_UNROLL for (int half = 0; half < 2; ++half, score += 8) {
        const __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(acc[i][half][h], ones));
        _mm256_storeu_ps(score, _mm256_fmadd_ps(sum, unit, _mm256_loadu_ps(score)));
        acc[i][half][h] = _mm256_setzero_si256();
      }
    }
  }
}

// Heads [head, head + kG) of tiles kFirst and on.
template <int kFirst, int kTiles, int kG>
void ScoreTiles(const ScoreJob& job, int head) {
  __m256i acc[kTiles][2][kG];
  PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      acc[i][0][h] = acc[i][1][h] = _mm256_setzero_si256();
    }
  }
  const std::byte* code = job.codes;
  const int32_t* at = job.at_Q;
  const int8_t* q8 = job.q8 + head * kFrameTiles * 64;
  for (const Step& step : job.steps) {
    switch (step.bits) {
      case 1:
        AddQuads<1, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
      case 2:
        AddQuads<2, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
      case 3:
        AddQuads<3, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
      case 4:
        AddQuads<4, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
      case 5:
        AddQuads<5, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
      case 6:
        AddQuads<6, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
      default:
        AddQuads<7, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8);
        break;
    }
    if (step.flush) Flush<kFirst>(job, head, acc);
  }
}

// As many tiles at a time as leave the 16-bit sums in registers.
template <int kG, int kFirst = 0>
void ScoreHeads(const ScoreJob& job, int head) {
  constexpr int kTiles = kG == 1 ? 4 : kG == 2 ? 2 : 1;
  if constexpr (kFirst < kFrameTiles) {
    ScoreTiles<kFirst, kTiles, kG>(job, head);
    ScoreHeads<kG, kFirst + kTiles>(job, head);
  }
}

void ScorePass(const ScoreJob& job, int g) {
  int head = 0;
  for (; g - head > 6; head += 4) ScoreHeads<4>(job, head);
  switch (g - head) {
    case 1:
      return ScoreHeads<1>(job, head);
    case 2:
      return ScoreHeads<2>(job, head);
    case 3:
      return ScoreHeads<3>(job, head);
    case 4:
      return ScoreHeads<4>(job, head);
    case 5:
      return ScoreHeads<5>(job, head);
    default:
      return ScoreHeads<6>(job, head);
  }
}

// Per thread: the 8-bit query of the page at hand, and what its integer sums are turned back with.
struct PageQuery {
  AlignedBuffer<int8_t> q8, q8_fine;  // q8_fine: sixteenths of a step
  AlignedBuffer<float> scale, middle, factor, unit, unit_fine;
  AlignedBuffer<int32_t> at_Q;
  std::vector<Step> steps;
  std::vector<float*> score, score_fine;
  AlignedBuffer<uint8_t> middle_fine;  // middle_bytes_S of the quads with sixteenths
  AlignedBuffer<float> power;          // per head: code_power that 8 bits can do with
};

// Sums of 8 vectors: lane i of the result is the sum over v[i].
PHASOR_INLINE __m256 SumRows(const __m256 v[8]) {
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

// Unit of a head and its inverse: what the largest product of query and scale becomes 126.9 =
// 2047 * 2032 / 2^15 by; and the code_power up to which 8 bits are enough.
PHASOR_INLINE void FindUnit(const FrameLayout& layout, const float* largest, int g, int head,
                            PageQuery* out) {
  __m256 most[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, power[2] = {most[0], most[0]};
  for (int s = 0; s < layout.n_padded; s += 64) {
    const float* at = largest + FrameQueryRow(s, g, head, 0) / kFrameTiles;
    PHASOR_UNROLL for (int v = 0; v < 8; ++v) {
      const __m256 product =
          _mm256_mul_ps(_mm256_loadu_ps(at + 8 * v), _mm256_load_ps(out->scale.data() + s + 8 * v));
      most[v % 2] = _mm256_max_ps(most[v % 2], product);
      power[v % 2] = _mm256_fmadd_ps(product, product, power[v % 2]);
    }
  }
  const float bound = MaxLanes(_mm256_max_ps(most[0], most[1]));
  const bool usable = bound > 1e-30f && bound < 1e30f;
  const float unit = usable ? bound * (32768.0f / (2047.0f * 2032.0f)) : 0.0f;
  out->factor[static_cast<std::size_t>(head)] = usable ? 2032.0f / bound : 0.0f;
  out->unit[static_cast<std::size_t>(head)] = unit;
  // unit^2 / 12 code_power against sum (q scale)^2 / 12; a turning q is half its bound squared.
  const float sum = SumLanes(_mm256_add_ps(power[0], power[1]));
  out->power[static_cast<std::size_t>(head)] =
      unit > 0 ? sum * kFrameQueryError / (unit * unit) : INFINITY;
}

// 64 queries times the middles of their codes, in 8 sums.
PHASOR_INLINE __m256 CodesBelow(const uint8_t* middle_codes, __m256i low, __m256i high) {
  // Four products of up to 64 * 127: 16 bits hold them.
  const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(LoadBytes(middle_codes), low),
                                         _mm256_maddubs_epi16(LoadBytes(middle_codes + 32), high));
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// One head: query times scales to bytes; its scores become what the channels' middles contribute.
// kFine: with the sixteenths, which go to place fine_at.
template <bool kFine>
void FoldHead(const FrameLayout& layout, const FrameQuery& query, int g, int h, int fine_at,
              PageQuery* out, float* score_T) {
  const __m256 factor = Set(kFine ? 16 * out->factor[static_cast<std::size_t>(h)]
                                  : out->factor[static_cast<std::size_t>(h)]);
  const __m256 unit = Set(out->unit[static_cast<std::size_t>(h)]);
  __m256 partial[kFrameTiles];
  for (int s = 0; s < layout.n_padded; s += 64) {
    const std::ptrdiff_t row = FrameQueryRow(s, g, h, 0);
    const float* largest = query.largest + row / kFrameTiles;
    const float* scale = out->scale.data() + s;
    __m256i wide[8];
    PHASOR_UNROLL for (int v = 0; v < 8; ++v) {
      const __m256 x =
          _mm256_mul_ps(_mm256_loadu_ps(largest + 8 * v), _mm256_load_ps(scale + 8 * v));
      wide[v] = _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
    }
    // Quads 0 4 1 5, 2 6 3 7 and so on, as FrameWord has them.
    const __m256i m[4] = {
        _mm256_packs_epi32(wide[0], wide[2]), _mm256_packs_epi32(wide[1], wide[3]),
        _mm256_packs_epi32(wide[4], wide[6]), _mm256_packs_epi32(wide[5], wide[7])};
    __m256 middle[8];
    PHASOR_UNROLL for (int v = 0; v < 8; ++v) {
      middle[v] = _mm256_load_ps(out->middle.data() + s + 8 * v);
    }
    const uint8_t* middle_codes = layout.middle_bytes_S.data() + s;
    const uint8_t* middle_fine = kFine ? out->middle_fine.data() + s : nullptr;
    const int16_t* normalized = query.normalized + row;
    const float* turned = query.turned + row;
    int8_t* q8 = out->q8.data() + row;
    int8_t* q8_fine = kFine ? out->q8_fine.data() + FrameQueryRow(s, g, fine_at, 0) : nullptr;
    for (int i = 0; i < kFrameTiles; ++i) {
      __m256i q[4], rest[4];
      PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
        q[v] = _mm256_mulhrs_epi16(LoadBytes(normalized + 64 * i + 16 * v), m[v]);
        if constexpr (kFine) {
          const __m256i whole = _mm256_srai_epi16(_mm256_add_epi16(q[v], _mm256_set1_epi16(8)), 4);
          rest[v] = _mm256_sub_epi16(q[v], _mm256_slli_epi16(whole, 4));
          q[v] = whole;
        }
      }
      const __m256i low = _mm256_packs_epi16(q[0], q[2]), high = _mm256_packs_epi16(q[1], q[3]);
      StoreBytes(q8 + 64 * i, low);
      StoreBytes(q8 + 64 * i + 32, high);
      __m256 codes_below = CodesBelow(middle_codes, low, high);
      if constexpr (kFine) {
        const __m256i fine0 = _mm256_packs_epi16(rest[0], rest[2]);
        const __m256i fine1 = _mm256_packs_epi16(rest[1], rest[3]);
        StoreBytes(q8_fine + 64 * i, fine0);
        StoreBytes(q8_fine + 64 * i + 32, fine1);
        codes_below =
            _mm256_fmadd_ps(CodesBelow(middle_fine, fine0, fine1), Set(0.0625f), codes_below);
      }
      const float* t = turned + 64 * i;
      __m256 sum0 = _mm256_mul_ps(_mm256_loadu_ps(t), middle[0]);
      __m256 sum1 = _mm256_mul_ps(_mm256_loadu_ps(t + 8), middle[1]);
      PHASOR_UNROLL for (int v = 2; v < 8; v += 2) {
        sum0 = _mm256_fmadd_ps(_mm256_loadu_ps(t + 8 * v), middle[v], sum0);
        sum1 = _mm256_fmadd_ps(_mm256_loadu_ps(t + 8 * v + 8), middle[v + 1], sum1);
      }
      const __m256 sum = _mm256_fnmadd_ps(codes_below, unit, _mm256_add_ps(sum0, sum1));
      partial[i] = s == 0 ? sum : _mm256_add_ps(partial[i], sum);
    }
  }
  alignas(32) float sum_I[kFrameTiles];
  _mm256_store_ps(sum_I, SumRows(partial));
  PHASOR_UNROLL for (int i = 0; i < kFrameTiles; ++i) {
    _mm256_storeu_ps(score_T + kFrameTile * i, Set(sum_I[i]));
    _mm256_storeu_ps(score_T + kFrameTile * i + 8, Set(sum_I[i]));
  }
}

// The grids of a page by slot, 0 in the padding.
void LoadGrids(const FrameLayout& layout, const std::byte* page, PageQuery* out) {
  const int n_slots = 4 * layout.n_quads;
  for (int s = 0; s < layout.n_padded; s += 8) {
    __m128i half[2] = {_mm_setzero_si128(), _mm_setzero_si128()};
    PHASOR_UNROLL for (int i = 0; i < 2; ++i) {
      const std::byte* at = page + 2 * (i * n_slots + s);
      if (s + 8 <= n_slots) {
        half[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
      } else if (s < n_slots) {
        half[i] = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
      }
    }
    const __m256 scale = _mm256_cvtph_ps(half[0]), low = _mm256_cvtph_ps(half[1]);
    _mm256_store_ps(out->scale.data() + s, scale);
    _mm256_store_ps(out->middle.data() + s,
                    _mm256_fmadd_ps(scale, _mm256_loadu_ps(layout.middle_S.data() + s), low));
  }
}

void ScoreAvx2(const FrameLayout& layout, const FrameQuery& query, int g, const std::byte* page,
               int /*n_tokens*/, float* score_GT) {
  static thread_local PageQuery scratch;
  const std::size_t n = static_cast<std::size_t>(layout.n_padded);
  const std::size_t heads = static_cast<std::size_t>(g);
  scratch.scale.Resize(n);
  scratch.middle.Resize(n);
  scratch.unit.Resize(heads);
  scratch.factor.Resize(heads);
  scratch.unit_fine.Resize(heads);
  scratch.q8.Resize(heads * kFrameTiles * n);
  scratch.at_Q.Resize(n / 4);
  for (int q = 0; q < layout.n_padded / 4; q += 16) {
    int32_t* at = scratch.at_Q.data() + q;
    const int first = q / 16 * g * kFrameTiles * 64;
    for (int i = 0; i < 16; ++i) at[i] = first + kQuadByte[static_cast<std::size_t>(i)];
  }
  LoadGrids(layout, page, &scratch);
  scratch.power.Resize(heads);
  float least = INFINITY;
  for (int h = 0; h < g; ++h) {
    FindUnit(layout, query.largest, g, h, &scratch);
    least = std::min(least, scratch.power[static_cast<std::size_t>(h)]);
  }
  // Half as much error where there are sixteenths anyway.
  const int n_fine = least < layout.code_power ? FineQuads(layout, 0.5f * least) : 0;
  if (n_fine > 0) {
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
  PlanSteps(layout, layout.n_quads, kCoarseLimit, &scratch.steps);
  ScorePass({scratch.steps, codes, scratch.q8.data(), scratch.at_Q.data(), scratch.unit.data(),
             scratch.score.data()},
            g);
  if (scratch.score_fine.empty()) return;
  PlanSteps(layout, n_fine, kFineLimit, &scratch.steps);
  ScorePass({scratch.steps, codes, scratch.q8_fine.data(), scratch.at_Q.data(),
             scratch.unit_fine.data(), scratch.score_fine.data()},
            static_cast<int>(scratch.score_fine.size()));
}

void PrepareAvx2(const FrameLayout& layout, const float* q_GD, int g, const FrameQuery& query) {
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
    for (int s = 0; s < n; s += 8) {
      const __m256 a = _mm256_load_ps(x + s), b = _mm256_load_ps(y + s);
      const __m256 length = _mm256_sqrt_ps(_mm256_fmadd_ps(a, a, _mm256_mul_ps(b, b)));
      const __m256 some = _mm256_cmp_ps(length, _mm256_setzero_ps(), _CMP_GT_OQ);
      _mm256_storeu_ps(query.largest + FrameQueryRow(s, g, h, 0) / kFrameTiles + s % 64, length);
      _mm256_store_ps(inverse + s, _mm256_and_ps(some, _mm256_div_ps(Set(2047.0f), length)));
    }
    for (int i = 0; i < kFrameTiles; ++i) {
      const float* cosine = layout.cos_IS.data() + static_cast<std::ptrdiff_t>(i) * n;
      const float* sine = layout.sin_IS.data() + static_cast<std::ptrdiff_t>(i) * n;
      for (int s = 0; s < n; s += 64) {
        const std::ptrdiff_t row = FrameQueryRow(s, g, h, i);
        __m256i wide[8];
        PHASOR_UNROLL for (int v = 0; v < 8; ++v) {
          const int at = s + 8 * v;
          const __m256 value =
              _mm256_fmadd_ps(_mm256_loadu_ps(cosine + at), _mm256_load_ps(x + at),
                              _mm256_mul_ps(_mm256_loadu_ps(sine + at), _mm256_load_ps(y + at)));
          _mm256_storeu_ps(query.turned + row + 8 * v, value);
          wide[v] = _mm256_cvtps_epi32(
              Clamp(_mm256_mul_ps(value, _mm256_load_ps(inverse + at)), 2047.0f));
        }
        PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
          const int from = v / 2 * 4 + v % 2;
          StoreBytes(query.normalized + row + 16 * v,
                     _mm256_packs_epi32(wide[from], wide[from + 2]));
        }
      }
    }
  }
}

// Turns every pair of tile[D][128] by direction * 16 i omega_j in tile i, within +-65504.
void TurnTiles(const FrameLayout& layout, float direction, float* frame_DT) {
  const std::size_t n_pairs = layout.pairs.size();
  for (std::size_t j = 0; j < n_pairs; ++j) {
    float* x = frame_DT + layout.pairs[j].x * kRowFloats;
    float* y = frame_DT + layout.pairs[j].y * kRowFloats;
    for (std::size_t i = 0; i < kFrameTiles; ++i) {
      const __m256 c = Set(layout.cos_IP[i * n_pairs + j]);
      const __m256 s = Set(direction * layout.sin_IP[i * n_pairs + j]);
      PHASOR_UNROLL for (std::size_t t = 16 * i; t < 16 * i + 16; t += 8) {
        const __m256 a = _mm256_load_ps(x + t), b = _mm256_load_ps(y + t);
        const __m256 u = _mm256_fnmadd_ps(b, s, _mm256_mul_ps(a, c));
        const __m256 v = _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c));
        _mm256_store_ps(x + t, Clamp(u, kPolarInfinity));
        _mm256_store_ps(y + t, Clamp(v, kPolarInfinity));
      }
    }
  }
}

// Rows in, columns out.
PHASOR_INLINE void Transpose8(__m256 r[8]) {
  __m256 t[8];
  PHASOR_UNROLL for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  PHASOR_UNROLL for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// The first n of 8 lanes.
PHASOR_INLINE __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// x_TD -> tile[D][128], sanitized; missing tokens repeat the last one.
void RowsToTile(const float* x_TD, int head_dim, int n_tokens, float* tile) {
  for (int t0 = 0; t0 < kPageTokens; t0 += 8) {
    for (int d0 = 0; d0 < head_dim; d0 += 8) {
      const __m256i mask = FirstLanes(head_dim - d0);
      __m256 r[8];
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        const std::ptrdiff_t row = std::min(t0 + i, n_tokens - 1);
        const __m256 x = _mm256_maskload_ps(x_TD + row * head_dim + d0, mask);
        r[i] = _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_ORD_Q), Clamp(x, kPolarInfinity));
      }
      Transpose8(r);
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        _mm256_store_ps(tile + (d0 + i) * kRowFloats + t0, r[i]);
      }
    }
  }
}

// tile[D][128] -> x_TD.
void TileToRows(const float* tile, int head_dim, int n_tokens, float* x_TD) {
  for (int t0 = 0; t0 < n_tokens; t0 += 8) {
    const int rows = std::min(n_tokens - t0, 8);
    for (int d0 = 0; d0 < head_dim; d0 += 8) {
      __m256 r[8];
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_load_ps(tile + (d0 + i) * kRowFloats + t0);
      }
      Transpose8(r);
      float* out = x_TD + static_cast<std::ptrdiff_t>(t0) * head_dim + d0;
      if (rows == 8 && d0 + 8 <= head_dim) {  // masked stores are slow where they are not needed
        PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
          _mm256_storeu_ps(out + static_cast<std::ptrdiff_t>(i) * head_dim, r[i]);
        }
        continue;
      }
      alignas(32) float column[8][8];
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) _mm256_store_ps(column[i], r[i]);
      for (int i = 0; i < rows; ++i) {
        std::memcpy(out + static_cast<std::ptrdiff_t>(i) * head_dim, column[i],
                    sizeof(float) * static_cast<std::size_t>(std::min(head_dim - d0, 8)));
      }
    }
  }
}

struct Fit {
  FrameGrid grid;
  float low, scale, inverse, top;
};

PHASOR_INLINE Fit MakeFit(FrameGrid grid, int bits) {
  const float scale = _cvtsh_ss(grid.scale);
  return {grid, _cvtsh_ss(grid.low), scale, scale > 0.0f ? 1.0f / scale : 0.0f,
          static_cast<float>((1 << bits) - 1)};
}

PHASOR_INLINE __m256 FitCode(const Fit& fit, __m256 x) {
  const __m256 level =
      _mm256_round_ps(_mm256_mul_ps(_mm256_sub_ps(x, Set(fit.low)), Set(fit.inverse)),
                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm256_max_ps(_mm256_min_ps(level, Set(fit.top)), _mm256_setzero_ps());
}

// The best grid of 128 values.
Fit FitSlot(const float* x_T, int bits) {
  const __m256 first = _mm256_load_ps(x_T);
  if (bits == 0) {
    __m256 sum = first;
    for (int t = 8; t < kPageTokens; t += 8) sum = _mm256_add_ps(sum, _mm256_load_ps(x_T + t));
    const float mean = SumLanes(sum) * (1.0f / kPageTokens);
    return MakeFit({0, static_cast<uint16_t>(_cvtss_sh(mean, _MM_FROUND_TO_NEAREST_INT))}, 0);
  }
  __m256 lo = first, hi = first;
  for (int t = 8; t < kPageTokens; t += 8) {
    const __m256 x = _mm256_load_ps(x_T + t);
    lo = _mm256_min_ps(lo, x);
    hi = _mm256_max_ps(hi, x);
  }
  const float low = -MaxLanes(_mm256_sub_ps(_mm256_setzero_ps(), lo)), high = MaxLanes(hi);
  Fit best = {};
  float least = INFINITY;
  for (const float shrink : kFrameShrink[bits]) {
    if (shrink == 0.0f) break;
    const Fit fit = MakeFit(MakeFrameGrid(low, high, shrink, bits), bits);
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
      const __m256 x = _mm256_load_ps(x_T + 8 * i);
      const __m256 error =
          _mm256_sub_ps(_mm256_fmadd_ps(Set(fit.scale), FitCode(fit, x), Set(fit.low)), x);
      sum[i % 2] = _mm256_fmadd_ps(error, error, sum[i % 2]);
    }
    const float error = SumLanes(_mm256_add_ps(sum[0], sum[1]));
    if (error < least || best.grid.scale == 0) {
      least = error;
      best = fit;
    }
  }
  return best;
}

// Bits [at, at + kPart) of the codes of all tiles, 8 / kPart tiles to a vector.
template <int kPart>
PHASOR_INLINE void StorePart(const __m256i word[kFrameTiles], int at, std::byte* out) {
  constexpr int kShare = 8 / kPart;
  const __m256i mask = _mm256_set1_epi8((1 << kPart) - 1);
  for (int m = 0; m < kPart; ++m) {
    __m256i all = _mm256_setzero_si256();
    PHASOR_UNROLL for (int i = 0; i < kShare; ++i) {
      const __m256i part =
          _mm256_and_si256(_mm256_srl_epi32(word[kShare * m + i], _mm_cvtsi32_si128(at)), mask);
      all = _mm256_or_si256(all, _mm256_sll_epi32(part, _mm_cvtsi32_si128(kPart * i)));
    }
    StoreBytes(out + 64 * m, all);
  }
}

// word[i]: codes of one half of tile i, byte k of a dword from slot k. quad: at that half.
void PackQuad(const __m256i word[kFrameTiles], int bits, std::byte* quad) {
  int at = 0;
  if (bits & 4) {
    StorePart<4>(word, 0, quad);
    quad += 256;
    at = 4;
  }
  if (bits & 2) {
    StorePart<2>(word, at, quad);
    quad += 128;
    at += 2;
  }
  if (bits & 1) StorePart<1>(word, at, quad);
}

void EncodeAvx2(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
  float* frame = TileScratch(layout.head_dim);
  RowsToTile(x_TD, layout.head_dim, n_tokens, frame);
  TurnTiles(layout, -1.0f, frame);
  if (n_tokens < kPageTokens) {  // missing tokens are copies of the last one, in its frame
    for (int d = 0; d < layout.head_dim; ++d) {
      float* row = frame + d * kRowFloats;
      std::fill(row + n_tokens, row + kPageTokens, row[n_tokens - 1]);
    }
  }
  std::memset(page, 0, layout.first_code);
  std::byte* quad = page + layout.first_code;
  for (int q = 0; q < layout.n_quads; ++q) {
    const int bits = layout.bits_Q[q];
    __m256i word[2][kFrameTiles];
    for (auto& half : word) {
      for (__m256i& w : half) w = _mm256_setzero_si256();
    }
    for (int k = 0; k < 4; ++k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      if (channel < 0) continue;
      const float* x_T = frame + channel * kRowFloats;
      const Fit fit = FitSlot(x_T, bits);
      std::memcpy(page + 2 * slot, &fit.grid.scale, 2);
      std::memcpy(page + 2 * (4 * layout.n_quads + slot), &fit.grid.low, 2);
      if (bits == 0) continue;
      const __m128i shift = _mm_cvtsi32_si128(8 * k);
      PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
        const __m256i code = _mm256_cvtps_epi32(FitCode(fit, _mm256_load_ps(x_T + 8 * i)));
        word[i % 2][i / 2] = _mm256_or_si256(word[i % 2][i / 2], _mm256_sll_epi32(code, shift));
      }
    }
    PackQuad(word[0], bits, quad);
    PackQuad(word[1], bits, quad + 32);
    quad += 64 * bits;
  }
}

// The values of 8 tokens of one quad's slots, into rows of frame_DT.
template <int kBits, int kTile, int kHalf>
PHASOR_INLINE void UnpackHalf(const std::byte* quad, const float scale[4], const float low[4],
                              float* const row[4]) {
  const __m256i code = TileCodes<kBits, kTile, kHalf>(quad);
  PHASOR_UNROLL for (int k = 0; k < 4; ++k) {
    const __m256i one = _mm256_and_si256(_mm256_srli_epi32(code, 8 * k), _mm256_set1_epi32(255));
    _mm256_store_ps(row[k] + kTile * kFrameTile + 8 * kHalf,
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(one), Set(scale[k]), Set(low[k])));
  }
}

template <int kBits, int kTile = 0>
PHASOR_INLINE void UnpackTiles(const std::byte* quad, const float scale[4], const float low[4],
                               float* const row[4]) {
  if constexpr (kTile < kFrameTiles) {
    UnpackHalf<kBits, kTile, 0>(quad, scale, low, row);
    UnpackHalf<kBits, kTile, 1>(quad, scale, low, row);
    UnpackTiles<kBits, kTile + 1>(quad, scale, low, row);
  }
}

void UnpackQuad(const std::byte* quad, int bits, const float scale[4], const float low[4],
                float* const row[4]) {
  switch (bits) {
    case 0:
      return UnpackTiles<0>(quad, scale, low, row);
    case 1:
      return UnpackTiles<1>(quad, scale, low, row);
    case 2:
      return UnpackTiles<2>(quad, scale, low, row);
    case 3:
      return UnpackTiles<3>(quad, scale, low, row);
    case 4:
      return UnpackTiles<4>(quad, scale, low, row);
    case 5:
      return UnpackTiles<5>(quad, scale, low, row);
    case 6:
      return UnpackTiles<6>(quad, scale, low, row);
    default:
      return UnpackTiles<7>(quad, scale, low, row);
  }
}

void DecodeAvx2(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  float* frame = TileScratch(layout.head_dim);
  const std::byte* quad = page + layout.first_code;
  alignas(32) float unused[kPageTokens];
  for (int q = 0; q < layout.n_quads; ++q) {
    float scale[4], low[4];
    float* row[4];
    for (int k = 0; k < 4; ++k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      uint16_t half[2];
      std::memcpy(&half[0], page + 2 * slot, 2);
      std::memcpy(&half[1], page + 2 * (4 * layout.n_quads + slot), 2);
      scale[k] = _cvtsh_ss(half[0]);
      low[k] = _cvtsh_ss(half[1]);
      row[k] = channel < 0 ? unused : frame + channel * kRowFloats;
    }
    UnpackQuad(quad, layout.bits_Q[q], scale, low, row);
    quad += 64 * layout.bits_Q[q];
  }
  TurnTiles(layout, 1.0f, frame);
  TileToRows(frame, layout.head_dim, n_tokens, x_TD);
}

}  // namespace

const FrameKernels kFrameKernelsAvx2 = {EncodeAvx2, DecodeAvx2, ScoreAvx2, PrepareAvx2};

}  // namespace phasor
PHASOR_END_TARGET
