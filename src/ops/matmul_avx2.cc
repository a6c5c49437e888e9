// AVX2 kernels: the same panels in two halves of 8 rows.
//
// vpmaddubsw adds pairs of products in 16 bits with saturation, so sums of 16 bits run only as long
// as the worst case fits: 2 * 127 * code_max per step is 3810 (4 bits, 8 steps), 7874 (5 bits, 4
// steps), 16002 (6 bits, 2 steps). 8-bit codes are split into nibbles, 4 bits each.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "ops/matmul_kernels.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

constexpr int kMaxTokens = 4;
constexpr int kHalfRows = 8;

PHASOR_INLINE __m256i LoadVector(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
PHASOR_INLINE __m256 LoadHalves(const std::byte* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
PHASOR_INLINE __m256 LoadBytes(const std::byte* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
// Hides a sum from the optimizer: g++ would turn a chain of additions into a tree, whose
// temporaries do not fit in 16 registers (measured: twice the time).
PHASOR_INLINE __m256i InOrder(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}
PHASOR_INLINE int32_t LoadInt(const std::byte* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
PHASOR_INLINE __m256 BroadcastFloat(const std::byte* p) {
  float value;
  std::memcpy(&value, p, sizeof(value));
  return _mm256_set1_ps(value);
}

// Eight rows of code vector v, one byte per code; p: the block, at the first of the rows.
template <int kBits>
PHASOR_INLINE __m256i LoadCodes(const std::byte* p, int v) {
  if constexpr (kBits == 8) return LoadVector(p + v * kCodeVectorBytes);
  __m256i pair = LoadVector(p + v / 2 * kCodeVectorBytes);
  if (v % 2 == 1) pair = _mm256_srli_epi32(pair, 4);
  const __m256i low = _mm256_and_si256(pair, _mm256_set1_epi8(15));
  if constexpr (kBits == 4) return low;
  // Position of the upper bits in their plane; bits that a shift moves into a neighbouring byte
  // fall outside the mask.
  const int at = kBits == 5 ? v : 2 * (v % 4);
  __m256i upper = LoadVector(p + (kBits == 5 ? 4 : 4 + v / 4) * kCodeVectorBytes);
  upper = at < 4 ? _mm256_slli_epi32(upper, 4 - at) : _mm256_srli_epi32(upper, at - 4);
  const __m256i mask = _mm256_set1_epi8(kBits == 5 ? 0x10 : 0x30);
  return _mm256_or_si256(low, _mm256_and_si256(upper, mask));
}

// Integer sums of eight rows over code vectors [kBegin, kEnd), added to sums.
template <int kBits, int kBegin, int kEnd, int kTokens>
PHASOR_INLINE void Dot(const std::byte* block, const std::byte* x, __m256i (&sums)[kTokens]) {
  constexpr int kRun = kBits == 6 ? 2 : kBits == 5 ? 4 : kEnd - kBegin;
  const __m256i ones = _mm256_set1_epi16(1), sixteens = _mm256_set1_epi16(16);
  const __m256i nibble = _mm256_set1_epi8(15);
  PHASOR_UNROLL
  for (int run = kBegin; run < kEnd; run += kRun) {
    __m256i low[kTokens], high[kTokens];
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) low[t] = high[t] = _mm256_setzero_si256();
    PHASOR_UNROLL
    for (int v = run; v < run + kRun; ++v) {
      __m256i c = LoadCodes<kBits>(block, v), upper = c;
      if constexpr (kBits == 8) {
        upper = _mm256_and_si256(_mm256_srli_epi32(c, 4), nibble);
        c = _mm256_and_si256(c, nibble);
      }
      PHASOR_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m256i activations = _mm256_set1_epi32(LoadInt(x + 32 * t + 4 * v));
        low[t] = InOrder(_mm256_add_epi16(low[t], _mm256_maddubs_epi16(c, activations)));
        if constexpr (kBits == 8) {
          high[t] = InOrder(_mm256_add_epi16(high[t], _mm256_maddubs_epi16(upper, activations)));
        }
      }
    }
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(low[t], ones));
      if constexpr (kBits == 8) {
        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(high[t], sixteens));
      }
    }
  }
}

struct Scales {
  __m256 first, second;  // second: offset, or scale of columns 16-31 (kSuperHalves)
};

// Factors of the next eight blocks for half h; for kSuperHalves the second is the same as the
// first. Once per eight blocks, also because these f16 numbers are often denormal, which converts
// slowly.
template <ScaleForm kForm>
PHASOR_INLINE Scales LoadSuper(const std::byte* header, int h) {
  const __m256 scale = LoadHalves(header + 16 * h);
  if constexpr (kForm == ScaleForm::kSuperHalves) return {scale, scale};
  return {scale, _mm256_sub_ps(_mm256_setzero_ps(), LoadHalves(header + 32 + 16 * h))};
}

template <int kBits, ScaleForm kForm>
PHASOR_INLINE Scales LoadScales(const std::byte* block, Scales super, int h) {
  const std::byte* scales = block + PanelLayout{kBits, kForm}.code_bytes();
  if constexpr (kForm == ScaleForm::kSymmetric) {
    return {LoadHalves(scales + 16 * h), _mm256_setzero_ps()};
  } else if constexpr (kForm == ScaleForm::kAffine) {
    return {LoadHalves(scales + 16 * h), LoadHalves(scales + 32 + 16 * h)};
  } else {
    return {_mm256_mul_ps(super.first, LoadBytes(scales + 8 * h)),
            _mm256_mul_ps(super.second, LoadBytes(scales + 16 + 8 * h))};
  }
}

// Products of one block and eight rows, added to y.
template <int kBits, ScaleForm kForm, int kTokens>
PHASOR_INLINE void AddBlock(const std::byte* block, Scales scales, const std::byte* x,
                            __m256 (&y)[kTokens]) {
  constexpr bool kHalves = kForm == ScaleForm::kSuperHalves;
  constexpr bool kHasOffset = PanelLayout{kBits, kForm}.is_affine();
  constexpr int kZeroShift = 8 - kBits;
  const std::byte* numbers = x + 32 * kTokens;
  __m256i sums[kTokens], upper[kTokens];
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    int32_t whole = LoadInt(numbers + 8 * kTokens + 4 * t) >> kZeroShift;
    int32_t first = LoadInt(numbers + 12 * kTokens + 4 * t) >> kZeroShift;
    sums[t] = _mm256_set1_epi32(kHasOffset ? 0 : kHalves ? first : whole);
    upper[t] = _mm256_set1_epi32(whole - first);
  }
  if constexpr (kHalves) {
    Dot<kBits, 0, 4>(block, x, sums);
    Dot<kBits, 4, 8>(block, x, upper);
  } else {
    Dot<kBits, 0, 8>(block, x, sums);
  }
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const __m256 x_scale = BroadcastFloat(numbers + 4 * t);
    y[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t]), _mm256_mul_ps(scales.first, x_scale), y[t]);
    if constexpr (kHalves) {
      y[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(upper[t]), _mm256_mul_ps(scales.second, x_scale),
                             y[t]);
    } else if constexpr (kHasOffset) {
      y[t] = _mm256_fmadd_ps(scales.second, BroadcastFloat(numbers + 4 * kTokens + 4 * t), y[t]);
    }
  }
}

// Writes half h of the panel's rows.
template <int kTokens>
PHASOR_INLINE void WriteSums(const PanelTask& task, int h, const __m256 (&sums)[kTokens]) {
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    alignas(32) float values[kHalfRows];
    _mm256_store_ps(values, sums[t]);
    float* y = task.y + t * task.ldy + kHalfRows * h;
    for (int r = 0; r < kHalfRows && kHalfRows * h + r < task.n_rows; ++r) {
      float value = values[r] + (task.bias == nullptr ? 0.0f : task.bias[kHalfRows * h + r]);
      y[r] = task.accumulate ? y[r] + value : value;
    }
  }
}

PHASOR_INLINE void PrefetchBlock(const std::byte* w, int block_bytes) {
  const int ahead = kPrefetchBytes;
  for (int i = 0; i < block_bytes; i += kCodeVectorBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(w) + ahead + i, _MM_HINT_T1);
  }
}

// One token takes both halves of a block together. With more, the halves are separate passes: their
// sums and shared broadcasts would exceed 16 registers. The second pass finds the panel in cache.
template <int kBits, ScaleForm kForm, int kTokens>
void PackedKernel(const PanelTask& task) {
  constexpr PanelLayout kLayout = {kBits, kForm};
  constexpr int kHalves = kTokens == 1 ? 2 : 1;
  for (int first = 0; first < 2; first += kHalves) {
    __m256 y[kHalves][kTokens];
    PHASOR_UNROLL
    for (int i = 0; i < kHalves * kTokens; ++i) y[i / kTokens][i % kTokens] = _mm256_setzero_ps();
    Scales super[kHalves] = {};
    const std::byte *w = task.w, *x = task.x;
    for (int64_t b = 0; b < task.n; ++b) {
      if constexpr (kLayout.is_super()) {
        if (b % kBlocksPerSuper == 0) {
          PHASOR_UNROLL
          for (int i = 0; i < kHalves; ++i) super[i] = LoadSuper<kForm>(w, first + i);
          w += kLayout.super_bytes();
        }
      }
      if (first == 0) PrefetchBlock(w, kLayout.block_bytes());
      PHASOR_UNROLL
      for (int i = 0; i < kHalves; ++i) {
        const int h = first + i;
        AddBlock<kBits, kForm>(w + 32 * h, LoadScales<kBits, kForm>(w, super[i], h), x, y[i]);
      }
      w += kLayout.block_bytes();
      x += kTokens * kActivationBytes;
    }
    PHASOR_UNROLL
    for (int i = 0; i < kHalves; ++i) WriteSums(task, first + i, y[i]);
  }
}

template <DType kType>
PHASOR_INLINE __m256 LoadWeights(const std::byte* p) {
  if constexpr (kType == DType::kF32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  } else if constexpr (kType == DType::kF16) {
    return LoadHalves(p);
  } else {
    __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
}

// One column of 16 weights times its activation of every token.
template <DType kType, int kTokens>
PHASOR_INLINE void AddColumn(const std::byte* w, const std::byte* x, __m256 (&low)[kTokens],
                             __m256 (&high)[kTokens]) {
  const __m256 low_weights = LoadWeights<kType>(w);
  const __m256 high_weights = LoadWeights<kType>(w + (kType == DType::kF32 ? 32 : 16));
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    const __m256 factor = BroadcastFloat(x + 4 * t);
    low[t] = _mm256_fmadd_ps(low_weights, factor, low[t]);
    high[t] = _mm256_fmadd_ps(high_weights, factor, high[t]);
  }
}

template <DType kType, int kTokens>
void FloatKernel(const PanelTask& task) {
  // Few tokens need several sums each, or the latency of a multiply-add would set the pace.
  constexpr int kChains = kTokens == 1 ? 4 : kTokens == 2 ? 2 : 1;
  constexpr int kStride = 16 * (kType == DType::kF32 ? 4 : 2);
  __m256 low[kChains][kTokens], high[kChains][kTokens];
  PHASOR_UNROLL
  for (int i = 0; i < kChains * kTokens; ++i) {
    low[i / kTokens][i % kTokens] = high[i / kTokens][i % kTokens] = _mm256_setzero_ps();
  }
  const std::byte *w = task.w, *x = task.x;
  int64_t k = 0;
  for (; k + kChains <= task.n; k += kChains) {
    PHASOR_UNROLL
    for (int i = 0; i < kChains; ++i) {
      AddColumn<kType>(w + kStride * i, x + 4 * kTokens * i, low[i], high[i]);
    }
    w += kStride * kChains;
    x += 4 * kTokens * kChains;
  }
  for (; k < task.n; ++k, w += kStride, x += 4 * kTokens) {
    AddColumn<kType>(w, x, low[0], high[0]);
  }
  PHASOR_UNROLL
  for (int i = 1; i < kChains; ++i) {
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      low[0][t] = _mm256_add_ps(low[0][t], low[i][t]);
      high[0][t] = _mm256_add_ps(high[0][t], high[i][t]);
    }
  }
  WriteSums(task, 0, low[0]);
  WriteSums(task, 1, high[0]);
}

PHASOR_INLINE uint32_t LargestOf(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1))));
}
PHASOR_INLINE int32_t SumOf(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

void Quantize(const float* x, int64_t n_blocks, int t, int nt, std::byte* group) {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  for (int64_t b = 0; b < n_blocks; ++b, x += 32, group += nt * kActivationBytes) {
    // Bit patterns of magnitudes order like the numbers, with infinity and NaN above all of them.
    __m256i magnitudes = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + 8 * i));
      magnitudes = _mm256_max_epu32(magnitudes, _mm256_and_si256(bits, no_sign));
    }
    const uint32_t largest = LargestOf(magnitudes);
    float max, scale = 0;
    std::memcpy(&max, &largest, sizeof(max));
    __m256i codes = _mm256_setzero_si256();
    int32_t halves[2] = {};
    if (largest >= 0x7f800000u) {
      scale = __builtin_nanf("");
    } else if (max >= kTinyActivation) {
      scale = max / 127.0f;
      const __m256 inverse = _mm256_set1_ps(127.0f / max);
      __m256i wide[4];
      PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
        wide[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
      }
      // Packing works within 128-bit lanes.
      const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
      codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(_mm256_packs_epi32(wide[0], wide[1]),
                                                             _mm256_packs_epi32(wide[2], wide[3])),
                                          order);
      halves[0] = SumOf(_mm256_add_epi32(wide[0], wide[1]));
      halves[1] = SumOf(_mm256_add_epi32(wide[2], wide[3]));
    }
    const int32_t sum = halves[0] + halves[1];
    const float scale_sum = scale * static_cast<float>(sum);
    const int32_t negative[2] = {-128 * sum, -128 * halves[0]};
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(group + 32 * t), codes);
    std::memcpy(group + 32 * nt + 4 * t, &scale, 4);
    std::memcpy(group + 36 * nt + 4 * t, &scale_sum, 4);
    std::memcpy(group + 40 * nt + 4 * t, &negative[0], 4);
    std::memcpy(group + 44 * nt + 4 * t, &negative[1], 4);
  }
}

// Tables of kernels by number of tokens.
template <int kBits, ScaleForm kForm>
constexpr PanelKernel kPackedTable[kMaxTokens] = {
    PackedKernel<kBits, kForm, 1>, PackedKernel<kBits, kForm, 2>, PackedKernel<kBits, kForm, 3>,
    PackedKernel<kBits, kForm, 4>};

template <DType kType>
constexpr PanelKernel kFloatTable[kMaxTokens] = {FloatKernel<kType, 1>, FloatKernel<kType, 2>,
                                                 FloatKernel<kType, 3>, FloatKernel<kType, 4>};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
namespace {

PanelKernel FindPacked(PanelLayout layout, int n_tokens) {
  return VisitLayout(layout, [&]<int kBits, ScaleForm kForm>() {
    return kPackedTable<kBits, kForm>[n_tokens - 1];
  });
}

PanelKernel FindFloat(DType dtype, int n_tokens) {
  if (dtype == DType::kF32) return kFloatTable<DType::kF32>[n_tokens - 1];
  if (dtype == DType::kF16) return kFloatTable<DType::kF16>[n_tokens - 1];
  return kFloatTable<DType::kBF16>[n_tokens - 1];
}

}  // namespace

const MatMulKernels& Avx2MatMulKernels() {
  static constexpr MatMulKernels kKernels = {kMaxTokens, FindPacked, FindFloat, Quantize};
  return kKernels;
}

}  // namespace phasor
#endif  // __x86_64__
