// Double references of the matrix products, for tests. Slow and plain on purpose.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "contracts/weight_codec.h"
#include "tensor/dtype.h"

namespace phasor {

// One reference element: the sum, and the sum of the magnitudes of its terms, to which rounding
// errors are proportional. A weight of an affine format is two terms, scale * code and offset.
struct ReferenceSum {
  double value = 0, magnitude = 0;
};

// Weights of one row in double, and |scale * code| + |offset| (|w| for symmetric and float
// formats).
inline void DecodeRowReference(const WeightCodecInfo& codec, const std::byte* row, int64_t n_cols,
                               std::vector<double>* w, std::vector<double>* magnitude) {
  std::vector<float> decoded(static_cast<std::size_t>(n_cols));
  codec.decode(row, n_cols, decoded.data());
  w->assign(decoded.begin(), decoded.end());
  magnitude->resize(w->size());
  const bool is_affine =
      codec.scale_form == ScaleForm::kAffine || codec.scale_form == ScaleForm::kSuperAffine;
  CodeBlock block;
  for (std::size_t k = 0; k < w->size(); ++k) {
    (*magnitude)[k] = std::abs((*w)[k]);
    if (!is_affine) continue;
    if (k % kCodeBlock == 0) codec.unpack(row, static_cast<int64_t>(k / kCodeBlock), &block);
    double product = static_cast<double>(block.scale[0]) * block.code[k % kCodeBlock];
    (*w)[k] = product + block.offset[0];
    (*magnitude)[k] = std::abs(product) + std::abs(block.offset[0]);
  }
}

// y_TN = x_TK * W_NK^T with exact weights and float activations.
inline std::vector<ReferenceSum> MatMulReference(const WeightCodecInfo& codec,
                                                 const std::byte* data, int64_t n_rows,
                                                 int64_t n_cols, const float* x_TK, int64_t ldx,
                                                 int n_tokens) {
  std::vector<ReferenceSum> y_TN(static_cast<std::size_t>(n_tokens * n_rows));
  std::vector<double> w, magnitude;
  for (int64_t r = 0; r < n_rows; ++r) {
    DecodeRowReference(codec, data + r * RowBytes(codec.dtype, n_cols), n_cols, &w, &magnitude);
    for (int t = 0; t < n_tokens; ++t) {
      ReferenceSum& y = y_TN[static_cast<std::size_t>(t * n_rows + r)];
      for (int64_t k = 0; k < n_cols; ++k) {
        const double x = x_TK[t * ldx + k];
        y.value += w[static_cast<std::size_t>(k)] * x;
        y.magnitude += magnitude[static_cast<std::size_t>(k)] * std::abs(x);
      }
    }
  }
  return y_TN;
}

// The activations that the int8 path multiplies with, as floats: per block of 32, the scale is
// max|x| / 127 in float and codes are rounded to nearest even in float.
inline std::vector<float> QuantizedActivationsReference(const float* x_TK, int64_t ldx,
                                                        int n_tokens, int64_t n_cols) {
  std::vector<float> out(static_cast<std::size_t>(n_tokens * n_cols));
  for (int t = 0; t < n_tokens; ++t) {
    for (int64_t b = 0; b < n_cols; b += kCodeBlock) {
      const float* x = x_TK + t * ldx + b;
      float max = 0;
      for (int i = 0; i < kCodeBlock; ++i) max = std::max(max, std::abs(x[i]));
      if (max == 0) continue;
      for (int i = 0; i < kCodeBlock; ++i) {
        float code = std::nearbyint(x[i] * (127.0f / max));
        out[static_cast<std::size_t>(t * n_cols + b + i)] = code * (max / 127.0f);
      }
    }
  }
  return out;
}

}  // namespace phasor
