// polar: keys as radius and angle, with the bits where the queries look.
//
// What it does: every RoPE pair of a KV head gets its own radius and angle width, chosen once per
//   model so that the expected error of the scores, sum_j E|q_j|^2 err_j, is least under a budget
//   of bits (width_allocation.h). In a page of 128 tokens each pair has its own grid.
// Source: grids, group of 128 and mid-cell reconstruction from PolarQuant (Wu et al., 2025,
//   arXiv 2502.00527, section 4); the cut at the largest gap and widths by query weight are
//   phasor's own (docs/log.md).
// Deviations: the circle is cut at its largest gap, not at 0 (a pair that sits at angle 0 is ten
//   times more exact); the angle range is stored as u16 turns, radii in f16 rounded outwards, and
//   codes are computed from the stored grid; degenerate grids have step 0.
// Shapes and layout: polar_layout.h. Keys only. Dimensions RoPE leaves alone are paired as
//   (n_rot + j, n_rot + j + tail/2).
// Exactness: approximate. Per element at most half a cell: r step/2 along the radius and
//   r * pi * step across it (tested); an element beyond +-65504 counts as +-65504, NaN as 0.
// Cost: widths + 0.25 bits per element. Scores by table look-up, keys are never decoded for them;
//   with AVX2 and AVX-512 in 16-bit integers, which add at most 1/8 of the error of the codes
//   (tested).
// Limits: head size up to 1024. Without classes all pairs get 3 + 5 bits, which is no better
//   than plain int4: calibrate.
// Tried and rejected (mean squared error of the scores on SmolLM2-135M, 90 KV heads, 2,048 tokens
//   of a novel, calibrated on another one, int4_channel = 1): one split for all pairs, 3+5 1.63,
//   4+4 1.78, 4+4 cut at 0 8.0, against 0.50 for widths by query weight, all at 4.25 bits.
//   Cartesian cells for the pairs that prefer them (1,860 of 2,880) would give 0.41 (3.25
//   bits: 1.71 instead of 1.87); left out for now because such a pair cannot be moved by a phase.
#include "kvcodec/polar.h"

#include <algorithm>

#include "kvcodec/kvcodec.h"
#include "kvcodec/polar_codec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> MakePolar(const char* id, const KvCodecParams& params) {
  const std::size_t n_pairs = static_cast<std::size_t>(std::max(params.head_dim, 0) + 1) / 2;
  std::vector<PolarWidth> width_P(n_pairs, kPolarClasses[kUniformPolarClass]);
  if (!params.classes.empty()) {
    if (params.classes.size() != n_pairs) {
      return InvalidArgument(std::string(id) + ": expected width classes for " +
                             std::to_string(n_pairs) + " pairs, found " +
                             std::to_string(params.classes.size()));
    }
    for (std::size_t j = 0; j < n_pairs; ++j) {
      if (params.classes[j] >= kNumPolarClasses) {
        return InvalidArgument(
            std::string(id) + ": expected a width class below " + std::to_string(kNumPolarClasses) +
            ", found " + std::to_string(params.classes[j]) + " for pair " + std::to_string(j));
      }
      width_P[j] = kPolarClasses[params.classes[j]];
    }
  }
  return PolarCodec::Make(id, params, width_P, CircleCut::kLargestGap);
}

}  // namespace

const KvCodecInfo kPolarKvCodec = {
    "polar",
    "radius and angle, widths per pair by query weight",
    "phasor, after PolarQuant (arXiv 2502.00527)",
    /*for_keys=*/true,
    /*for_values=*/false,
    /*exact=*/false,
    /*uses_calibration=*/true,
    /*nominal_bits_64=*/4.25,
    /*nominal_bits_128=*/4.25,
    MakePolar,
};

}  // namespace phasor
