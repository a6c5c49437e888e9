// AVX-512 VNNI kernels: a lane is a row, so there are no horizontal sums.
//
// Cost per block of 32 columns, 16 rows and one token: 8 vpdpbusd with a broadcast activation from
// cache, one conversion, one or two multiply-adds. The codes of a block are unpacked into eight
// registers once for up to 12 tokens. Unpacking whole panels to bytes first (so that 512 tokens
// share the work) was tried: within 2 % for 4 and 8 bits, 5 % better for 6 bits, slower below 32
// tokens, so there is one kind of kernel.
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an error of ours (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <cstring>

#include "ops/matmul_avx512-inl.h"
#include "ops/matmul_kernels.h"
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

constexpr int kMaxTokens = 12;  // beside 8 registers of codes, 2 of scales and the temporaries
constexpr int kInterleave = 2;  // measured: 1 is 3 % slower, 3 and 4 spill with kSuperHalves

// Only few tokens read weights faster than memory delivers them.
constexpr int kPrefetchTokens = 4;

PHASOR_INLINE __m512i BroadcastInt(const std::byte* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof(value));
  return _mm512_set1_epi32(value);
}

PHASOR_INLINE __m512 BroadcastFloat(const std::byte* p) {
  float value;
  std::memcpy(&value, p, sizeof(value));
  return _mm512_set1_ps(value);
}

template <int kTokens>
PHASOR_INLINE void PrefetchBlock(const std::byte* w, int block_bytes, int ahead) {
  if constexpr (kTokens <= kPrefetchTokens) {
    PHASOR_UNROLL
    for (int i = 0; i < block_bytes; i += kCodeVectorBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(w) + ahead + i, _MM_HINT_T1);
    }
  }
}

// Integer sums of code vectors [kBegin, kEnd) for tokens [0, kCount) of a run, added to acc. Tokens
// take turns, because one token's chain of eight has four times the latency of its throughput.
template <int kBegin, int kEnd, int kCount>
PHASOR_INLINE void Dot(const __m512i (&c)[8], const std::byte* codes, __m512i (&acc)[kCount]) {
  PHASOR_UNROLL
  for (int v = kBegin; v < kEnd; ++v) {
    PHASOR_UNROLL
    for (int t = 0; t < kCount; ++t) {
      acc[t] = _mm512_dpbusd_epi32(acc[t], c[v], BroadcastInt(codes + 32 * t + 4 * v));
    }
  }
}

// Adds one block's products to the sums of tokens [kFirst, kFirst + kCount). `kZeroShift` takes the
// prepared sums from zero code 128 to that of the codes.
template <ScaleForm kForm, int kZeroShift, int kFirst, int kCount, int kTokens>
PHASOR_INLINE void AddTokens(const __m512i (&c)[8], __m512 scale, __m512 second, const std::byte* x,
                             __m512 (&y)[kTokens]) {
  constexpr bool kHalves = kForm == ScaleForm::kSuperHalves;
  constexpr bool kHasOffset = kForm == ScaleForm::kAffine || kForm == ScaleForm::kSuperAffine;
  const std::byte* codes = x + 32 * kFirst;
  const std::byte* numbers = x + 32 * kTokens + 4 * kFirst;
  __m512i acc[kCount], upper[kCount];
  PHASOR_UNROLL
  for (int t = 0; t < kCount; ++t) {
    if constexpr (kHasOffset) {
      acc[t] = _mm512_setzero_si512();
    } else {
      acc[t] = BroadcastInt(numbers + (kHalves ? 12 : 8) * kTokens + 4 * t);
      if constexpr (kHalves) {
        upper[t] = _mm512_sub_epi32(BroadcastInt(numbers + 8 * kTokens + 4 * t), acc[t]);
        if constexpr (kZeroShift != 0) upper[t] = _mm512_srai_epi32(upper[t], kZeroShift);
      }
      if constexpr (kZeroShift != 0) acc[t] = _mm512_srai_epi32(acc[t], kZeroShift);
    }
  }
  Dot<0, kHalves ? 4 : 8>(c, codes, acc);
  if constexpr (kHalves) Dot<4, 8>(c, codes, upper);
  PHASOR_UNROLL
  for (int t = 0; t < kCount; ++t) {
    const __m512 x_scale = BroadcastFloat(numbers + 4 * t);
    __m512& sum = y[kFirst + t];
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t]), _mm512_mul_ps(scale, x_scale), sum);
    if constexpr (kHalves) {
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(upper[t]), _mm512_mul_ps(second, x_scale), sum);
    }
    if constexpr (kHasOffset) {
      sum = _mm512_fmadd_ps(second, BroadcastFloat(numbers + 4 * kTokens + 4 * t), sum);
    }
  }
}

// Adds one block's products to the sums of every token, a few tokens at a time.
template <ScaleForm kForm, int kZeroShift, int kFirst = 0, int kTokens>
PHASOR_INLINE void AddBlock(const __m512i (&c)[8], __m512 scale, __m512 second, const std::byte* x,
                            __m512 (&y)[kTokens]) {
  if constexpr (kFirst < kTokens) {
    constexpr int kCount = kTokens - kFirst < kInterleave ? kTokens - kFirst : kInterleave;
    AddTokens<kForm, kZeroShift, kFirst, kCount>(c, scale, second, x, y);
    AddBlock<kForm, kZeroShift, kFirst + kCount>(c, scale, second, x, y);
  }
}

template <int kTokens>
PHASOR_INLINE void WriteSums(const PanelTask& task, const __m512 (&sums)[kTokens]) {
  const __mmask16 rows = static_cast<__mmask16>((1u << task.n_rows) - 1);
  const __m512 bias =
      task.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, task.bias);
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float* y = task.y + t * task.ldy;
    __m512 value = _mm512_add_ps(sums[t], bias);
    if (task.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), value);
    _mm512_mask_storeu_ps(y, rows, value);
  }
}

template <int kBits, ScaleForm kForm, int kTokens>
void PackedKernel(const PanelTask& task) {
  constexpr PanelLayout kLayout = {kBits, kForm};
  constexpr int kZeroShift = 8 - kBits;
  __m512 y[kTokens];
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) y[t] = _mm512_setzero_ps();
  __m512 super_scale = _mm512_setzero_ps(), super_offset = super_scale;
  const std::byte *w = task.w, *x = task.x;
  const int ahead = kPrefetchBytes;
  for (int64_t b = 0; b < task.n; ++b) {
    if constexpr (kLayout.is_super()) {
      if (b % kBlocksPerSuper == 0) {
        LoadSuper<kForm>(w, &super_scale, &super_offset);
        w += kLayout.super_bytes();
      }
    }
    __m512i c[8];
    __m512 scale, second = _mm512_setzero_ps();
    PrefetchBlock<kTokens>(w, kLayout.block_bytes(), ahead);
    LoadCodes<kBits>(w, c);
    LoadScales<kBits, kForm>(w, super_scale, super_offset, &scale, &second);
    AddBlock<kForm, kZeroShift>(c, scale, second, x, y);
    w += kLayout.block_bytes();
    x += kTokens * kActivationBytes;
  }
  WriteSums(task, y);
}

template <DType kType>
PHASOR_INLINE __m512 LoadWeights(const std::byte* p) {
  if constexpr (kType == DType::kF32) {
    return _mm512_loadu_ps(p);
  } else if constexpr (kType == DType::kF16) {
    return LoadHalves(p);
  } else {
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
}

// Few tokens need several sums each, or the latency of a multiply-add would set the pace.
constexpr int ChainsPerToken(int n_tokens) { return n_tokens == 1 ? 8 : n_tokens <= 4 ? 2 : 1; }

template <DType kType, int kTokens>
void FloatKernel(const PanelTask& task) {
  constexpr int kChains = ChainsPerToken(kTokens);
  constexpr int kStride = kType == DType::kF32 ? 64 : 32;
  __m512 y[kTokens], chains[kChains][kTokens];
  PHASOR_UNROLL
  for (int i = 0; i < kChains * kTokens; ++i) {
    chains[i / kTokens][i % kTokens] = _mm512_setzero_ps();
  }
  const std::byte *w = task.w, *x = task.x;
  int64_t k = 0;
  for (; k + kChains <= task.n; k += kChains) {
    PHASOR_UNROLL
    for (int i = 0; i < kChains; ++i) {
      const __m512 weights = LoadWeights<kType>(w + i * kStride);
      PHASOR_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        chains[i][t] =
            _mm512_fmadd_ps(weights, BroadcastFloat(x + 4 * (i * kTokens + t)), chains[i][t]);
      }
    }
    w += kChains * kStride;
    x += 4 * kChains * kTokens;
  }
  for (; k < task.n; ++k, w += kStride, x += 4 * kTokens) {
    const __m512 weights = LoadWeights<kType>(w);
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      chains[0][t] = _mm512_fmadd_ps(weights, BroadcastFloat(x + 4 * t), chains[0][t]);
    }
  }
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    y[t] = chains[0][t];
    PHASOR_UNROLL
    for (int i = 1; i < kChains; ++i) y[t] = _mm512_add_ps(y[t], chains[i][t]);
  }
  WriteSums(task, y);
}

void Quantize(const float* x, int64_t n_blocks, int t, int nt, std::byte* group) {
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  for (int64_t b = 0; b < n_blocks; ++b, x += 32, group += nt * kActivationBytes) {
    const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    // Bit patterns of magnitudes order like the numbers, with infinity and NaN above all of them.
    const __m512i magnitudes =
        _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(low), no_sign),
                         _mm512_and_si512(_mm512_castps_si512(high), no_sign));
    const uint32_t largest = _mm512_reduce_max_epu32(magnitudes);
    float max, scale = 0, inverse = 0;
    std::memcpy(&max, &largest, sizeof(max));
    __m512i codes_low = _mm512_setzero_si512(), codes_high = codes_low;
    if (largest >= 0x7f800000u) {
      scale = __builtin_nanf("");
    } else if (max >= kTinyActivation) {
      scale = max / 127.0f;
      inverse = 127.0f / max;
      codes_low = _mm512_cvtps_epi32(_mm512_mul_ps(low, _mm512_set1_ps(inverse)));
      codes_high = _mm512_cvtps_epi32(_mm512_mul_ps(high, _mm512_set1_ps(inverse)));
    }
    const int32_t first = _mm512_reduce_add_epi32(codes_low);
    const int32_t sum = first + _mm512_reduce_add_epi32(codes_high);
    const float scale_sum = scale * static_cast<float>(sum);
    const int32_t negative[2] = {-128 * sum, -128 * first};
    __m128i* out = reinterpret_cast<__m128i*>(group + 32 * t);
    _mm_storeu_si128(out, _mm512_cvtepi32_epi8(codes_low));
    _mm_storeu_si128(out + 1, _mm512_cvtepi32_epi8(codes_high));
    std::memcpy(group + 32 * nt + 4 * t, &scale, 4);
    std::memcpy(group + 36 * nt + 4 * t, &scale_sum, 4);
    std::memcpy(group + 40 * nt + 4 * t, &negative[0], 4);
    std::memcpy(group + 44 * nt + 4 * t, &negative[1], 4);
  }
}

// Tables of kernels by number of tokens.
template <int kBits, ScaleForm kForm>
constexpr PanelKernel kPackedTable[kMaxTokens] = {
    PackedKernel<kBits, kForm, 1>,  PackedKernel<kBits, kForm, 2>,  PackedKernel<kBits, kForm, 3>,
    PackedKernel<kBits, kForm, 4>,  PackedKernel<kBits, kForm, 5>,  PackedKernel<kBits, kForm, 6>,
    PackedKernel<kBits, kForm, 7>,  PackedKernel<kBits, kForm, 8>,  PackedKernel<kBits, kForm, 9>,
    PackedKernel<kBits, kForm, 10>, PackedKernel<kBits, kForm, 11>, PackedKernel<kBits, kForm, 12>};

template <DType kType>
constexpr PanelKernel kFloatTable[kMaxTokens] = {
    FloatKernel<kType, 1>, FloatKernel<kType, 2>,  FloatKernel<kType, 3>,  FloatKernel<kType, 4>,
    FloatKernel<kType, 5>, FloatKernel<kType, 6>,  FloatKernel<kType, 7>,  FloatKernel<kType, 8>,
    FloatKernel<kType, 9>, FloatKernel<kType, 10>, FloatKernel<kType, 11>, FloatKernel<kType, 12>};

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

const MatMulKernels& Avx512MatMulKernels() {
  static constexpr MatMulKernels kKernels = {kMaxTokens, FindPacked, FindFloat, Quantize};
  return kKernels;
}

}  // namespace phasor
#endif  // __x86_64__
