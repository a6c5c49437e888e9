// Matrix-vector and matrix-matrix products with stored weights: y_TN = x_TK * W_NK^T.
//
// Weights are repacked once at load into panels of 16 rows (PackedMatrix), so that a vector lane is
// an output row and activations are broadcast: no horizontal sums, one layout for one token or
// many.
//
// Two precisions:
//   kInt8  activations are quantized to int8 per block of 32 (scale = max|x| / 127), products are
//          integer dot products; weight codes are exact. What users run. CPUs with tile registers
//          round activations and weights to bfloat16 instead where there are 20 tokens and more
//          (matmul_amx.cc), which loses less: a token's result then depends on how many came with
//          it, by what 8-bit activations lose.
//   kF32   weights are decoded to float, activations stay float. The yardstick for golden tests.
// Float weights (F32, F16, BF16) are multiplied in float in both, but for BF16 with tile registers:
// there kInt8 rounds the activations of 20 tokens and more to bfloat16 too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/huge_pages.h"
#include "base/thread_pool.h"
#include "contracts/weight_codec.h"
#include "ops/panel_layout.h"
#include "phasor/status.h"

namespace phasor {

enum class MatMulPrecision { kInt8, kF32 };

inline constexpr int kPanelRows = 16;

// A weight matrix [n_rows, n_cols] in panel layout. Rows are padded to a multiple of kPanelRows
// with zero weights. Layout of integer panels: panel_layout.h; float panels are [n_cols][16 rows]
// in the source type.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(PackedMatrix&&) noexcept = default;
  PackedMatrix& operator=(PackedMatrix&&) noexcept = default;

  // `data`: n_rows rows of RowBytes(codec.dtype, n_cols) bytes. n_cols must be a multiple of 32 for
  // integer formats. kDataCorrupt when a scale or a float weight is NaN or infinite.
  static Result<PackedMatrix> Pack(const WeightCodecInfo& codec, const std::byte* data,
                                   int64_t n_rows, int64_t n_cols, MatMulPrecision precision,
                                   ThreadPool& pool);

  int64_t n_rows() const { return n_rows_; }
  int64_t n_cols() const { return n_cols_; }
  bool is_integer() const { return layout_.code_bits != 0; }
  // Whether kInt8 was asked for.
  bool may_round() const { return may_round_; }
  const PanelLayout& layout() const { return layout_; }  // of integer panels
  DType float_dtype() const { return float_dtype_; }     // of float panels: kF32, kF16 or kBF16
  std::size_t size_bytes() const { return panels_.size(); }
  std::size_t panel_bytes() const { return panel_bytes_; }
  const std::byte* panel(int64_t index) const { return panels_.data() + index * panel_bytes_; }
  int64_t n_panels() const { return (n_rows_ + kPanelRows - 1) / kPanelRows; }

 private:
  int64_t n_rows_ = 0, n_cols_ = 0;
  PanelLayout layout_;
  DType float_dtype_ = DType::kF32;
  bool may_round_ = false;
  std::size_t panel_bytes_ = 0;
  HugeBlock panels_;
};

// Quantized activations and other buffers, reused between calls. One per concurrent caller.
class MatMulScratch {
 public:
  struct Impl;
  MatMulScratch();
  ~MatMulScratch();
  Impl* impl() { return impl_.get(); }

 private:
  std::unique_ptr<Impl> impl_;
};

struct MatMulJob {
  const PackedMatrix* w = nullptr;
  float* y = nullptr;           // [n_tokens, ldy]; every element of the first n_rows is written
  int64_t ldy = 0;              // row stride of y in floats; 0: w->n_rows()
  const float* bias = nullptr;  // [n_rows] or null
  bool accumulate = false;      // y += instead of y = (residual connections)
};

// Computes all jobs for the same input x_TK [n_tokens, ldx] (ldx 0: n_cols). Quantizes x once, then
// shares the panels of all jobs among the threads in one parallel region.
void MatMul(std::span<const MatMulJob> jobs, const float* x_TK, int64_t ldx, int n_tokens,
            MatMulScratch& scratch, ThreadPool& pool);

// Row-major float product used by prefill attention, single-threaded, at the active CPU level:
// c_MN (+)= a_MK * b_KN with leading dimensions lda, ldb, ldc.
void GemmF32(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int m,
             int n, int k, bool accumulate);

}  // namespace phasor
