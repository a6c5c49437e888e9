// The plan of a polar page's scores in integers, and prepared queries. 256-bit vectors at every
// level: there are few slots.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "kvcodec/page_avx2-inl.h"
#include "kvcodec/polar_kernels.h"
#include "kvcodec/polar_plan.h"
#include "simd/target.h"

namespace phasor {
namespace {

// What integers may add to the squared error of the codes: 1/8 of it, squared.
constexpr float kPolarKernelError = 1.0f / 64;
constexpr float kLargestQuery = 32700.0f;

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

PHASOR_INLINE __m128i Load8(const std::byte* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
PHASOR_INLINE void StoreTwice(__m256 x, __m256 y, float* out) {
  const __m256 a = _mm256_unpacklo_ps(x, y), b = _mm256_unpackhi_ps(x, y);
  _mm_store_ps(out, _mm256_castps256_ps128(a));
  _mm_store_ps(out + 4, _mm256_castps256_ps128(b));
  _mm_store_ps(out + 8, _mm256_extractf128_ps(a, 1));
  _mm_store_ps(out + 12, _mm256_extractf128_ps(b, 1));
}
// A 16-bit number in both halves.
PHASOR_INLINE __m256i Twice(__m256 x) {
  const __m256i i = _mm256_cvtps_epi32(x);
  return _mm256_blend_epi16(i, _mm256_slli_epi32(i, 16), 0xaa);
}

// The grids of all slots: radii in units, and what a unit is; the angle that levels count from.
void LoadGrids(const PolarLayout& layout, const std::byte* page, const PolarPlanLimits& limits,
               PolarPlan* out) {
  const float radius_units = limits.radius_units;
  // 2 pi radians in radius units, over 2^16.
  const float arc_units = 6.2831853f * 0x1p-16f * radius_units;
  const int n = layout.n_slots;
  const __m256i count = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int s = 0; s < n; s += 8) {
    // Beyond the last slot these are other bytes of the page, and masked.
    const __m256 r_min = _mm256_cvtph_ps(Load8(page + 2 * (2 * n + s)));
    const __m256 r_step = _mm256_cvtph_ps(Load8(page + 2 * (3 * n + s)));
    // 2^r_bits, by its exponent.
    const __m256 levels = _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_add_epi32(LoadBytes(layout.r_bits_S.data() + s), _mm256_set1_epi32(127)), 23));
    const __m256 first = _mm256_fmadd_ps(_mm256_set1_ps(0.5f), r_step, r_min);
    const __m256 range = _mm256_mul_ps(levels, r_step);
    const __m256 top = _mm256_fnmadd_ps(_mm256_set1_ps(0.5f), r_step, _mm256_add_ps(r_min, range));
    const __m256 is_slot = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - s), count));
    const __m256 used = _mm256_and_ps(is_slot, _mm256_cmp_ps(top, _mm256_setzero_ps(), _CMP_GT_OQ));
    const __m256 inverse = _mm256_and_ps(used, _mm256_div_ps(_mm256_set1_ps(radius_units), top));
    const __m256 scale =
        _mm256_and_ps(used, _mm256_mul_ps(top, _mm256_set1_ps(1.0f / radius_units)));
    // Half a unit more, because the other part of a radius is rounded down.
    StoreBytes(out->r_first.data() + s,
               Twice(_mm256_fmadd_ps(first, inverse, _mm256_set1_ps(0.5f))));
    StoreBytes(out->r_range.data() + s, Twice(_mm256_mul_ps(range, inverse)));
    _mm256_store_ps(out->scale.data() + s, scale);
  }
  for (int s = 0; s < n; s += 8) {
    const __m256 scale = _mm256_load_ps(out->scale.data() + s);
    const __m256i a_bits = LoadBytes(layout.a_bits_S.data() + s);
    const __m256i from_middle =
        _mm256_andnot_si256(_mm256_cmpgt_epi32(a_bits, _mm256_set1_epi32(limits.last_middle_bits)),
                            _mm256_cmpgt_epi32(a_bits, _mm256_set1_epi32(4)));
    const __m256i phi_min = _mm256_cvtepu16_epi32(Load8(page + 2 * s));
    const __m256i phi_range = _mm256_cvtepu16_epi32(Load8(page + 2 * (n + s)));
    const __m256 phase = _mm256_cvtepi32_ps(_mm256_add_epi32(
        _mm256_add_epi32(phi_min, phi_min), _mm256_and_si256(phi_range, from_middle)));
    __m256 sine, cosine;
    SinCos8(_mm256_mul_ps(phase, _mm256_set1_ps(0x1p-17f)), &sine, &cosine);
    cosine = _mm256_mul_ps(cosine, scale);
    sine = _mm256_mul_ps(sine, scale);
    // Cells of r_step by an arc, 1/12 of their squares; a query meets half of each.
    const __m256 cells = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(127), a_bits), 23));
    const __m256 arc = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(phi_range), cells),
                                     _mm256_mul_ps(scale, _mm256_set1_ps(arc_units)));
    const __m256 r_step = _mm256_cvtph_ps(Load8(page + 2 * (3 * n + s)));
    const __m256 square = _mm256_fmadd_ps(r_step, r_step, _mm256_mul_ps(arc, arc));
    const __m256 used = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
    _mm256_store_ps(out->code_error.data() + s,
                    _mm256_and_ps(used, _mm256_mul_ps(square, _mm256_set1_ps(1.0f / 24))));
    StoreTwice(cosine, cosine, out->scale_cos.data() + 2 * s);
    StoreTwice(sine, _mm256_sub_ps(_mm256_setzero_ps(), sine), out->scale_sin.data() + 2 * s);
  }
}

// Finds what a unit of a head's queries is, 0 where all scores are. Returns whether integers are
// exact enough. length: [S].
PHASOR_INLINE bool FindUnit(const float* length, const PolarPlan& page,
                            const PolarPlanLimits& limits, int n_slots, int n_padded, float* unit) {
  __m256 sum = _mm256_setzero_ps(), most = sum, squares = sum, code_error = sum;
  for (int s = 0; s < n_padded; s += 8) {
    const __m256 x = _mm256_load_ps(length + s);
    const __m256 product = _mm256_mul_ps(x, _mm256_load_ps(page.scale.data() + s));
    sum = _mm256_add_ps(sum, product);
    most = _mm256_max_ps(most, product);
    squares = _mm256_fmadd_ps(product, product, squares);
    code_error = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_load_ps(page.code_error.data() + s),
                                 code_error);
  }
  const float one =
      std::max(SumLanes(sum) / limits.largest_sum, MaxLanes(most) * (1.0f / kLargestQuery));
  const float error =
      limits.slot_error * static_cast<float>(n_slots) * one * one +
      limits.level_error * limits.radius_units * limits.radius_units * SumLanes(squares);
  const bool usable = one > 1e-15f && one < 1e15f;
  *unit = usable ? one : 0.0f;
  return one == 0.0f || (usable && error <= kPolarKernelError * SumLanes(code_error));
}

// Queries of one head in units. q: [S][x, y].
PHASOR_INLINE void FoldQuery(const float* q, const PolarPlan& page, float unit, int n_padded,
                             int32_t* q16) {
  const __m256 inverse = _mm256_set1_ps(unit > 0 ? 1.0f / unit : 0.0f);
  for (int i = 0; i < 2 * n_padded; i += 16) {
    __m256i word[2];
    PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
      const int at = i + 8 * v;
      const __m256 x = _mm256_load_ps(q + at), swapped = _mm256_permute_ps(x, 0xb1);
      const __m256 turned =
          _mm256_fmadd_ps(x, _mm256_load_ps(page.scale_cos.data() + at),
                          _mm256_mul_ps(swapped, _mm256_load_ps(page.scale_sin.data() + at)));
      word[v] = _mm256_cvtps_epi32(_mm256_mul_ps(turned, inverse));
    }
    const __m256i words = _mm256_packs_epi32(word[0], word[1]);
    StoreBytes(q16 + i, _mm256_unpacklo_epi16(words, words));
    StoreBytes(q16 + i + 8, _mm256_unpackhi_epi16(words, words));
  }
}

}  // namespace

bool PlanPolarScores(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
                     const PolarPlanLimits& limits, PolarPlan* plan) {
  const int n_padded = PaddedPolarSlots(layout);
  const std::size_t n = static_cast<std::size_t>(n_padded), heads = static_cast<std::size_t>(g);
  plan->scale.Resize(n);
  plan->code_error.Resize(n);
  plan->scale_cos.Resize(2 * n);
  plan->scale_sin.Resize(2 * n);
  plan->r_first.Resize(n);
  plan->r_range.Resize(n);
  plan->q16.Resize(heads * 2 * n);
  plan->unit.Resize(heads);
  LoadGrids(layout, page, limits, plan);
  const float* length = prepared + std::ptrdiff_t{2} * g * n_padded;
  bool enough = true;
  for (int h = 0; h < g; ++h) {
    enough &= FindUnit(length + h * n_padded, *plan, limits, layout.n_slots, n_padded,
                       plan->unit.data() + h);
  }
  if (!enough) return false;
  for (int h = 0; h < g; ++h) {
    const std::ptrdiff_t at = std::ptrdiff_t{2} * h * n_padded;
    FoldQuery(prepared + at, *plan, plan->unit.data()[h], n_padded, plan->q16.data() + at);
  }
  return true;
}

void PreparePolarWords(const PolarLayout& layout, const float* q_GD, int g, float* prepared) {
  const int n_padded = PaddedPolarSlots(layout);
  float* out = prepared;
  float* length = prepared + std::ptrdiff_t{2} * g * n_padded;
  for (int h = 0; h < g; ++h, out += 2 * n_padded, length += n_padded) {
    const float* q = q_GD + static_cast<std::ptrdiff_t>(h) * layout.head_dim;
    for (int s = 0; s < layout.n_slots; ++s) {
      const PairDims dims = layout.slots[static_cast<std::size_t>(s)].dims;
      out[2 * s] = q[dims.x];
      out[2 * s + 1] = dims.y < 0 ? 0.0f : q[dims.y];
    }
    std::fill(out + 2 * layout.n_slots, out + 2 * n_padded, 0.0f);
    for (int s = 0; s < n_padded; s += 8) {
      const __m256 a = _mm256_loadu_ps(out + 2 * s), b = _mm256_loadu_ps(out + 2 * s + 8);
      const __m256 sums = _mm256_hadd_ps(_mm256_mul_ps(a, a), _mm256_mul_ps(b, b));
      const __m256d ordered = _mm256_permute4x64_pd(_mm256_castps_pd(sums), 0xd8);
      _mm256_storeu_ps(length + s, _mm256_sqrt_ps(_mm256_castpd_ps(ordered)));
    }
  }
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
