// Frame codecs with AVX-512: codes become bytes by shifts and masks and meet the 8-bit query in
// vpdpbusd, 16 tokens times 4 channels at a time.
#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "kvcodec/frame_kernels.h"
#include "kvcodec/page_avx512-inl.h"
#include "simd/avx512.h"
#include "simd/avx512_rows-inl.h"
#include "simd/dot_bytes_avx512.h"
#include "simd/line_fetcher.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// Every lane the same four queries.
PHASOR_INLINE __m512i Broadcast4(const int8_t* at) {
  int32_t four;
  std::memcpy(&four, at, 4);
  return _mm512_set1_epi32(four);
}

// Codes of one tile of a quad: byte 4 t + k is token t, slot k.
template <int kBits, int kTile>
PHASOR_INLINE __m512i TileCodes(const std::byte* quad) {
  constexpr bool k4 = (kBits & 4) != 0, k2 = (kBits & 2) != 0, k1 = (kBits & 1) != 0;
  constexpr int at2 = k4 ? 4 : 0, at1 = at2 + (k2 ? 2 : 0);
  const std::byte* part2 = quad + (k4 ? 256 : 0);
  const std::byte* part1 = part2 + (k2 ? 128 : 0);
  __m512i code = _mm512_setzero_si512();
  if constexpr (k4) {
    __m512i part = _mm512_loadu_si512(quad + 64 * (kTile / 2));
    if constexpr (kTile % 2 == 1) part = _mm512_srli_epi32(part, 4);
    code = _mm512_and_si512(part, _mm512_set1_epi8(15));
  }
  if constexpr (k2) {
    constexpr int turn = (at2 - 2 * (kTile % 4)) & 31;
    __m512i part = _mm512_loadu_si512(part2 + 64 * (kTile / 4));
    if constexpr (turn != 0) part = _mm512_rol_epi32(part, turn);
    const __m512i mask = _mm512_set1_epi8(3 << at2);
    code = k4 ? _mm512_ternarylogic_epi32(code, part, mask, 0xf8) : _mm512_and_si512(part, mask);
  }
  if constexpr (k1) {
    constexpr int turn = (at1 - kTile) & 31;
    __m512i part = _mm512_loadu_si512(part1);
    if constexpr (turn != 0) part = _mm512_rol_epi32(part, turn);
    const __m512i mask = _mm512_set1_epi8(1 << at1);
    code =
        k4 || k2 ? _mm512_ternarylogic_epi32(code, part, mask, 0xf8) : _mm512_and_si512(part, mask);
  }
  return code;
}

// acc[tile][head] += codes times query of one quad; tiles kFirst, kFirst + 1, ... q: the queries of
// the frame at hand, which are loaded where a frame begins.
template <int kBits, int kFirst, int kTiles, int kG, int kTile = 0>
PHASOR_INLINE void AddTiles(__m512i (&acc)[kTiles][kG], __m512i (&q)[kG], const std::byte* quad,
                            const int8_t* q8) {
  if constexpr (kTile < kTiles) {
    constexpr int kFrame = FrameOf(kFirst + kTile);
    if constexpr (kTile == 0 || kFrame != FrameOf(kFirst + kTile - 1)) {
      PHASOR_UNROLL for (int h = 0; h < kG; ++h) q[h] =
          Broadcast4(q8 + 64 * (h * kFrames + kFrame));
    }
    const __m512i code = TileCodes<kBits, kFirst + kTile>(quad);
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) AddByteProducts(acc[kTile][h], code, q[h]);
    AddTiles<kBits, kFirst, kTiles, kG, kTile + 1>(acc, q, quad, q8);
  }
}

// Tiles that ScoreTiles takes at a time: as many as leave the sums of g heads in registers.
constexpr int TilesAtOnce(int g) { return g <= 3 ? 8 : g == 4 ? 4 : 2; }
// Steps of the fetcher per quad and ScoreTiles.
constexpr int TileSteps(int g, int first) {
  return g <= 3 ? 3 : g == 4 ? (first == 0 ? 2 : 1) : first < 6 ? 1 : 0;
}

template <int kBits, int kFirst, int kTiles, int kG>
PHASOR_INLINE void AddWidths(__m512i (&acc)[kTiles][kG], const FrameLayout& layout,
                             const std::byte* code, const int32_t* query_at, const int8_t* q8,
                             int least_bits, LineFetcher& fetcher) {
  if constexpr (kBits > 0) {
    if (kBits < least_bits) return;
    const int32_t* end = query_at + layout.quads_of_bits[kBits];
    for (; query_at < end; ++query_at, code += 64 * kBits) {
      fetcher.Steps<TileSteps(kG, kFirst)>();
      __m512i q[kG];
      AddTiles<kBits, kFirst, kTiles, kG>(acc, q, code, q8 + *query_at);
    }
    AddWidths<kBits - 1, kFirst, kTiles, kG>(acc, layout, code, query_at, q8, least_bits, fetcher);
  }
}

struct ScoreJob {
  const FrameLayout& layout;
  const std::byte* page;
  const int8_t* q8;         // [n_padded / 64][g][kFrames][64]
  const int32_t* query_at;  // [n_quads]: where in q8 the first head's four queries of a quad are
  const float* offset;      // [g][kFrames]
  const float* unit;        // [g]: what one step of the integer sum is worth
  bool add;                 // to the scores of an earlier pass, with steps of a sixteenth
  int least_bits;           // narrower channels are left out
  float* score_GT;
  LineFetcher* fetcher;  // TileSteps per quad and group of tiles
};

// Heads [head, head + kG) of tiles kFirst and on.
template <int kFirst, int kTiles, int kG>
void ScoreTiles(const ScoreJob& job, int head) {
  __m512i acc[kTiles][kG];
  PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) acc[i][h] = _mm512_setzero_si512();
  }
  LineFetcher fetcher = *job.fetcher;  // or it would be kept in memory
  AddWidths<kMaxFrameBits, kFirst, kTiles, kG>(acc, job.layout, job.page + job.layout.first_code,
                                               job.query_at, job.q8 + head * kFrames * 64,
                                               job.least_bits, fetcher);
  *job.fetcher = fetcher;
  // Read once: the compiler takes stores of scores for changes of what job points to.
  float* const score = job.score_GT + head * kPageTokens + kFirst * kFrameTile;
  const float* const unit = job.unit + head;
  const float* const offset = job.offset + head * kFrames;
  if (job.add) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
        float* at = score + h * kPageTokens + i * kFrameTile;
        _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][h]), Set(unit[h] * 0.0625f),
                                             _mm512_loadu_ps(at)));
      }
    }
    return;
  }
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    PHASOR_UNROLL for (int i = 0; i < kTiles; ++i) {
      _mm512_storeu_ps(score + h * kPageTokens + i * kFrameTile,
                       _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][h]), Set(unit[h]),
                                       Set(offset[h * kFrames + FrameOf(kFirst + i)])));
    }
  }
}

template <int kG, int kFirst = 0>
void ScoreHeads(const ScoreJob& job, int head) {
  if constexpr (kFirst < kFrameTiles) {
    constexpr int kTiles = TilesAtOnce(kG);
    ScoreTiles<kFirst, kTiles, kG>(job, head);
    ScoreHeads<kG, kFirst + kTiles>(job, head);
  }
}

// Per thread: the 8-bit query of the page at hand, and what its integer sums are turned back with.
struct PageQuery {
  AlignedBuffer<int8_t> q8, q8_fine;  // q8_fine: sixteenths of a step
  AlignedBuffer<float> scale, middle, offset, factor, unit;
  int fine_bits = 0;  // width from which on channels need a second pass; 0: none does

  void Resize(const FrameLayout& layout, int g) {
    const std::size_t n = static_cast<std::size_t>(layout.n_padded);
    const std::size_t heads = static_cast<std::size_t>(g);
    scale.Resize(n);
    middle.Resize(n);
    unit.Resize(heads + 8);
    factor.Resize(heads + 8);
    offset.Resize(heads * kFrames + 8);
    q8.Resize(heads * kFrames * n);
  }
};

// Units and their inverses of up to 8 heads: what the largest product of query and scale becomes
// 126.9 = 2047 * 2032 / 2^15 by.
// Returns the most that sums of squared codes may be for 8 bits to be enough for all of them.
template <int kG>
PHASOR_INLINE float FindUnits(const FrameLayout& layout, const float* largest, int g, int head,
                              PageQuery* out) {
  __m512 most[8], power[8];
  PHASOR_UNROLL for (int h = 0; h < 8; ++h) most[h] = power[h] = _mm512_setzero_ps();
  for (int group = 0; group < layout.n_padded; group += 64) {
    const float* at = largest + static_cast<std::ptrdiff_t>(group) * g + 64 * head;
    for (int s = 0; s < 64; s += 16) {
      const __m512 scale = _mm512_load_ps(out->scale.data() + group + s);
      PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
        const __m512 product = _mm512_mul_ps(_mm512_loadu_ps(at + 64 * h + s), scale);
        most[h] = _mm512_max_ps(most[h], product);
        power[h] = _mm512_fmadd_ps(product, product, power[h]);
      }
    }
  }
  const __m256 bound = MaxRows(most);
  const __mmask8 usable = _mm256_cmp_ps_mask(bound, _mm256_set1_ps(1e-30f), _CMP_GT_OQ) &
                          _mm256_cmp_ps_mask(bound, _mm256_set1_ps(1e30f), _CMP_LT_OQ);
  _mm256_storeu_ps(out->factor.data() + head,
                   _mm256_maskz_div_ps(usable, _mm256_set1_ps(2032.0f), bound));
  const __m256 step = _mm256_set1_ps(32768.0f / (2047.0f * 2032.0f));
  const __m256 unit = _mm256_maskz_mul_ps(usable, bound, step);
  _mm256_storeu_ps(out->unit.data() + head, unit);
  // unit^2 / 12 code_power against sum (q scale)^2 / 12; a turning q is half its bound squared.
  const __m256 allowed = _mm256_mul_ps(SumRows(power), _mm256_set1_ps(kFrameQueryError));
  alignas(32) float limit[8];
  _mm256_store_ps(limit, _mm256_div_ps(allowed, _mm256_mul_ps(unit, unit)));
  float least = INFINITY;
  for (int h = 0; h < kG; ++h)
    least = limit[h] < least ? limit[h] : least;  // 0 / 0 counts as no limit
  return least;
}

// One head: query times scales to bytes, and per frame what the channels' middles contribute.
template <bool kFine>
PHASOR_INLINE void FoldHead(const FrameLayout& layout, const FrameQuery& query, int g, int h,
                            const uint8_t* middle_fine, PageQuery* out, __m512* partial) {
  const float* scale = out->scale.data();
  const float* middle = out->middle.data();
  const __m512 factor = Set(kFine ? 16 * out->factor[h] : out->factor[h]);
  const __m512 unit = Set(out->unit[h]);
  PHASOR_UNROLL for (int i = 0; i < kFrames; ++i) partial[i] = _mm512_setzero_ps();
  for (int s = 0; s < layout.n_padded; s += 64) {
    const std::ptrdiff_t row = FrameQueryRow(s, g, h, 0);
    const float* largest = query.largest + row / kFrames;
    __m512i wide[4];
    PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
      const __m512 x =
          _mm512_mul_ps(_mm512_loadu_ps(largest + 16 * v), _mm512_load_ps(scale + s + 16 * v));
      wide[v] = _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
    }
    const __m512i m0 = _mm512_packs_epi32(wide[0], wide[1]);
    const __m512i m1 = _mm512_packs_epi32(wide[2], wide[3]);
    const __m512i middle_codes = _mm512_loadu_si512(layout.middle_bytes_S.data() + s);
    const __m512 middle0 = _mm512_load_ps(middle + s), middle1 = _mm512_load_ps(middle + s + 16);
    const __m512 middle2 = _mm512_load_ps(middle + s + 32);
    const __m512 middle3 = _mm512_load_ps(middle + s + 48);
    const int16_t* normalized = query.normalized + row;
    const float* turned = query.turned + row;
    int8_t* q8 = out->q8.data() + row;
    int8_t* q8_fine = kFine ? out->q8_fine.data() + row : nullptr;
    PHASOR_UNROLL for (int i = 0; i < kFrames; ++i) {
      __m512i q0 = _mm512_mulhrs_epi16(_mm512_loadu_si512(normalized + 64 * i), m0);
      __m512i q1 = _mm512_mulhrs_epi16(_mm512_loadu_si512(normalized + 64 * i + 32), m1);
      __m512 below_fine = _mm512_setzero_ps();
      if constexpr (kFine) {
        const __m512i whole0 = _mm512_srai_epi16(_mm512_add_epi16(q0, _mm512_set1_epi16(8)), 4);
        const __m512i whole1 = _mm512_srai_epi16(_mm512_add_epi16(q1, _mm512_set1_epi16(8)), 4);
        const __m512i rest = _mm512_packs_epi16(_mm512_sub_epi16(q0, _mm512_slli_epi16(whole0, 4)),
                                                _mm512_sub_epi16(q1, _mm512_slli_epi16(whole1, 4)));
        _mm512_storeu_si512(q8_fine + 64 * i, rest);
        below_fine =
            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(
                              _mm512_setzero_si512(), _mm512_loadu_si512(middle_fine + s), rest)),
                          Set(0.0625f));
        q0 = whole0;
        q1 = whole1;
      }
      const __m512i q = _mm512_packs_epi16(q0, q1);
      _mm512_storeu_si512(q8 + 64 * i, q);
      const __m512i below = _mm512_dpbusd_epi32(_mm512_setzero_si512(), middle_codes, q);
      const float* t = turned + 64 * i;
      __m512 codes_below = _mm512_cvtepi32_ps(below);
      if constexpr (kFine) codes_below = _mm512_add_ps(codes_below, below_fine);
      // What waits for the codes comes last.
      __m512 sum = _mm512_fmadd_ps(_mm512_loadu_ps(t), middle0, partial[i]);
      sum = _mm512_fmadd_ps(_mm512_loadu_ps(t + 16), middle1, sum);
      sum = _mm512_fmadd_ps(_mm512_loadu_ps(t + 32), middle2, sum);
      sum = _mm512_fmadd_ps(_mm512_loadu_ps(t + 48), middle3, sum);
      partial[i] = _mm512_fnmadd_ps(codes_below, unit, sum);
    }
  }
}

// Heads from `head` on, as many as one SumRows serves.
constexpr int kFoldHeads = 8 / kFrames;

template <bool kFine>
void FoldSomeHeads(const FrameLayout& layout, const FrameQuery& query, int g, int head,
                   const uint8_t* middle_fine, PageQuery* out) {
  __m512 partial[kFoldHeads * kFrames];
  const int n = std::min(g - head, kFoldHeads);
  for (int i = 0; i < n; ++i) {
    FoldHead<kFine>(layout, query, g, head + i, middle_fine, out, partial + i * kFrames);
  }
  for (int i = n * kFrames; i < kFoldHeads * kFrames; ++i) partial[i] = _mm512_setzero_ps();
  _mm256_storeu_ps(out->offset.data() + head * kFrames, SumRows(partial));
}

// Steps of the fetcher beside ScoreTiles: LoadScales, per 16 slots, and FoldSomeHeads, of one head
// and 64 slots.
constexpr int kLoadSteps = 3;
int FoldSteps(int g) { return (18 + g - 1) / g; }

// All steps of a page.
int ScoreSteps(const FrameLayout& layout, int g) {
  int n = layout.n_padded / 16 * kLoadSteps + layout.n_padded / 64 * g * FoldSteps(g);
  for (int left = g; left > 0;) {  // as ScorePass divides the heads
    const int heads = left > 8 ? 4 : left;
    for (int tile = 0; tile < kFrameTiles; tile += TilesAtOnce(heads)) {
      n += layout.n_quads * TileSteps(heads, tile);
    }
    left -= heads;
  }
  return n;
}

// Scales and middles of a page, the units of the heads, and which channels need a second pass.
void LoadScales(const FrameLayout& layout, const FrameQuery& query, int g, const std::byte* page,
                PageQuery* out, LineFetcher& fetcher) {
  const int n = layout.n_padded, n_slots = 4 * layout.n_quads;
  for (int s = 0; s < n; s += 16) {
    const int left = std::clamp(n_slots - s, 0, 16);
    const __mmask16 mask = static_cast<__mmask16>((1u << left) - 1);
    const __m512 step = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, page + 2 * s));
    const __m512 low = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, page + 2 * (n_slots + s)));
    _mm512_store_ps(out->scale.data() + s, step);
    _mm512_store_ps(out->middle.data() + s,
                    _mm512_fmadd_ps(step, _mm512_loadu_ps(layout.middle_S.data() + s), low));
    fetcher.Steps(kLoadSteps);
  }
  float limit = INFINITY;
  for (int head = 0; head < g; head += 4) {
    switch (std::min(g - head, 4)) {
      case 1:
        limit = std::min(limit, FindUnits<1>(layout, query.largest, g, head, out));
        break;
      case 2:
        limit = std::min(limit, FindUnits<2>(layout, query.largest, g, head, out));
        break;
      case 3:
        limit = std::min(limit, FindUnits<3>(layout, query.largest, g, head, out));
        break;
      default:
        limit = std::min(limit, FindUnits<4>(layout, query.largest, g, head, out));
        break;
    }
  }
  out->fine_bits = 0;
  if (layout.code_power <= limit) return;
  // As many of the widest as leave half of the allowance to the rest.
  int bits = kMaxFrameBits;
  while (bits > 1 && layout.power_below[bits] > 0.5f * limit) --bits;
  out->fine_bits = bits;
}

void FoldHeads(const FrameLayout& layout, const FrameQuery& query, int g, PageQuery* out,
               LineFetcher& fetcher) {
  if (out->fine_bits == 0) {
    for (int h = 0; h < g; h += kFoldHeads) {
      FoldSomeHeads<false>(layout, query, g, h, nullptr, out);
      fetcher.Steps(layout.n_padded / 64 * std::min(g - h, kFoldHeads) * FoldSteps(g));
    }
    return;
  }
  out->q8_fine.Resize(out->q8.size());
  const uint8_t* middle_fine = layout.middle_from[out->fine_bits].data();
  for (int h = 0; h < g; h += kFoldHeads) {
    FoldSomeHeads<true>(layout, query, g, h, middle_fine, out);
  }
}

void ScorePass(const ScoreJob& job, int g) {
  int head = 0;
  for (; g - head > 8; head += 4) ScoreHeads<4>(job, head);
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
    case 6:
      return ScoreHeads<6>(job, head);
    case 7:
      return ScoreHeads<7>(job, head);
    default:
      return ScoreHeads<8>(job, head);
  }
}

void ScoreProducts(const FrameLayout& layout, const PageQuery& query, const int32_t* query_at,
                   int g, const PageToScore& page, LineFetcher& fetcher) {
  ScoreJob job = {layout,           page.page,           query.q8.data(),
                  query_at,         query.offset.data(), query.unit.data(),
                  /*add=*/false,
                  /*least_bits=*/1, page.score_GT,       &fetcher};
  ScorePass(job, g);
  if (query.fine_bits == 0) return;
  LineFetcher idle;  // the first pass has asked for everything
  job.fetcher = &idle;
  job.q8 = query.q8_fine.data();
  job.add = true;
  job.least_bits = query.fine_bits;
  ScorePass(job, g);
}

// ScoreJob::query_at; made once for pages of one shape.
const int32_t* QueriesOfQuads(int n_quads, int g) {
  static thread_local std::vector<int32_t> query_at;
  static thread_local int made_for = 0;
  if (static_cast<int>(query_at.size()) == n_quads && made_for == g) return query_at.data();
  query_at.resize(static_cast<std::size_t>(n_quads));
  for (int q = 0; q < n_quads; ++q) {
    query_at[static_cast<std::size_t>(q)] = q / 16 * g * kFrames * 64 + 4 * FrameDword(q);
  }
  made_for = g;
  return query_at.data();
}

// Each step for a few pages together: the units of one are a chain of latencies.
void ScoreAvx512(const FrameLayout& layout, const FrameQuery& query, int g,
                 std::span<const PageToScore> pages) {
  constexpr std::size_t kTogether = 4;
  static thread_local PageQuery scratch[kTogether];
  for (PageQuery& s : scratch) s.Resize(layout, g);
  const int32_t* query_at = QueriesOfQuads(layout.n_quads, g);
  const int n_steps = ScoreSteps(layout, g);
  for (; !pages.empty(); pages = pages.subspan(std::min(pages.size(), kTogether))) {
    const std::size_t n = std::min(pages.size(), kTogether);
    LineFetcher fetcher[kTogether];
    for (std::size_t i = 0; i < n; ++i) {
      fetcher[i] = LineFetcher(pages[i].next, n_steps);
      LoadScales(layout, query, g, pages[i].page, &scratch[i], fetcher[i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      FoldHeads(layout, query, g, &scratch[i], fetcher[i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      ScoreProducts(layout, scratch[i], query_at, g, pages[i], fetcher[i]);
      fetcher[i].Finish();
    }
  }
}

void PrepareAvx512(const FrameLayout& layout, const float* q_GD, int g, const FrameQuery& query) {
  const int n = layout.n_padded, n_slots = 4 * layout.n_quads;
  static thread_local AlignedBuffer<float> scratch;
  scratch.Resize(static_cast<std::size_t>(3 * n));
  float* x = scratch.data();
  float* y = x + n;
  float* inverse = y + n;
  for (int h = 0; h < g; ++h) {
    const float* q = q_GD + static_cast<std::ptrdiff_t>(h) * layout.head_dim;
    std::fill(x + n_slots / 16 * 16, x + n, 0.0f);
    std::fill(y + n_slots / 16 * 16, y + n, 0.0f);
    for (int s = 0; s < n_slots; ++s) {
      const int a = layout.channel_S[s], b = layout.partner_S[s];
      x[s] = a < 0 ? 0.0f : q[a];
      y[s] = b == a ? 0.0f : q[b];
    }
    for (int s = 0; s < n; s += 16) {
      const __m512 a = _mm512_load_ps(x + s), b = _mm512_load_ps(y + s);
      const __m512 length = _mm512_sqrt_ps(_mm512_fmadd_ps(a, a, _mm512_mul_ps(b, b)));
      const __mmask16 some = _mm512_cmp_ps_mask(length, _mm512_setzero_ps(), _CMP_GT_OQ);
      _mm512_storeu_ps(query.largest + FrameQueryRow(s, g, h, 0) / kFrames + s % 64, length);
      _mm512_store_ps(inverse + s, _mm512_maskz_div_ps(some, Set(2047.0f), length));
    }
    for (int i = 0; i < kFrames; ++i) {
      const float* cosine = layout.cos_IS.data() + static_cast<std::ptrdiff_t>(i) * n;
      const float* sine = layout.sin_IS.data() + static_cast<std::ptrdiff_t>(i) * n;
      for (int s = 0; s < n; s += 64) {
        const std::ptrdiff_t row = FrameQueryRow(s, g, h, i);
        __m512i wide[4];
        PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
          const int at = s + 16 * v;
          const __m512 value =
              _mm512_fmadd_ps(_mm512_loadu_ps(cosine + at), _mm512_load_ps(x + at),
                              _mm512_mul_ps(_mm512_loadu_ps(sine + at), _mm512_load_ps(y + at)));
          _mm512_storeu_ps(query.turned + row + 16 * v, value);
          const __m512 scaled = _mm512_mul_ps(value, _mm512_load_ps(inverse + at));
          wide[v] =
              _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(scaled, Set(2047.0f)), Set(-2047.0f)));
        }
        _mm512_storeu_si512(query.normalized + row, _mm512_packs_epi32(wide[0], wide[1]));
        _mm512_storeu_si512(query.normalized + row + 32, _mm512_packs_epi32(wide[2], wide[3]));
      }
    }
  }
}

// Turns every pair of frame_DT [D][128] by direction * 64 i omega_j in frame i, within +-65504.
void TurnFrames(const FrameLayout& layout, float direction, float* frame_DT) {
  const std::size_t n_pairs = layout.pairs.size();
  for (std::size_t j = 0; j < n_pairs; ++j) {
    float* x = frame_DT + layout.pairs[j].x * kRowFloats;
    float* y = frame_DT + layout.pairs[j].y * kRowFloats;
    for (std::size_t i = 0; i < kFrameTiles; ++i) {
      const std::size_t at = FrameOf(static_cast<int>(i)) * n_pairs + j;
      const __m512 c = Set(layout.cos_IP[at]);
      const __m512 s = Set(direction * layout.sin_IP[at]);
      const __m512 a = _mm512_load_ps(x + 16 * i), b = _mm512_load_ps(y + 16 * i);
      const __m512 u = _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c));
      const __m512 v = _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c));
      const __m512 top = Set(kPolarInfinity), bottom = Set(-kPolarInfinity);
      _mm512_store_ps(x + 16 * i, _mm512_max_ps(_mm512_min_ps(u, top), bottom));
      _mm512_store_ps(y + 16 * i, _mm512_max_ps(_mm512_min_ps(v, top), bottom));
    }
  }
}

struct Fit {
  FrameGrid grid;
  __m512 low, scale, inverse, top;
};

PHASOR_INLINE Fit MakeFit(FrameGrid grid, int bits) {
  const float scale = _cvtsh_ss(grid.scale);
  return {grid, Set(_cvtsh_ss(grid.low)), Set(scale), Set(scale > 0.0f ? 1.0f / scale : 0.0f),
          Set(static_cast<float>((1 << bits) - 1))};
}

PHASOR_INLINE __m512 FitCode(const Fit& fit, __m512 x) {
  const __m512 level = _mm512_roundscale_ps(_mm512_mul_ps(_mm512_sub_ps(x, fit.low), fit.inverse),
                                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_max_ps(_mm512_min_ps(level, fit.top), _mm512_setzero_ps());
}

// The best grid of 128 values.
Fit FitSlot(const float* x_T, int bits, bool whole_range) {
  __m512 x[8];
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) x[i] = _mm512_load_ps(x_T + 16 * i);
  if (bits == 0) {
    __m512 sum = x[0];
    PHASOR_UNROLL for (int i = 1; i < 8; ++i) sum = _mm512_add_ps(sum, x[i]);
    const float mean = _mm512_reduce_add_ps(sum) * (1.0f / kPageTokens);
    return MakeFit({0, static_cast<uint16_t>(_cvtss_sh(mean, _MM_FROUND_TO_NEAREST_INT))}, 0);
  }
  __m512 lo = x[0], hi = x[0];
  PHASOR_UNROLL for (int i = 1; i < 8; ++i) {
    lo = _mm512_min_ps(lo, x[i]);
    hi = _mm512_max_ps(hi, x[i]);
  }
  const float low = _mm512_reduce_min_ps(lo), high = _mm512_reduce_max_ps(hi);
  if (whole_range) return MakeFit(WholeFrameGrid(low, high, bits), bits);
  Fit best = {};
  float least = INFINITY;
  for (const float shrink : kFrameShrink[bits]) {
    if (shrink == 0.0f) break;
    const Fit fit = MakeFit(MakeFrameGrid(low, high, shrink, bits), bits);
    __m512 sum = _mm512_setzero_ps();
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
      const __m512 error =
          _mm512_sub_ps(_mm512_fmadd_ps(fit.scale, FitCode(fit, x[i]), fit.low), x[i]);
      sum = _mm512_fmadd_ps(error, error, sum);
    }
    const float error = _mm512_reduce_add_ps(sum);
    if (error < least || best.grid.scale == 0) {
      least = error;
      best = fit;
    }
  }
  return best;
}

// word[i]: codes of tile i, byte k of a dword from slot k.
void PackQuad(const __m512i word[8], int bits, std::byte* quad) {
  int at = 0;
  if (bits & 4) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int m = 0; m < 4; ++m) {
      const __m512i high = _mm512_slli_epi32(_mm512_and_si512(word[2 * m + 1], mask), 4);
      _mm512_storeu_si512(quad + 64 * m,
                          _mm512_or_si512(_mm512_and_si512(word[2 * m], mask), high));
    }
    quad += 256;
    at = 4;
  }
  if (bits & 2) {
    const __m512i mask = _mm512_set1_epi8(3);
    for (int m = 0; m < 2; ++m) {
      __m512i out = _mm512_setzero_si512();
      for (int i = 0; i < 4; ++i) {
        const __m512i part =
            _mm512_and_si512(_mm512_srl_epi32(word[4 * m + i], _mm_cvtsi32_si128(at)), mask);
        out = _mm512_or_si512(out, _mm512_sll_epi32(part, _mm_cvtsi32_si128(2 * i)));
      }
      _mm512_storeu_si512(quad + 64 * m, out);
    }
    quad += 128;
    at += 2;
  }
  if (bits & 1) {
    __m512i out = _mm512_setzero_si512();
    for (int i = 0; i < 8; ++i) {
      const __m512i part =
          _mm512_and_si512(_mm512_srl_epi32(word[i], _mm_cvtsi32_si128(at)), _mm512_set1_epi8(1));
      out = _mm512_or_si512(out, _mm512_sll_epi32(part, _mm_cvtsi32_si128(i)));
    }
    _mm512_storeu_si512(quad, out);
  }
}

// x_T, the channel of slot `slot`, becomes what is to be rounded. frame_DT: residuals of slots
// behind it.
void AddFeedback(const FrameLayout& layout, int slot, const float* frame_DT, float* x_T) {
  const uint32_t begin = layout.feedback_S[slot], end = layout.feedback_S[slot + 1];
  if (begin == end) return;
  __m512 x[8];
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) x[i] = _mm512_load_ps(x_T + 16 * i);
  for (uint32_t f = begin; f < end; ++f) {
    const float* residual_T = frame_DT + layout.feedback[f].channel * kRowFloats;
    const __m512 weight = Set(layout.feedback[f].weight);
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
      x[i] = _mm512_fmadd_ps(weight, _mm512_load_ps(residual_T + 16 * i), x[i]);
    }
  }
  const __m512 top = Set(kPolarInfinity), bottom = Set(-kPolarInfinity);
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
    _mm512_store_ps(x_T + 16 * i, _mm512_max_ps(_mm512_min_ps(x[i], top), bottom));
  }
}

// x_T becomes the residual of its rounding.
PHASOR_INLINE void ToResidual(const Fit& fit, float* x_T) {
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
    const __m512 x = _mm512_load_ps(x_T + 16 * i);
    _mm512_store_ps(x_T + 16 * i,
                    _mm512_sub_ps(_mm512_fmadd_ps(fit.scale, FitCode(fit, x), fit.low), x));
  }
}

void EncodeAvx512(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
  float* frame = TileScratch(layout.head_dim);
  RowsToTile(x_TD, layout.head_dim, n_tokens, frame);
  TurnFrames(layout, -1.0f, frame);
  if (n_tokens < kPageTokens) {  // missing tokens are copies of the last one, in its frame
    for (int d = 0; d < layout.head_dim; ++d) {
      float* row = frame + d * kRowFloats;
      std::fill(row + n_tokens, row + kPageTokens, row[n_tokens - 1]);
    }
  }
  std::memset(page, 0, layout.first_code);
  const bool feeds_back = !layout.feedback.empty();
  std::byte* quad = page + layout.page_bytes;
  for (int q = layout.n_quads - 1; q >= 0; --q) {
    const int bits = layout.bits_Q[q];
    quad -= 64 * bits;
    __m512i word[8];
    for (__m512i& w : word) w = _mm512_setzero_si512();
    for (int k = 3; k >= 0; --k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      if (channel < 0) continue;
      float* x_T = frame + channel * kRowFloats;
      if (feeds_back) AddFeedback(layout, slot, frame, x_T);
      const Fit fit = FitSlot(x_T, bits, layout.whole_ranges);
      std::memcpy(page + 2 * slot, &fit.grid.scale, 2);
      std::memcpy(page + 2 * (4 * layout.n_quads + slot), &fit.grid.low, 2);
      if (bits > 0) {
        const __m128i shift = _mm_cvtsi32_si128(8 * k);
        PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
          const __m512i code = _mm512_cvtps_epi32(FitCode(fit, _mm512_load_ps(x_T + 16 * i)));
          word[i] = _mm512_or_si512(word[i], _mm512_sll_epi32(code, shift));
        }
      }
      if (feeds_back) ToResidual(fit, x_T);
    }
    PackQuad(word, bits, quad);
  }
}

// The values of one quad's slots, into rows of frame_DT.
template <int kBits, int kTile = 0>
PHASOR_INLINE void UnpackTiles(const std::byte* quad, const float scale[4], const float low[4],
                               float* const row[4]) {
  if constexpr (kTile < kFrameTiles) {
    const __m512i code = TileCodes<kBits, kTile>(quad);
    PHASOR_UNROLL for (int k = 0; k < 4; ++k) {
      __m512i one = k == 0 ? code : _mm512_srl_epi32(code, _mm_cvtsi32_si128(8 * k));
      one = _mm512_and_si512(one, _mm512_set1_epi32(255));
      _mm512_store_ps(row[k] + kTile * kFrameTile,
                      _mm512_fmadd_ps(_mm512_cvtepi32_ps(one), Set(scale[k]), Set(low[k])));
    }
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

void DecodeAvx512(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  float* frame = TileScratch(layout.head_dim);
  const std::byte* quad = page + layout.first_code;
  alignas(64) float unused[kPageTokens];
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
  TurnFrames(layout, 1.0f, frame);
  TileToRows(frame, layout.head_dim, n_tokens, x_TD);
}

}  // namespace

const FrameKernels kFrameKernelsAvx512 = {EncodeAvx512, DecodeAvx512, ScoreAvx512, PrepareAvx512};

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
