// What: HoPE's cut (high-frequency rotary position encoding); pairs that turn less than once in the
//   trained context are not turned, their products stay as plain content scores.
// Source: Chen et al. 2024, HoPE: A Novel Positional Encoding Without Long-Term Decay for Enhanced
//   Context Awareness and Extrapolation (2410.21216): omega >= 2 pi / L is kept.
// Deviations: the paper also speaks of "activated" pairs just around one turn per context; they
//   are part of the same cut here, as in later work that trains with it. The paper trains models
//   with the cut; applied to a model that was trained with RoPE this is an ablation, which is
//   expected to break it (docs/quality.md).
// Shapes: P = n_rot/2 frequencies; the width of a head does not change.
// Exact or approximate: exact. Neutral settings: a cut_context so large that all pairs are kept
//   equals rope, cut_context 0 equals none (tests).
// Cost: as rope.
// Limits: cut_context >= 0.
// Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeHope(const RopeParams& params) {
  const int64_t length = params.cut_context < 0 ? params.original_context : params.cut_context;
  if (params.cut_context < 0) PHASOR_RETURN_IF_ERROR(CheckOriginalContext("hope", params));
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("hope", params));
  for (long double& w : omega) {
    // omega * L >= 2 pi rather than omega >= 2 pi / L: L may be 0.
    if (w * static_cast<long double>(length) < kTwoPi) w = 0;
  }
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kHopeMethod = {
    "hope", "pairs that turn less than once in the trained context are not turned",
    "HoPE, 2410.21216", kRopeOriginalContext | kRopeCutContext, MakeHope};

}  // namespace phasor
