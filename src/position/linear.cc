// What: position interpolation; all frequencies divided by one factor.
// Source: Chen et al. 2023, Extending Context Window via Positional Interpolation (2306.15595),
// eq. 4. Deviations: none. Shapes: P = n_rot/2 frequencies. Exact or approximate: exact. Neutral
// setting: factor 1 equals rope (test). Cost: as rope. Limits: factor > 0. Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeLinear(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckFactor("linear", params));
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("linear", params));
  for (long double& w : omega) w /= params.factor;
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kLinearMethod = {"linear", "position interpolation by one factor",
                                          "Position Interpolation, 2306.15595", kRopeFactor,
                                          MakeLinear};

}  // namespace phasor
