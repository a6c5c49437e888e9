// Bytes of an integer panel: 16 rows of a weight matrix, block of 32 columns after block.
//
// A *code vector* is 64 bytes, [16 rows][4 columns]: what one VNNI instruction multiplies with four
// broadcast activations, lanes being rows. A block has eight of them, v = 0 ... 7 (columns 4v ...
// 4v + 3), stored in planes:
//   4 bits   4 vectors; vector i holds v = 2i in the low nibbles and v = 2i + 1 in the high ones
//   5 bits   the same, then one vector whose bit v is the fifth bit of the same byte of vector v
//   6 bits   the same as 4 bits, then two vectors: bits 2u and 2u + 1 of vector p are the upper two
//            bits of v = 4p + u
//   8 bits   8 vectors
// After the codes of each block come its scales, per row:
//   kSymmetric    f16 scale
//   kAffine       f16 scale [16], f16 offset [16]
//   kSuperAffine  s8 sub-scale [16], s8 sub-offset [16]
//   kSuperHalves  s8 sub-scale of columns 0-15 [16], of columns 16-31 [16]
// and the kSuper forms put the f16 factors of eight blocks before them: scale [16], and for
// kSuperAffine offset [16]. All factors are those of the file, so a panel is exact and has the
// file's size (Q8_0, Q4_0 ...) or a little more (Q4_K: 4.625 bits per weight for 4.5).
#pragma once

#include <cstddef>
#include <cstdint>

#include "contracts/weight_codec.h"

namespace phasor {

inline constexpr int kCodeVectorBytes = 64;
inline constexpr int kBlocksPerSuper = 8;

struct PanelLayout {
  int code_bits = 0;
  ScaleForm form = ScaleForm::kNone;

  constexpr bool is_super() const {
    return form == ScaleForm::kSuperAffine || form == ScaleForm::kSuperHalves;
  }
  constexpr bool is_affine() const {
    return form == ScaleForm::kAffine || form == ScaleForm::kSuperAffine;
  }
  constexpr int zero_code() const { return is_affine() ? 0 : 1 << (code_bits - 1); }
  constexpr int code_bytes() const { return code_bits * kCodeVectorBytes; }
  constexpr int block_bytes() const {
    return code_bytes() + (form == ScaleForm::kAffine ? 64 : 32);
  }
  // Bytes before the first of eight blocks.
  constexpr int super_bytes() const {
    return form == ScaleForm::kSuperAffine ? 64 : form == ScaleForm::kSuperHalves ? 32 : 0;
  }
  constexpr int64_t PanelBytes(int64_t n_blocks) const {
    return n_blocks * block_bytes() +
           (n_blocks + kBlocksPerSuper - 1) / kBlocksPerSuper * super_bytes();
  }
};

// Calls visit.operator()<bits, form>() for the layout given at run time.
template <typename Visitor>
auto VisitLayout(PanelLayout layout, Visitor&& visit) {
  using F = ScaleForm;
  switch (layout.code_bits) {
    case 4:
      if (layout.form == F::kSymmetric) return visit.template operator()<4, F::kSymmetric>();
      if (layout.form == F::kAffine) return visit.template operator()<4, F::kAffine>();
      return visit.template operator()<4, F::kSuperAffine>();
    case 5:
      if (layout.form == F::kSymmetric) return visit.template operator()<5, F::kSymmetric>();
      if (layout.form == F::kAffine) return visit.template operator()<5, F::kAffine>();
      return visit.template operator()<5, F::kSuperAffine>();
    case 6:
      return visit.template operator()<6, F::kSuperHalves>();
    default:
      return visit.template operator()<8, F::kSymmetric>();
  }
}

}  // namespace phasor
