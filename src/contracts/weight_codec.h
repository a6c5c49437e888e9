// WeightCodec: one stored weight format (GGUF block type) as kernels and references see it.
//
// A format is either *float* (F32, F16, BF16) or *affine integer*: every weight of a block of 32 is
//   w[i] = scale[i / 16] * code[i] + offset[i / 16],   0 <= code[i] < 2^code_bits.
// That one form covers Q4_0 ... Q8_0 and the K types, so one packed layout and one kernel per code
// width serve them all (ops/packed_matrix.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace phasor {

inline constexpr int kCodeBlock = 32;

// How scale and offset are stored; kernels keep the same factors, so packing loses nothing.
enum class ScaleForm : uint8_t {
  kNone,         // float formats
  kSymmetric,    // f16 scale per block; offset = -2^(code_bits - 1) * scale
  kAffine,       // f16 scale and f16 offset per block
  kSuperAffine,  // K types: super_scale * sub_scale and -super_offset * sub_offset, f16 per 256
  kSuperHalves,  // Q6_K: super_scale * sub_scale per 16 weights; offset as in kSymmetric
};

struct CodeBlock {
  uint8_t code[kCodeBlock];
  float scale[2];  // of codes 0-15 and 16-31; equal unless the format has blocks of 16
  float offset[2];
  // Factors of scale and offset where the form is kSuper*; unset otherwise. The super factors are
  // exact f16 values.
  float super_scale, super_offset;
  int8_t sub_scale[2], sub_offset[2];
};

struct WeightCodecInfo {
  DType dtype;
  const char* id;  // lower-case name: "q4_1"
  const char* summary;
  bool is_float;
  int code_bits;           // 4, 5, 6 or 8; 0 for float formats
  bool halves_differ;      // true: scale and offset change every 16 weights (Q6_K)
  double bits_per_weight;  // as stored in the file
  ScaleForm scale_form;
  // Decodes n elements (a multiple of the block size) to float; the reference for every kernel.
  void (*decode)(const std::byte* blocks, int64_t n, float* out);
  // Integer formats: the block of 32 weights with index `block32` within the row at `row`.
  void (*unpack)(const std::byte* row, int64_t block32, CodeBlock* out);
};

}  // namespace phasor
