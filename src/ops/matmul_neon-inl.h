// Products of weight panels with NEON, for both levels (simd/neon-inl.h): 16 rows are four vectors
// of sums. Codes of up to 6 bits are signed bytes as they are; those of 8 bits become signed by
// flipping their top bit, which takes the zero code of 128 off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/matmul_kernels.h"
#include "simd/neon-inl.h"

PHASOR_BEGIN_NEON
namespace phasor {
namespace {

constexpr int kMaxTokens = 4;

PHASOR_INLINE int32_t LoadInt(const std::byte* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
PHASOR_INLINE float LoadFloat(const std::byte* p) {
  float value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
// Four signed bytes as numbers.
PHASOR_INLINE float32x4_t LoadBytesAsFloats(const std::byte* p) {
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(LoadInt(p))));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

// Four rows of code vector v; p: the block, at the first of the rows.
template <int kBits>
PHASOR_INLINE int8x16_t LoadCodes(const std::byte* p, int v) {
  if constexpr (kBits == 8) {
    return vreinterpretq_s8_u8(veorq_u8(LoadBytes(p + v * kCodeVectorBytes), vdupq_n_u8(128)));
  }
  const uint8x16_t pair = LoadBytes(p + v / 2 * kCodeVectorBytes);
  const uint8x16_t low = v % 2 == 1 ? vshrq_n_u8(pair, 4) : vandq_u8(pair, vdupq_n_u8(15));
  if constexpr (kBits == 4) return vreinterpretq_s8_u8(low);
  // Position of the upper bits in their plane.
  const int at = kBits == 5 ? v : 2 * (v % 4);
  const uint8x16_t plane = LoadBytes(p + (kBits == 5 ? 4 : 4 + v / 4) * kCodeVectorBytes);
  const uint8x16_t upper =
      vandq_u8(ShiftBytes(plane, 4 - at), vdupq_n_u8(kBits == 5 ? 0x10 : 0x30));
  return vreinterpretq_s8_u8(vorrq_u8(low, upper));
}

// Integer sums of 4 kVectors rows over code vectors [kBegin, kEnd), added to sums.
template <int kBits, int kBegin, int kEnd, int kVectors, int kTokens>
PHASOR_INLINE void Dot(const std::byte* block, const std::byte* x,
                       int32x4_t (&sums)[kTokens][kVectors]) {
  PHASOR_UNROLL
  for (int v = kBegin; v < kEnd; ++v) {
    int8x16_t codes[kVectors];
    PHASOR_UNROLL
    for (int i = 0; i < kVectors; ++i) codes[i] = LoadCodes<kBits>(block + 16 * i, v);
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const int8x16_t activations = Repeat4(x + 32 * t + 4 * v);
      PHASOR_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        sums[t][i] = AddByteProducts(sums[t][i], codes[i], activations);
      }
    }
    EndStep();
  }
}

struct Scales {
  float32x4_t first, second;  // second: offset, or scale of columns 16-31 (kSuperHalves)
};

// Factors of the next eight blocks for rows 4 i and on; for kSuperHalves the second is the same as
// the first.
template <ScaleForm kForm>
PHASOR_INLINE Scales LoadSuper(const std::byte* header, int i) {
  const float32x4_t scale = LoadF16x4(header + 8 * i);
  if constexpr (kForm == ScaleForm::kSuperHalves) return {scale, scale};
  return {scale, vnegq_f32(LoadF16x4(header + 32 + 8 * i))};
}

template <int kBits, ScaleForm kForm>
PHASOR_INLINE Scales LoadScales(const std::byte* block, Scales super, int i) {
  const std::byte* scales = block + PanelLayout{kBits, kForm}.code_bytes();
  if constexpr (kForm == ScaleForm::kSymmetric) {
    return {LoadF16x4(scales + 8 * i), vdupq_n_f32(0.0f)};
  } else if constexpr (kForm == ScaleForm::kAffine) {
    return {LoadF16x4(scales + 8 * i), LoadF16x4(scales + 32 + 8 * i)};
  } else {
    return {vmulq_f32(super.first, LoadBytesAsFloats(scales + 4 * i)),
            vmulq_f32(super.second, LoadBytesAsFloats(scales + 16 + 4 * i))};
  }
}

// Products of one block and the 4 kVectors rows from 4 `first` on, added to y.
template <int kBits, ScaleForm kForm, int kVectors, int kTokens>
PHASOR_INLINE void AddBlock(const std::byte* block, const Scales (&super)[kVectors], int first,
                            const std::byte* x, float32x4_t (&y)[kTokens][kVectors]) {
  constexpr bool kHalves = kForm == ScaleForm::kSuperHalves;
  constexpr bool kHasOffset = PanelLayout{kBits, kForm}.is_affine();
  const std::byte* numbers = x + 32 * kTokens;
  int32x4_t sums[kTokens][kVectors], upper[kTokens][kVectors];
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    // What the zero code of the format takes off; 8-bit codes have lost it already.
    constexpr bool kZero = !kHasOffset && kBits != 8;
    const int32_t whole = kZero ? LoadInt(numbers + 8 * kTokens + 4 * t) >> (8 - kBits) : 0;
    const int32_t half = kZero ? LoadInt(numbers + 12 * kTokens + 4 * t) >> (8 - kBits) : 0;
    PHASOR_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      sums[t][i] = vdupq_n_s32(kHalves ? half : whole);
      upper[t][i] = vdupq_n_s32(whole - half);
    }
  }
  const std::byte* rows = block + 16 * first;
  Dot<kBits, 0, kHalves ? 4 : 8>(rows, x, sums);
  if constexpr (kHalves) Dot<kBits, 4, 8>(rows, x, upper);
  PHASOR_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const Scales scales = LoadScales<kBits, kForm>(block, super[i], first + i);
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const float x_scale = LoadFloat(numbers + 4 * t);
      y[t][i] = vfmaq_f32(y[t][i], vcvtq_f32_s32(sums[t][i]), vmulq_n_f32(scales.first, x_scale));
      if constexpr (kHalves) {
        y[t][i] =
            vfmaq_f32(y[t][i], vcvtq_f32_s32(upper[t][i]), vmulq_n_f32(scales.second, x_scale));
      } else if constexpr (kHasOffset) {
        y[t][i] = vfmaq_n_f32(y[t][i], scales.second, LoadFloat(numbers + 4 * kTokens + 4 * t));
      }
    }
  }
}

// Writes the rows from 4 `first` on.
template <int kVectors, int kTokens>
PHASOR_INLINE void WriteSums(const PanelTask& task, int first,
                             const float32x4_t (&sums)[kTokens][kVectors]) {
  PHASOR_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float values[4 * kVectors];
    PHASOR_UNROLL
    for (int i = 0; i < kVectors; ++i) vst1q_f32(values + 4 * i, sums[t][i]);
    float* y = task.y + t * task.ldy;
    for (int r = 4 * first; r < std::min(4 * (first + kVectors), task.n_rows); ++r) {
      const float value = values[r - 4 * first] + (task.bias == nullptr ? 0.0f : task.bias[r]);
      y[r] = task.accumulate ? y[r] + value : value;
    }
  }
}

// Up to two tokens take all rows together. With more, halves of the rows are separate passes, so
// that sums stay in registers; the second pass finds the panel in cache.
template <int kBits, ScaleForm kForm, int kTokens>
void PackedKernel(const PanelTask& task) {
  constexpr PanelLayout kLayout = {kBits, kForm};
  constexpr int kVectors = kTokens <= 2 ? 4 : 2;
  for (int first = 0; first < 4; first += kVectors) {
    float32x4_t y[kTokens][kVectors];
    PHASOR_UNROLL
    for (int i = 0; i < kTokens * kVectors; ++i) y[i / kVectors][i % kVectors] = vdupq_n_f32(0);
    Scales super[kVectors] = {};
    const std::byte *w = task.w, *x = task.x;
    for (int64_t b = 0; b < task.n; ++b) {
      if constexpr (kLayout.is_super()) {
        if (b % kBlocksPerSuper == 0) {
          PHASOR_UNROLL
          for (int i = 0; i < kVectors; ++i) super[i] = LoadSuper<kForm>(w, first + i);
          w += kLayout.super_bytes();
        }
      }
      AddBlock<kBits, kForm>(w, super, first, x, y);
      w += kLayout.block_bytes();
      x += kTokens * kActivationBytes;
    }
    WriteSums(task, first, y);
  }
}

template <DType kType>
PHASOR_INLINE float32x4_t LoadWeights(const std::byte* p, int i) {
  if constexpr (kType == DType::kF32) {
    return vld1q_f32(reinterpret_cast<const float*>(p) + 4 * i);
  } else if constexpr (kType == DType::kF16) {
    return LoadF16x4(p + 8 * i);
  } else {
    const uint16x4_t half = vld1_u16(reinterpret_cast<const uint16_t*>(p) + 4 * i);
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
  }
}

// One column of 16 weights times its activation of every token.
template <DType kType, int kTokens>
PHASOR_INLINE void AddColumn(const std::byte* w, const std::byte* x,
                             float32x4_t (&sums)[kTokens][4]) {
  PHASOR_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float32x4_t weights = LoadWeights<kType>(w, i);
    PHASOR_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      sums[t][i] = vfmaq_n_f32(sums[t][i], weights, LoadFloat(x + 4 * t));
    }
  }
}

template <DType kType, int kTokens>
void FloatKernel(const PanelTask& task) {
  // One token needs several sums, or the latency of a multiply-add would set the pace.
  constexpr int kChains = kTokens == 1 ? 4 : kTokens == 2 ? 2 : 1;
  constexpr int kStride = 16 * (kType == DType::kF32 ? 4 : 2);
  float32x4_t sums[kChains][kTokens][4];
  PHASOR_UNROLL
  for (int i = 0; i < kChains * kTokens * 4; ++i) {
    sums[i / (4 * kTokens)][i / 4 % kTokens][i % 4] = vdupq_n_f32(0.0f);
  }
  const std::byte *w = task.w, *x = task.x;
  int64_t k = 0;
  for (; k + kChains <= task.n; k += kChains) {
    PHASOR_UNROLL
    for (int i = 0; i < kChains; ++i) {
      AddColumn<kType>(w + kStride * i, x + 4 * kTokens * i, sums[i]);
    }
    w += kStride * kChains;
    x += 4 * kTokens * kChains;
  }
  for (; k < task.n; ++k, w += kStride, x += 4 * kTokens) AddColumn<kType>(w, x, sums[0]);
  PHASOR_UNROLL
  for (int i = 1; i < kChains; ++i) {
    PHASOR_UNROLL
    for (int j = 0; j < kTokens * 4; ++j) {
      sums[0][j / 4][j % 4] = vaddq_f32(sums[0][j / 4][j % 4], sums[i][j / 4][j % 4]);
    }
  }
  WriteSums(task, 0, sums[0]);
}

// Tables of kernels by number of tokens.
template <int kBits, ScaleForm kForm>
constexpr PanelKernel kPackedTable[kMaxTokens] = {
    PackedKernel<kBits, kForm, 1>, PackedKernel<kBits, kForm, 2>, PackedKernel<kBits, kForm, 3>,
    PackedKernel<kBits, kForm, 4>};

template <DType kType>
constexpr PanelKernel kFloatTable[kMaxTokens] = {FloatKernel<kType, 1>, FloatKernel<kType, 2>,
                                                 FloatKernel<kType, 3>, FloatKernel<kType, 4>};

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

// One block of activations to 8 bits. Returns the sums of the codes of its halves.
PHASOR_INLINE void QuantizeCodes(const float* x, float inverse, int8_t* codes, int32_t halves[2]) {
  PHASOR_UNROLL
  for (int half = 0; half < 2; ++half) {
    int16x4_t narrow[4];
    PHASOR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + 16 * half + 4 * i), inverse);
      narrow[i] = vmovn_s32(vcvtnq_s32_f32(scaled));
    }
    const int8x16_t bytes = vcombine_s8(vmovn_s16(vcombine_s16(narrow[0], narrow[1])),
                                        vmovn_s16(vcombine_s16(narrow[2], narrow[3])));
    vst1q_s8(codes + 16 * half, bytes);
    halves[half] = vaddlvq_s8(bytes);
  }
}

void Quantize(const float* x, int64_t n_blocks, int t, int nt, std::byte* group) {
  for (int64_t b = 0; b < n_blocks; ++b, x += 32, group += nt * kActivationBytes) {
    // Bit patterns of magnitudes order like the numbers, with infinity and NaN above all of them.
    uint32x4_t magnitudes = vdupq_n_u32(0);
    PHASOR_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + 4 * i));
      magnitudes = vmaxq_u32(magnitudes, vandq_u32(bits, vdupq_n_u32(0x7fffffffu)));
    }
    const uint32_t largest = vmaxvq_u32(magnitudes);
    float max, scale = 0;
    std::memcpy(&max, &largest, sizeof(max));
    int8_t codes[32] = {};
    int32_t halves[2] = {};
    if (largest >= 0x7f800000u) {
      scale = __builtin_nanf("");
    } else if (max >= kTinyActivation) {
      scale = max / 127.0f;
      QuantizeCodes(x, 127.0f / max, codes, halves);
    }
    const int32_t sum = halves[0] + halves[1];
    const float scale_sum = scale * static_cast<float>(sum);
    const int32_t negative[2] = {-128 * sum, -128 * halves[0]};
    std::memcpy(group + 32 * t, codes, 32);
    std::memcpy(group + 32 * nt + 4 * t, &scale, 4);
    std::memcpy(group + 36 * nt + 4 * t, &scale_sum, 4);
    std::memcpy(group + 40 * nt + 4 * t, &negative[0], 4);
    std::memcpy(group + 44 * nt + 4 * t, &negative[1], 4);
  }
}

}  // namespace
}  // namespace phasor
PHASOR_END_NEON
