// Scores of frame codecs with AVX2: codes become bytes by shifts and masks and meet the 8-bit query
// in vpmaddubsw, 8 tokens times 4 channels at a time. Sums of pairs stay in 16 bits for as many
// quads as cannot overflow, which the queries of the page at hand decide (at 4 bits eight or more),
// and are added to the scores then. Where 8-bit queries
// are too coarse the second pass is for the heads and for the widest channels that need it:
// rounding errors are multiplied by codes, so narrow channels add little. The queries are in the
// order of FrameWord: packing 16-bit numbers in lanes of 128 bits leaves FrameDword here too.
#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "kvcodec/frame_avx2-inl.h"
#include "kvcodec/frame_kernels.h"
#include "simd/line_fetcher.h"

namespace phasor {
namespace {

// From here on the codes of a page become bytes once for all heads, and not with every pass.
constexpr int kManyHeads = 6;
constexpr int kFineLimit = 8;  // of the sixteenths of an 8-bit query's steps

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

// The first n_quads, as far as they have codes. bound_Q: what two neighbouring queries of a quad
// sum to at most, in magnitude.
void PlanSteps(const FrameLayout& layout, int n_quads, const int32_t* bound_Q,
               std::vector<Step>* steps) {
  constexpr int kRoom = 32767;
  n_quads = std::min(n_quads, layout.n_quads - layout.quads_of_bits[0]);
  steps->clear();
  int room = 0;
  for (int q = 0; q < n_quads; ++q) {
    const int bits = layout.bits_Q[static_cast<std::size_t>(q)];
    const int cost = bound_Q[q] * ((1 << bits) - 1);
    const bool full = cost > room;
    if (full && q > 0) steps->back().flush = true;
    if (full) room = kRoom;
    if (q == 0 || full || steps->back().bits != bits) steps->push_back({bits, 0, false});
    ++steps->back().n_quads;
    room -= cost;
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

// acc[half][head] += codes of one tile of a quad times its queries.
template <int kG>
PHASOR_INLINE void AddTile(__m256i code0, __m256i code1, const int8_t* q8, __m256i (&acc)[2][kG]) {
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    int32_t four;
    std::memcpy(&four, q8 + 64 * h * kFrames, 4);
    const __m256i q = _mm256_set1_epi32(four);
    AddWords(_mm256_maddubs_epi16(code0, q), &acc[0][h]);
    AddWords(_mm256_maddubs_epi16(code1, q), &acc[1][h]);
  }
}

// acc[tile][half][head] += codes times query of one quad; tiles kFirst, kFirst + 1, ...
template <int kBits, int kFirst, int kTiles, int kG, int kTile = 0>
PHASOR_INLINE void AddTiles(__m256i (&acc)[kTiles][2][kG], const std::byte* quad,
                            const int8_t* q8) {
  if constexpr (kTile < kTiles) {
    constexpr int kAt = kFirst + kTile;
    AddTile<kG>(TileCodes<kBits, kAt, 0>(quad), TileCodes<kBits, kAt, 1>(quad),
                q8 + 64 * FrameOf(kAt), acc[kTile]);
    AddTiles<kBits, kFirst, kTiles, kG, kTile + 1>(acc, quad, q8);
  }
}

// n quads of one width.
template <int kBits, int kFirst, int kTiles, int kG>
PHASOR_INLINE void AddQuads(__m256i (&acc)[kTiles][2][kG], const std::byte*& code,
                            const int32_t*& at, int n, const int8_t* q8, LineFetcher& fetcher) {
  for (const int32_t* const end = at + n; at != end; ++at, code += 64 * kBits) {
    fetcher.Step();
    AddTiles<kBits, kFirst, kTiles, kG>(acc, code, q8 + *at);
  }
}

struct ScoreJob {
  const std::vector<Step>& steps;
  const std::byte* codes;
  const uint8_t* bytes;       // the codes as ExpandPage leaves them, or null
  std::ptrdiff_t tile_bytes;  // of them
  const int8_t* q8;           // [n_padded / 64][g][kFrames][64]
  const int32_t* at_Q;        // where in a head's part of q8 a quad begins
  // Per head that q8 holds: what one step of the integer sum is worth, and the scores it is added
  // to [128].
  const float* unit;
  float* const* score;
  LineFetcher* fetcher;  // a step per quad and group of tiles
};

// The sums of heads [head, head + kG) go into their scores and start again.
template <int kTiles, int kG>
PHASOR_INLINE void Flush(const ScoreJob& job, int tile, int head, __m256i (&acc)[kTiles][2][kG]) {
  const __m256i ones = _mm256_set1_epi16(1);
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    const __m256 unit = Set(job.unit[head + h]);
    float* score = job.score[head + h] + tile * kFrameTile;
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
  const int8_t* q8 = job.q8 + head * kFrames * 64;
  for (const Step& step : job.steps) {
    switch (step.bits) {
      case 1:
        AddQuads<1, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
      case 2:
        AddQuads<2, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
      case 3:
        AddQuads<3, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
      case 4:
        AddQuads<4, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
      case 5:
        AddQuads<5, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
      case 6:
        AddQuads<6, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
      default:
        AddQuads<7, kFirst, kTiles, kG>(acc, code, at, step.n_quads, q8, *job.fetcher);
        break;
    }
    if (step.flush) Flush(job, kFirst, head, acc);
  }
}

// The codes of a quad as bytes.
template <int kBits, int kTile = 0>
PHASOR_INLINE void ExpandTiles(const std::byte* quad, std::ptrdiff_t tile_bytes, uint8_t* out) {
  if constexpr (kTile < kFrameTiles) {
    StoreBytes(out + kTile * tile_bytes, TileCodes<kBits, kTile, 0>(quad));
    StoreBytes(out + kTile * tile_bytes + 32, TileCodes<kBits, kTile, 1>(quad));
    ExpandTiles<kBits, kTile + 1>(quad, tile_bytes, out);
  }
}

// code: of all quads -> out [kFrameTiles][n_quads][64].
template <int kBits = kMaxFrameBits>
void ExpandPage(const FrameLayout& layout, const std::byte* code, uint8_t* out) {
  if constexpr (kBits > 0) {
    for (int n = layout.quads_of_bits[kBits]; n > 0; --n, code += 64 * kBits, out += 64) {
      ExpandTiles<kBits>(code, std::ptrdiff_t{64} * layout.n_quads, out);
    }
    ExpandPage<kBits - 1>(layout, code, out);
  }
}

// As ScoreTiles, from bytes.
template <int kTiles, int kG>
void ScoreBytes(const ScoreJob& job, int tile, int head) {
  __m256i acc[kTiles][2][kG];
  PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      acc[i][0][h] = acc[i][1][h] = _mm256_setzero_si256();
    }
  }
  const uint8_t* code = job.bytes + tile * job.tile_bytes;
  const int32_t* at = job.at_Q;
  const int8_t* q8 = job.q8 + head * kFrames * 64;
  for (const Step& step : job.steps) {
    for (const int32_t* const end = at + step.n_quads; at != end; ++at, code += 64) {
      job.fetcher->Step();
      PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
        AddTile<kG>(LoadBytes(code + i * job.tile_bytes), LoadBytes(code + i * job.tile_bytes + 32),
                    q8 + *at + 64 * FrameOf(tile + i), acc[i]);
      }
    }
    if (step.flush) Flush(job, tile, head, acc);
  }
}

// As many tiles at a time as leave the 16-bit sums in registers.
template <int kG, int kFirst = 0>
void ScoreHeads(const ScoreJob& job, int head) {
  constexpr int kTiles = kG == 1 ? 4 : kG == 2 ? 2 : 1;
  if constexpr (kFirst < kFrameTiles) {
    if (job.bytes != nullptr) {
      ScoreBytes<kTiles, kG>(job, kFirst, head);
    } else {
      ScoreTiles<kFirst, kTiles, kG>(job, head);
    }
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
  AlignedBuffer<int32_t> at_Q, bound_Q;  // bound_Q: as PlanSteps has it
  AlignedBuffer<int16_t> bound;          // of the queries of a slot, in the order of FrameWord
  AlignedBuffer<uint8_t> codes;          // as bytes, [kFrameTiles][n_quads][64]
  std::vector<Step> steps;
  std::vector<float*> score, score_fine;
  AlignedBuffer<uint8_t> middle_fine;  // middle_bytes_S of the quads with sixteenths
  AlignedBuffer<float> power;          // per head: code_power that 8 bits can do with
};

// Unit of a head and its inverse: what the largest product of query and scale becomes 126.9 =
// 2047 * 2032 / 2^15 by; and the code_power up to which 8 bits are enough.
PHASOR_INLINE void FindUnit(const FrameLayout& layout, const float* largest, int g, int head,
                            PageQuery* out) {
  __m256 most[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, power[2] = {most[0], most[0]};
  for (int s = 0; s < layout.n_padded; s += 64) {
    const float* at = largest + FrameQueryRow(s, g, head, 0) / kFrames;
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

// One head and 64 slots, of which the first 8 kVectors can hold channels: query times scales to
// bytes; partial[frame]: what the channels' middles contribute. kFine: with the sixteenths, which
// go to place fine_at.
template <bool kFine, int kVectors>
void FoldBlock(const FrameLayout& layout, const FrameQuery& query, int g, int h, int s, int fine_at,
               PageQuery* out, __m256 (&partial)[kFrames]) {
  constexpr int kWords = kVectors / 2;  // vectors of 16-bit queries
  const __m256 factor = Set(kFine ? 16 * out->factor[static_cast<std::size_t>(h)]
                                  : out->factor[static_cast<std::size_t>(h)]);
  const __m256 unit = Set(out->unit[static_cast<std::size_t>(h)]);
  const std::ptrdiff_t row = FrameQueryRow(s, g, h, 0);
  const float* largest = query.largest + row / kFrames;
  const float* scale = out->scale.data() + s;
  __m256i wide[kVectors];
  PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
    const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(largest + 8 * v), _mm256_load_ps(scale + 8 * v));
    wide[v] = _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
  }
  // Quads 0 4 1 5, 2 6 3 7 and so on, as FrameWord has them.
  __m256i m[kWords];
  int16_t* bound = out->bound.data() + s;
  PHASOR_UNROLL for (int v = 0; v < kWords; ++v) {
    const int from = v / 2 * 4 + v % 2;
    m[v] = _mm256_packs_epi32(wide[from], wide[from + 2]);
    __m256i most = _mm256_mulhrs_epi16(_mm256_set1_epi16(2047), m[v]);
    if (kFine) most = _mm256_srai_epi16(_mm256_add_epi16(most, _mm256_set1_epi16(8)), 4);
    StoreBytes(bound + 16 * v, _mm256_max_epi16(LoadBytes(bound + 16 * v), most));
  }
  __m256 middle[kVectors];
  PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
    middle[v] = _mm256_load_ps(out->middle.data() + s + 8 * v);
  }
  const uint8_t* middle_codes = layout.middle_bytes_S.data() + s;
  const uint8_t* middle_fine = kFine ? out->middle_fine.data() + s : nullptr;
  const int16_t* normalized = query.normalized + row;
  const float* turned = query.turned + row;
  int8_t* q8 = out->q8.data() + row;
  int8_t* q8_fine = kFine ? out->q8_fine.data() + FrameQueryRow(s, g, fine_at, 0) : nullptr;
  for (int i = 0; i < kFrames; ++i) {
    __m256i q[4], rest[4];
    PHASOR_UNROLL for (int v = 0; v < 4; ++v) q[v] = rest[v] = _mm256_setzero_si256();
    PHASOR_UNROLL for (int v = 0; v < kWords; ++v) {
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
    PHASOR_UNROLL for (int v = 2; v < kVectors; v += 2) {
      sum0 = _mm256_fmadd_ps(_mm256_loadu_ps(t + 8 * v), middle[v], sum0);
      sum1 = _mm256_fmadd_ps(_mm256_loadu_ps(t + 8 * v + 8), middle[v + 1], sum1);
    }
    const __m256 sum = _mm256_fnmadd_ps(codes_below, unit, _mm256_add_ps(sum0, sum1));
    partial[i] = s == 0 ? sum : _mm256_add_ps(partial[i], sum);
  }
}

// One head: its queries of the page, and what the middles contribute as its scores.
template <bool kFine>
void FoldHead(const FrameLayout& layout, const FrameQuery& query, int g, int h, int fine_at,
              PageQuery* out, float* score_T) {
  __m256 partial[kFrames];
  for (int s = 0; s < layout.n_padded; s += 64) {
    if (4 * layout.n_quads - s > 32) {
      FoldBlock<kFine, 8>(layout, query, g, h, s, fine_at, out, partial);
    } else {
      FoldBlock<kFine, 4>(layout, query, g, h, s, fine_at, out, partial);
    }
  }
  PHASOR_UNROLL for (int i = 0; i < kFrames; ++i) {
    const __m256 sum = Set(SumLanes(partial[i]));
    for (int t = 0; t < kFrameTokens; t += 8) {
      _mm256_storeu_ps(score_T + kFrameTokens * i + t, sum);
    }
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

// From the bounds of the slots. The two sums of a quad's pairs are neighbours in FrameWord's order.
void BoundQuads(int n_padded, PageQuery* out) {
  for (int s = 0; s < n_padded; s += 64) {
    const int16_t* bound = out->bound.data() + s;
    int32_t* bound_Q = out->bound_Q.data() + s / 4;
    for (int q = 0; q < 16; ++q) {
      const int16_t* at = bound + FrameWord(4 * q);
      bound_Q[q] = std::max(at[0] + at[1], at[2] + at[3]);
    }
  }
}

// Room for g heads, and where their queries lie.
void SizeScratch(const FrameLayout& layout, int g, PageQuery* out) {
  const std::size_t n = static_cast<std::size_t>(layout.n_padded);
  const std::size_t heads = static_cast<std::size_t>(g);
  out->scale.Resize(n);
  out->middle.Resize(n);
  out->bound.Resize(n);
  out->bound_Q.Resize(n / 4);
  out->unit.Resize(heads);
  out->factor.Resize(heads);
  out->power.Resize(heads);
  out->unit_fine.Resize(heads);
  out->q8.Resize(heads * kFrames * n);
  out->at_Q.Resize(n / 4);
  for (int q = 0; q < layout.n_padded / 4; q += 16) {
    int32_t* at = out->at_Q.data() + q;
    const int first = q / 16 * g * kFrames * 64;
    for (int i = 0; i < 16; ++i) at[i] = first + kQuadByte[static_cast<std::size_t>(i)];
  }
  std::fill_n(out->bound.data(), n, int16_t{0});
  out->score.clear();
  out->score_fine.clear();
}

void ScorePageAvx2(const FrameLayout& layout, const FrameQuery& query, int g, const std::byte* page,
                   float* score_GT, Upcoming next) {
  // At two heads and fewer several tiles go together (ScoreHeads).
  LineFetcher fetcher(next, layout.n_quads * kFrameTiles / (g == 1 ? 4 : g == 2 ? 2 : 1));
  static thread_local PageQuery scratch;
  const std::size_t n = static_cast<std::size_t>(layout.n_padded);
  SizeScratch(layout, g, &scratch);
  LoadGrids(layout, page, &scratch);
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
  const std::ptrdiff_t tile_bytes = std::ptrdiff_t{64} * layout.n_quads;
  const uint8_t* bytes = nullptr;
  if (g >= kManyHeads) {
    scratch.codes.Resize(static_cast<std::size_t>(kFrameTiles * tile_bytes));
    ExpandPage(layout, codes, scratch.codes.data());
    bytes = scratch.codes.data();
  }
  BoundQuads(layout.n_padded, &scratch);
  PlanSteps(layout, layout.n_quads, scratch.bound_Q.data(), &scratch.steps);
  ScorePass({scratch.steps, codes, bytes, tile_bytes, scratch.q8.data(), scratch.at_Q.data(),
             scratch.unit.data(), scratch.score.data(), &fetcher},
            g);
  if (scratch.score_fine.empty()) return;
  std::fill_n(scratch.bound_Q.data(), n / 4, 2 * kFineLimit);
  PlanSteps(layout, n_fine, scratch.bound_Q.data(), &scratch.steps);
  ScorePass({scratch.steps, codes, bytes, tile_bytes, scratch.q8_fine.data(), scratch.at_Q.data(),
             scratch.unit_fine.data(), scratch.score_fine.data(), &fetcher},
            static_cast<int>(scratch.score_fine.size()));
}

void ScoreAvx2(const FrameLayout& layout, const FrameQuery& query, int g,
               std::span<const PageToScore> pages) {
  for (const PageToScore& p : pages) {
    ScorePageAvx2(layout, query, g, p.page, p.score_GT, p.next);
  }
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
      _mm256_storeu_ps(query.largest + FrameQueryRow(s, g, h, 0) / kFrames + s % 64, length);
      _mm256_store_ps(inverse + s, _mm256_and_ps(some, _mm256_div_ps(Set(2047.0f), length)));
    }
    for (int i = 0; i < kFrames; ++i) {
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

}  // namespace

const FrameKernels kFrameKernelsAvx2 = {EncodeFrameAvx2, DecodeFrameAvx2, ScoreAvx2, PrepareAvx2};

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
