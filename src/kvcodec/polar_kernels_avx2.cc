// Polar kernels for AVX2 in float: lanes are tokens, 8 at a time. Decoding, and scores of pages for
// which 16 bits are too few (polar_score_avx2.cc). With registers of 8 floats a table per query
// head does not pay; cosine and sine are found once per token and pair (by permutes for up to
// 4 angle bits, by the polynomial above) and multiplied by every query.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "kvcodec/packed_field_avx2-inl.h"
#include "kvcodec/page_avx2-inl.h"
#include "kvcodec/polar_kernels.h"
#include "kvcodec/polar_plan.h"
#include "simd/target.h"

namespace phasor {
namespace {

constexpr int kMaxChunkHeads = 8;

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

inline __m256i Iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

// The grids of a run as floats, and cosines and sines of up to 16 angle levels.
struct alignas(32) Run8 {
  float phi_first[kMaxRunSlots], phi_step[kMaxRunSlots];  // middle of angle cell 0
  float r_first[kMaxRunSlots], r_step[kMaxRunSlots];
  float cosine[kMaxRunSlots][16], sine[kMaxRunSlots][16];
};

void BuildRun(const PolarLayout& layout, const PolarRun& run, const std::byte* page, Run8* out) {
  for (int s = 0; s < run.count; ++s) {
    const PolarGrid grid = LoadPolarGrid(layout, page, run.first + s);
    const PolarWidth width = layout.slots[run.first + s].width;
    const __m128 r = _mm_cvtph_ps(_mm_cvtsi32_si128(grid.r_min | grid.r_step << 16));
    out->r_step[s] = _mm_cvtss_f32(_mm_shuffle_ps(r, r, 1));
    out->r_first[s] = _mm_cvtss_f32(r) + 0.5f * out->r_step[s];
    out->phi_step[s] = grid.PhiStep(width);
    out->phi_first[s] = grid.PhiStart() + 0.5f * out->phi_step[s];
    if (run.angle_table != AngleTable::kOneVector) continue;
    for (int k = 0; k < 1 << width.a_bits; k += 8) {
      const __m256 level = _mm256_cvtepi32_ps(_mm256_add_epi32(Iota(), _mm256_set1_epi32(k)));
      __m256 sine, cosine;
      SinCos8(_mm256_fmadd_ps(level, Set(out->phi_step[s]), Set(out->phi_first[s])), &sine,
              &cosine);
      _mm256_store_ps(out->cosine[s] + k, cosine);
      _mm256_store_ps(out->sine[s] + k, sine);
    }
  }
}

inline __m256 LookUp16(const float* table, __m256i index) {
  const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 selects
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_load_ps(table), index),
                          _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), index), high);
}

// The pair of 8 tokens.
template <int kBits, bool kLookUp>
inline void Point8(const Run8& run, const Codes& codes, int s, int e, int a_bits, __m256* x,
                   __m256* y) {
  const __m256i code = Code8<kBits>(codes, s, e);
  const __m128i shift = _mm_cvtsi32_si128(a_bits);
  const __m256i theta = _mm256_and_si256(code, _mm256_set1_epi32((1 << a_bits) - 1));
  const __m256 rho = _mm256_cvtepi32_ps(_mm256_srl_epi32(code, shift));
  const __m256 r = _mm256_fmadd_ps(rho, Set(run.r_step[s]), Set(run.r_first[s]));
  __m256 sine, cosine;
  if constexpr (kLookUp) {
    cosine = LookUp16(run.cosine[s], theta);
    sine = LookUp16(run.sine[s], theta);
  } else {
    SinCos8(_mm256_fmadd_ps(_mm256_cvtepi32_ps(theta), Set(run.phi_step[s]), Set(run.phi_first[s])),
            &sine, &cosine);
  }
  *x = _mm256_mul_ps(r, cosine);
  *y = _mm256_mul_ps(r, sine);
}

struct ScanArgs {
  const Run8* run;
  Codes codes;
  int count;
  const int32_t* a_bits;
  const float* q;
  int head_stride;  // of q
  int n_tokens;
  int n_heads;
  bool first;
  float* score_GT;
};

// kHeads >= n_heads accumulators; those beyond n_heads repeat the last head and are not stored.
template <int kBits, bool kLookUp, int kHeads>
void ScanHeads(const ScanArgs& args) {
  for (int e = 0; 8 * e < args.n_tokens; ++e) {
    __m256 acc[kHeads];
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      acc[h] = args.first || h >= args.n_heads
                   ? _mm256_setzero_ps()
                   : _mm256_loadu_ps(args.score_GT + h * kPageTokens + 8 * e);
    }
    for (int s = 0; s < args.count; ++s) {
      __m256 x, y;
      Point8<kBits, kLookUp>(*args.run, args.codes, s, e, args.a_bits[s], &x, &y);
      const float* q = args.q + 2 * s;
      PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
        const float* q_h = q + std::min(h, args.n_heads - 1) * args.head_stride;
        acc[h] = _mm256_fmadd_ps(Set(q_h[0]), x, _mm256_fmadd_ps(Set(q_h[1]), y, acc[h]));
      }
    }
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      if (h < args.n_heads) {
        _mm256_storeu_ps(args.score_GT + h * kPageTokens + 8 * e, acc[h]);
      }
    }
  }
}

template <int kBits, bool kLookUp>
void Scan(const ScanArgs& args) {
  if (args.n_heads == 1) return ScanHeads<kBits, kLookUp, 1>(args);
  if (args.n_heads <= 4) return ScanHeads<kBits, kLookUp, 4>(args);
  ScanHeads<kBits, kLookUp, 8>(args);
}

// Columns are written with a stride of one row; a page is small enough to stay in cache.
template <int kBits, bool kLookUp>
void DecodeRun(const PolarLayout& layout, const PolarRun& run, const Run8& scratch,
               const Codes& codes, int n_tokens, float* x_TD) {
  for (int e = 0; 8 * e < n_tokens; ++e) {
    const int n = std::min(n_tokens - 8 * e, 8);
    for (int s = 0; s < run.count; ++s) {
      __m256 x, y;
      Point8<kBits, kLookUp>(scratch, codes, s, e, layout.a_bits_S[run.first + s], &x, &y);
      alignas(32) float x_8[8], y_8[8];
      _mm256_store_ps(x_8, x);
      _mm256_store_ps(y_8, y);
      const PairDims dims = layout.slots[run.first + s].dims;
      float* out = x_TD + static_cast<std::ptrdiff_t>(8 * e) * layout.head_dim;
      for (int t = 0; t < n; ++t) out[t * layout.head_dim + dims.x] = x_8[t];
      if (dims.y < 0) continue;
      for (int t = 0; t < n; ++t) out[t * layout.head_dim + dims.y] = y_8[t];
    }
  }
}

using ScanFunction = void (*)(const ScanArgs&);
using DecodeFunction = void (*)(const PolarLayout&, const PolarRun&, const Run8&, const Codes&, int,
                                float*);
struct KernelSet {
  ScanFunction scan[2];  // [look-up]
  DecodeFunction decode[2];
};
template <int kBits>
constexpr KernelSet MakeSet() {
  return {{Scan<kBits, false>, Scan<kBits, true>},
          {DecodeRun<kBits, false>, DecodeRun<kBits, true>}};
}
constexpr KernelSet kKernels[kMaxPolarTotalBits + 1] = {
    {},           {},           {},           MakeSet<3>(), MakeSet<4>(),  MakeSet<5>(),
    MakeSet<6>(), MakeSet<7>(), MakeSet<8>(), MakeSet<9>(), MakeSet<10>(), MakeSet<11>(),
    MakeSet<12>()};

Codes CodesOf(const PolarLayout& layout, const PolarRun& run, const std::byte* page) {
  Codes codes;
  for (int p = 0; p < 4; ++p) codes.part[p] = page + layout.slots[run.first].parts.at[p];
  return codes;
}

void DecodeAvx2(const PolarLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  Run8 scratch;
  for (const PolarRun& run : layout.runs) {
    BuildRun(layout, run, page, &scratch);
    const bool look_up = run.angle_table == AngleTable::kOneVector;
    kKernels[run.total_bits].decode[look_up](layout, run, scratch, CodesOf(layout, run, page),
                                             n_tokens, x_TD);
  }
}

}  // namespace

void ScorePolarFloatAvx2(const PolarLayout& layout, const float* prepared, int g,
                         const std::byte* page, int n_tokens, float* score_GT) {
  const int head_stride = 2 * PaddedPolarSlots(layout);
  Run8 scratch;
  const int n_chunks = (g + kMaxChunkHeads - 1) / kMaxChunkHeads;
  bool first = true;
  for (const PolarRun& run : layout.runs) {
    BuildRun(layout, run, page, &scratch);
    const bool look_up = run.angle_table == AngleTable::kOneVector;
    for (int c = 0; c < n_chunks; ++c) {
      const int h0 = g * c / n_chunks, n_heads = g * (c + 1) / n_chunks - h0;
      const ScanArgs args = {&scratch,
                             CodesOf(layout, run, page),
                             run.count,
                             layout.a_bits_S.data() + run.first,
                             prepared + h0 * head_stride + 2 * run.first,
                             head_stride,
                             n_tokens,
                             n_heads,
                             first,
                             score_GT + h0 * kPageTokens};
      kKernels[run.total_bits].scan[look_up](args);
    }
    first = false;
  }
}

}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
// Encoding happens once per token and stays plain C++ at this level.
const PolarKernels kPolarKernelsAvx2 = {EncodePolarScalar, DecodeAvx2, ScorePolarAvx2,
                                        PreparePolarWords};
}  // namespace phasor
#endif  // __x86_64__
