// Plain C++ kernels: the level every CPU can run, and the statement of what the others compute.
#include <bit>
#include <cmath>
#include <cstring>

#include "ops/matmul_kernels.h"
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr int kRows = 16;
constexpr int kMaxTokens = 4;

struct Block {
  uint8_t codes[8][kCodeVectorBytes];  // code vectors of panel_layout.h, not shifted
  float scale[2][kRows];               // of columns 0-15 and 16-31
  float offset[kRows];                 // affine forms
};

float HalfAt(const std::byte* p, int i) {
  uint16_t bits;
  std::memcpy(&bits, p + 2 * i, sizeof(bits));
  return F16ToF32(bits);
}

float ByteAt(const std::byte* p, int i) { return static_cast<float>(static_cast<int8_t>(p[i])); }

void UnpackCodes(int code_bits, const std::byte* packed, uint8_t (&codes)[8][kCodeVectorBytes]) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(packed);
  if (code_bits == 8) {
    std::memcpy(codes, p, sizeof(codes));
    return;
  }
  for (int v = 0; v < 8; ++v) {
    const uint8_t* low = p + v / 2 * kCodeVectorBytes;
    const uint8_t* plane5 = p + 4 * kCodeVectorBytes;
    const uint8_t* plane6 = p + (4 + v / 4) * kCodeVectorBytes;
    for (int j = 0; j < kCodeVectorBytes; ++j) {
      int code = v % 2 == 0 ? low[j] & 15 : low[j] >> 4;
      if (code_bits == 5) code |= (plane5[j] >> v & 1) << 4;
      if (code_bits == 6) code |= (plane6[j] >> (2 * (v % 4)) & 3) << 4;
      codes[v][j] = static_cast<uint8_t>(code);
    }
  }
}

void UnpackBlock(PanelLayout layout, const std::byte* block, const std::byte* super, Block* out) {
  UnpackCodes(layout.code_bits, block, out->codes);
  const std::byte* scales = block + layout.code_bytes();
  for (int r = 0; r < kRows; ++r) {
    float scale, second, offset = 0;
    if (layout.is_super()) {
      scale = HalfAt(super, r) * ByteAt(scales, r);
      second = scale;
      if (layout.form == ScaleForm::kSuperHalves) {
        second = HalfAt(super, r) * ByteAt(scales, 16 + r);
      } else {
        offset = -(HalfAt(super + 32, r) * ByteAt(scales, 16 + r));
      }
    } else {
      scale = second = HalfAt(scales, r);
      if (layout.form == ScaleForm::kAffine) offset = HalfAt(scales + 32, r);
    }
    out->scale[0][r] = scale;
    out->scale[1][r] = second;
    out->offset[r] = offset;
  }
}

// Integer dot product of row r with columns [16 * half, 16 * half + 16) of the activations.
int DotHalf(const Block& block, int r, int half, const int8_t* x) {
  int sum = 0;
  for (int v = 4 * half; v < 4 * half + 4; ++v) {
    for (int i = 0; i < 4; ++i) sum += block.codes[v][4 * r + i] * x[4 * v + i];
  }
  return sum;
}

void Write(const PanelTask& task, int t, const float* sums) {
  float* y = task.y + t * task.ldy;
  for (int r = 0; r < task.n_rows; ++r) {
    float value = sums[r] + (task.bias == nullptr ? 0.0f : task.bias[r]);
    y[r] = task.accumulate ? y[r] + value : value;
  }
}

template <int kBits, ScaleForm kForm>
void PackedKernel(const PanelTask& task) {
  constexpr PanelLayout kLayout = {kBits, kForm};
  const int nt = task.n_tokens;
  float y[kMaxTokens][kRows] = {};
  const std::byte *w = task.w, *x = task.x, *super = nullptr;
  for (int64_t b = 0; b < task.n; ++b, x += nt * kActivationBytes) {
    if (b % kBlocksPerSuper == 0) {
      super = w;
      w += kLayout.super_bytes();
    }
    Block block;
    UnpackBlock(kLayout, w, super, &block);
    w += kLayout.block_bytes();
    for (int t = 0; t < nt; ++t) {
      const int8_t* codes = reinterpret_cast<const int8_t*>(x) + 32 * t;
      float parameters[2];  // scale, scale * sum
      int32_t sums[2];      // -128 * sum, of the block and of its first half
      for (int i = 0; i < 2; ++i) {
        std::memcpy(&parameters[i], x + (32 + 4 * i) * nt + 4 * t, 4);
        std::memcpy(&sums[i], x + (40 + 4 * i) * nt + 4 * t, 4);
      }
      const int shift = kLayout.is_affine() ? 0 : 8 - kBits;  // from 128 to the format's zero code
      for (int r = 0; r < kRows; ++r) {
        int first = DotHalf(block, r, 0, codes), second = DotHalf(block, r, 1, codes);
        float scale = block.scale[0][r] * parameters[0];
        if constexpr (kForm == ScaleForm::kSuperHalves) {
          y[t][r] += static_cast<float>(first + (sums[1] >> shift)) * scale;
          y[t][r] += static_cast<float>(second + ((sums[0] - sums[1]) >> shift)) *
                     (block.scale[1][r] * parameters[0]);
        } else if constexpr (kLayout.is_affine()) {
          y[t][r] += static_cast<float>(first + second) * scale;
          y[t][r] += block.offset[r] * parameters[1];
        } else {
          y[t][r] += static_cast<float>(first + second + (sums[0] >> shift)) * scale;
        }
      }
    }
  }
  for (int t = 0; t < nt; ++t) Write(task, t, y[t]);
}

template <DType kType>
float LoadWeight(const std::byte* panel, int64_t i) {
  if constexpr (kType == DType::kF32) {
    float w;
    std::memcpy(&w, panel + 4 * i, sizeof(w));
    return w;
  } else {
    uint16_t bits;
    std::memcpy(&bits, panel + 2 * i, sizeof(bits));
    return kType == DType::kF16 ? F16ToF32(bits) : Bf16ToF32(bits);
  }
}

template <DType kType>
void FloatKernel(const PanelTask& task) {
  const int nt = task.n_tokens;
  float y[kMaxTokens][kRows] = {};
  for (int64_t k = 0; k < task.n; ++k) {
    for (int r = 0; r < kRows; ++r) {
      float w = LoadWeight<kType>(task.w, k * kRows + r);
      for (int t = 0; t < nt; ++t) {
        float x;
        std::memcpy(&x, task.x + (k * nt + t) * 4, sizeof(x));
        y[t][r] += w * x;
      }
    }
  }
  for (int t = 0; t < nt; ++t) Write(task, t, y[t]);
}

PanelKernel FindPacked(PanelLayout layout, int) {
  return VisitLayout(layout, []<int kBits, ScaleForm kForm>() -> PanelKernel {
    return PackedKernel<kBits, kForm>;
  });
}

PanelKernel FindFloat(DType dtype, int) {
  if (dtype == DType::kF32) return FloatKernel<DType::kF32>;
  if (dtype == DType::kF16) return FloatKernel<DType::kF16>;
  return FloatKernel<DType::kBF16>;
}

void Quantize(const float* x, int64_t n_blocks, int t, int nt, std::byte* group) {
  for (int64_t b = 0; b < n_blocks; ++b, x += 32, group += nt * kActivationBytes) {
    // Bit patterns of magnitudes order like the numbers, with infinity and NaN above all of them.
    uint32_t largest = 0;
    for (int i = 0; i < 32; ++i) {
      uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
      if (magnitude > largest) largest = magnitude;
    }
    const float max = std::bit_cast<float>(largest);
    int8_t codes[32] = {};
    int32_t halves[2] = {};
    float scale = 0;
    if (largest >= 0x7f800000u) {
      scale = std::bit_cast<float>(0x7fc00000u);
    } else if (max >= kTinyActivation) {
      scale = max / 127.0f;
      const float inverse = 127.0f / max;
      for (int i = 0; i < 32; ++i) {
        codes[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
        halves[i / 16] += codes[i];
      }
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

const MatMulKernels& ScalarMatMulKernels() {
  static constexpr MatMulKernels kKernels = {kMaxTokens, FindPacked, FindFloat, Quantize};
  return kKernels;
}

}  // namespace phasor
