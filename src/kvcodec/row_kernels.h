// Inner loops over token rows of f32, f16 or bf16 numbers, one set per CPU level.
//
// Rows are packed: token t starts at element t * head_dim. All functions take any head_dim >= 1 and
// read or write nothing outside the arrays described. Sums run in float.
#pragma once

#include <cstddef>
#include <cstdint>

#include "contracts/kv_codec.h"
#include "simd/cpu.h"

namespace phasor {

enum class RowType { kF32, kF16, kBf16 };

// Queries are copied into rows of this many floats, zero padded, so that vector loads never need a
// mask on the query side.
inline int PaddedHeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

struct RowKernels {
  // n floats -> n stored numbers, round to nearest even. NaN -> 0, infinity -> +-65504 (f16 and
  // f32: exactly; bf16: its nearest number), finite numbers beyond the type -> its largest number.
  void (*encode)(const float* x, std::size_t n, void* out);
  // n stored numbers -> n floats, exact.
  void (*decode)(const void* stored, std::size_t n, float* out);
  // score_GT[i * kPageTokens + t] = q_i . row_t; q_GP: [g, PaddedHeadDim(head_dim)].
  void (*score)(const float* q_GP, int g, const void* rows, int head_dim, int n_tokens,
                float* score_GT);
  // out_GD[i] += sum_t weight_GT[i * kPageTokens + t] * row_t.
  void (*accumulate)(const float* weight_GT, int g, const void* rows, int head_dim, int n_tokens,
                     float* out_GD);
};

const RowKernels& GetRowKernels(RowType type, CpuLevel level);

// The sets of one level; null where the build has none (other processors).
const RowKernels* RowKernelsAvx2(RowType type);
const RowKernels* RowKernelsAvx512(RowType type);
const RowKernels* RowKernelsNeon(RowType type);  // for both NEON levels

}  // namespace phasor
