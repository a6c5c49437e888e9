// Scores of polar codecs with AVX2, in 16-bit integers:
//
// - A page's radii are counted in 1/kPolarRadiusUnits of the slot's largest, which goes into the
//   query. The query is also turned by the angle its slot's levels count from, and rounded to 16
//   bits; its unit is such that sums over all slots fit in 16 bits.
// - Cosines and sines of the angle levels are computed per slot and page, 16 at a time: a phase of
// 16
//   bits wraps by itself, and the polynomial is four vpmulhrsw. What follows is either a table per
//   head (polar_tables_avx2.cc) or x and y for all heads (polar_pairs_avx2.cc).
// - Where that would add too much to the error of the codes (narrow pages far from the origin), the
//   page is scored in float.
#if defined(__x86_64__)
#include <algorithm>

#include "kvcodec/polar_words_avx2-inl.h"
#include "simd/line_fetcher.h"

namespace phasor {
namespace {

// Squared error that a slot adds to a sum, times the square of a query's unit (a sum's is 2^15 of
// them): 1/12 from rounding the last product, and from the query and from two products before it
// 1/12 each, times kPolarRadiusUnits / 2^15 squared.
constexpr float kSlotError = 0x1p30f * 0.22f;
// Mean square of the error of cosines, sines and radii of 1.
constexpr float kLevelError = 1e-8f;
// From here on x and y of a token are cheaper than a table of two vectors per head.
constexpr int kManyHeads = 3;

bool AsPairs(const PolarRun& run, int g) {
  return run.angle_table == AngleTable::kProduct ||
         (run.angle_table == AngleTable::kTwoVectors && g >= kManyHeads);
}

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// Sums of one head and 32 tokens, in the order of CodeBytes, to scores 16 tokens apart.
PHASOR_INLINE void StoreScores(const int16_t* sum, __m256 factor, float* out) {
  const __m256i a = LoadBytes(sum), b = LoadBytes(sum + 16);
  // a has lanes 0 1 | 4 5 of four tiles, b lanes 2 3 | 6 7. c: lanes 0 2 | 4 6; d: 1 3 | 5 7.
  const __m256i c = _mm256_unpacklo_epi16(a, b), d = _mm256_unpackhi_epi16(a, b);
  // All lanes, of tiles 0 and 1, and of 2 and 3.
  const __m256i tiles[2] = {_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d)};
  const __m256i zero = _mm256_setzero_si256();
  PHASOR_UNROLL for (int i = 0; i < 2; ++i, out += 32) {  // to the upper halves of 32 bits
    const __m256i even = _mm256_unpacklo_epi16(zero, tiles[i]);
    const __m256i odd = _mm256_unpackhi_epi16(zero, tiles[i]);
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(even), factor));
    _mm256_storeu_ps(out + 16, _mm256_mul_ps(_mm256_cvtepi32_ps(odd), factor));
  }
}

void Resize(int g, PolarPageScratch* out) {
  const std::size_t heads = static_cast<std::size_t>(g);
  out->sum.Resize(heads * kPageTokens);
  out->table.Resize(heads * kPolarChunkSlots * 64);
  out->codes.Resize(std::size_t{kPolarChunkSlots} * kPolarVectors * 128);
}

}  // namespace

void ScorePolarAvx2(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
                    int n_tokens, float* score_GT, Upcoming next) {
  static thread_local PolarPageScratch thread_scratch;
  PolarPageScratch* scratch = &thread_scratch;
  __asm__("" : "+r"(scratch));  // or g++ looks up thread-local memory at each use
  const int n_padded = PaddedPolarSlots(layout);
  Resize(g, scratch);
  // Rounding can take every slot's part of a sum up by 2 units.
  const float room = 32767.0f - 3.0f * static_cast<float>(n_padded);
  const PolarPlanLimits limits = {kPolarRadiusUnits, room * (32768.0f / kPolarRadiusUnits),
                                  kSlotError, kLevelError, /*last_middle_bits=*/5};
  if (!PlanPolarScores(layout, prepared, g, page, limits, &scratch->plan)) {
    return ScorePolarFloatAvx2(layout, prepared, g, page, n_tokens, score_GT);
  }
  std::fill_n(scratch->sum.data(), g * kPageTokens, int16_t{0});
  int n_steps = 0;
  for (const PolarRun& run : layout.runs) {
    n_steps += run.count * PolarFetchSteps(run.angle_table, AsPairs(run, g), g);
  }
  LineFetcher fetcher(next, n_steps);
  for (const PolarRun& run : layout.runs) {
    const bool as_pairs = AsPairs(run, g);
    const int n_chunks = (run.count + kPolarChunkSlots - 1) / kPolarChunkSlots;
    for (int c = 0; c < n_chunks; ++c) {
      const int begin = run.count * c / n_chunks, end = run.count * (c + 1) / n_chunks;
      const PolarSlots slots = {layout,   page, run.first + begin, end - begin,
                                n_padded, g,    scratch,           &fetcher};
      (as_pairs ? AddPolarPairsAvx2 : AddPolarTablesAvx2)(slots);
    }
  }
  for (int h = 0; h < g; ++h) {
    const __m256 factor = _mm256_set1_ps(0.5f * scratch->plan.unit.data()[h]);
    float* out = score_GT + h * kPageTokens;
    for (int v = 0; v < kPolarVectors; ++v) {
      StoreScores(scratch->sum.data() + 32 * (v * g + h), factor, out + 64 * (v / 2) + 8 * (v % 2));
    }
  }
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
