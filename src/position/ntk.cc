// What: NTK-aware interpolation; the frequency base grows so that the slowest pair is slowed by the
//   whole factor and the fastest not at all.
// Source: bloc97 2023, "NTK-Aware Scaled RoPE"; written down in Peng et al. 2023, YaRN
//   (2309.00071), definition 1: base' = base * s^(n_rot / (n_rot - 2)).
// Deviations: none. Computed as omega_j * s^(-2j / (n_rot - 2)), the same number, in which factor 1
//   leaves every bit and files' frequency factors stay.
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact. Neutral setting: factor 1 equals rope (test).
// Cost: as rope.
// Limits: factor > 0. With one pair (n_rot 2) there is nothing to scale: pair 0 is never slowed.
// Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeNtk(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckFactor("ntk", params));
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("ntk", params));
  ScaleBase(params.factor, &omega);
  return TableOf(omega);
}

}  // namespace

void ScaleBase(long double factor, std::vector<long double>* omega_P) {
  const auto n_pairs = static_cast<long double>(omega_P->size());
  for (std::size_t j = 1; j < omega_P->size(); ++j) {
    (*omega_P)[j] *= std::pow(factor, -static_cast<long double>(j) / (n_pairs - 1));
  }
}

const PositionMethodInfo kNtkMethod = {"ntk", "frequency base raised by a factor (NTK-aware)",
                                       "YaRN, 2309.00071, definition 1", kRopeFactor, MakeNtk};

}  // namespace phasor
