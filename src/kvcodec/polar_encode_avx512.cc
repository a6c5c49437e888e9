// Polar encoding for AVX-512: lanes are tokens.
#if defined(__x86_64__)

#include "kvcodec/page_avx512-inl.h"
#include "kvcodec/polar_kernels.h"
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// As Atan2Turns, as a phase.
inline __m512i Phase16(__m512 y, __m512 x) {
  const __m512 ax = _mm512_abs_ps(x), ay = _mm512_abs_ps(y);
  const __m512 big = _mm512_max_ps(ax, ay), small = _mm512_min_ps(ax, ay);
  const __mmask16 nonzero = _mm512_cmp_ps_mask(big, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 z = _mm512_maskz_div_ps(nonzero, small, big), z2 = _mm512_mul_ps(z, z);
  __m512 p = Set(kAtanTurns[6]);
  PHASOR_UNROLL for (int i = 5; i >= 0; --i) p = _mm512_fmadd_ps(p, z2, Set(kAtanTurns[i]));
  p = _mm512_mul_ps(p, z);
  const __mmask16 steep = _mm512_cmp_ps_mask(ay, ax, _CMP_GT_OQ);
  p = _mm512_mask_sub_ps(p, steep, Set(0.25f), p);
  const __mmask16 left = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  p = _mm512_mask_sub_ps(p, left, Set(0.5f), p);
  const __mmask16 below = _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_LT_OQ);
  p = _mm512_mask_sub_ps(p, below, Set(1.0f), p);
  const __m512i phase = _mm512_cvtps_epi32(_mm512_mul_ps(p, Set(0x1p24f)));
  return _mm512_and_si512(phase, _mm512_set1_epi32(kPhaseMask));
}

struct alignas(64) PairScratch {
  int32_t phase[kPageTokens];
  float r[kPageTokens];
};

// As ToPolar, for a whole page of sanitized tokens.
void ToPolarPage(const float* x_T, const float* y_T, PairScratch* out) {
  bool any_zero = false;
  for (int i = 0; i < kPageTokens; i += 16) {
    const __m512 x = _mm512_load_ps(x_T + i);
    const __m512 y = y_T == nullptr ? _mm512_setzero_ps() : _mm512_load_ps(y_T + i);
    const __m512 r = _mm512_sqrt_ps(_mm512_fmadd_ps(x, x, _mm512_mul_ps(y, y)));
    any_zero |= _mm512_cmp_ps_mask(r, _mm512_setzero_ps(), _CMP_EQ_OQ) != 0;
    _mm512_store_ps(out->r + i, r);
    _mm512_store_si512(out->phase + i, Phase16(y, x));
  }
  if (!any_zero) return;
  int first = 0;
  while (first < kPageTokens - 1 && !(out->r[first] > 0.0f)) ++first;
  for (int t = 0; t < kPageTokens; ++t) {
    if (!(out->r[t] > 0.0f)) out->phase[t] = out->phase[first];
  }
}

// As FitGrid.
PolarGrid FitPage(const PairScratch& pair, PolarWidth width, CircleCut cut) {
  int32_t origin = 0;
  if (cut == CircleCut::kLargestGap) {
    alignas(64) uint8_t seen[256] = {};
    for (int t = 0; t < kPageTokens; ++t) seen[pair.phase[t] >> (kPhaseBits - 8)] = 1;
    uint64_t bins[4];
    for (int w = 0; w < 4; ++w) {
      const __m512i bytes = _mm512_load_si512(seen + 64 * w);
      bins[w] = _mm512_test_epi8_mask(bytes, bytes);
    }
    origin = CutBehindLargestGap(bins);
  }
  const __m512i from = _mm512_set1_epi32(origin), mask = _mm512_set1_epi32(kPhaseMask);
  __m512i low = mask, high = _mm512_setzero_si512();
  __m512 r_low = _mm512_load_ps(pair.r), r_high = r_low;
  for (int i = 0; i < kPageTokens; i += 16) {
    const __m512i phase = _mm512_load_si512(pair.phase + i);
    const __m512i d = _mm512_and_si512(_mm512_sub_epi32(phase, from), mask);
    const __m512 r = _mm512_load_ps(pair.r + i);
    low = _mm512_min_epi32(low, d);
    high = _mm512_max_epi32(high, d);
    r_low = _mm512_min_ps(r_low, r);
    r_high = _mm512_max_ps(r_high, r);
  }
  const int32_t d_low = _mm512_reduce_min_epi32(low), d_high = _mm512_reduce_max_epi32(high);
  return MakeGrid(origin + d_low, d_high - d_low, _mm512_reduce_min_ps(r_low),
                  _mm512_reduce_max_ps(r_high), width);
}

// As PolarCode, then PackField.
void PackPage(const PairScratch& pair, const PolarGrid& grid, const PolarSlot& slot,
              std::byte* page) {
  const PolarWidth width = slot.width;
  const int phi_start = int32_t{grid.phi_min} << (kPhaseBits - 16);
  const float per_unit = grid.phi_range == 0 ? 0.0f
                                             : static_cast<float>(1 << width.a_bits) /
                                                   (static_cast<float>(grid.phi_range) * 256.0f);
  const __m128i radius = _mm_cvtsi32_si128(grid.r_min | grid.r_step << 16);
  const __m128 r_grid = _mm_cvtph_ps(radius);
  const float r_min = _mm_cvtss_f32(r_grid);
  const float r_step = _mm_cvtss_f32(_mm_shuffle_ps(r_grid, r_grid, 1));
  const float per_r = r_step > 0.0f ? 1.0f / r_step : 0.0f;
  const __m512i a_max = _mm512_set1_epi32((1 << width.a_bits) - 1);
  const __m512 r_max = Set(static_cast<float>((1 << width.r_bits) - 1));
  __m512i code[8];
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
    const __m512i phase = _mm512_load_si512(pair.phase + 16 * i);
    const __m512i d = _mm512_and_si512(_mm512_sub_epi32(phase, _mm512_set1_epi32(phi_start)),
                                       _mm512_set1_epi32(kPhaseMask));
    __m512i theta = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(d), Set(per_unit)));
    theta = _mm512_min_epi32(theta, a_max);
    const __m512 r = _mm512_sub_ps(_mm512_load_ps(pair.r + 16 * i), Set(r_min));
    __m512 cell = _mm512_max_ps(_mm512_mul_ps(r, Set(per_r)), _mm512_setzero_ps());
    const __m512i rho = _mm512_cvttps_epi32(_mm512_min_ps(cell, r_max));
    code[i] = _mm512_or_si512(theta, _mm512_sll_epi32(rho, _mm_cvtsi32_si128(width.a_bits)));
  }
  StoreCodes(code, width.total(), slot.parts, page);
}

}  // namespace

void EncodePolarAvx512(const PolarLayout& layout, const float* x_TD, int n_tokens,
                       std::byte* page) {
  float* tile = TileScratch(layout.head_dim);
  RowsToTile(x_TD, layout.head_dim, n_tokens, tile);
  const std::size_t grids_end = static_cast<std::size_t>(layout.n_slots) * sizeof(PolarGrid);
  std::memset(page + grids_end, 0, (grids_end + 63) / 64 * 64 - grids_end);
  for (int s = 0; s < layout.n_slots; ++s) {
    const PolarSlot& slot = layout.slots[s];
    PairScratch pair;
    ToPolarPage(tile + slot.dims.x * kRowFloats,
                slot.dims.y < 0 ? nullptr : tile + slot.dims.y * kRowFloats, &pair);
    const PolarGrid grid = FitPage(pair, slot.width, layout.cut);
    StorePolarGrid(layout, s, grid, page);
    PackPage(pair, grid, slot, page);
  }
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
