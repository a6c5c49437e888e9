// What: Giraffe's power basis; slow pairs are slowed most, the fastest keeps its frequency.
// Source: Pal et al. 2023, Giraffe (2308.10882), power scaling: omega_j (1 - j/P)^k with P the
//   number of pairs; the released run has k = 0.5. The authors' code composes linear scaling, then
//   the power; so do factor and power_exponent here.
// Deviations: none. The paper fine-tunes with the changed basis; here it can also be put on a model
//   as it is (docs/quality.md).
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact. Neutral setting: factor 1 and exponent 0 equal rope (test).
// Cost: as rope.
// Limits: factor > 0, exponent >= 0 and finite.
// Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeGiraffePower(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckFactor("giraffe_power", params));
  if (!(params.power_exponent >= 0) || !std::isfinite(params.power_exponent)) {
    return InvalidArgument("giraffe_power: expected an exponent of at least 0, found " +
                           std::to_string(params.power_exponent));
  }
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("giraffe_power", params));
  const auto n_pairs = static_cast<long double>(omega.size());
  for (std::size_t j = 0; j < omega.size(); ++j) {
    omega[j] = omega[j] / params.factor *
               std::pow(1 - static_cast<long double>(j) / n_pairs,
                        static_cast<long double>(params.power_exponent));
  }
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kGiraffePowerMethod = {
    "giraffe_power", "frequencies times a falling power of the pair's index", "Giraffe, 2308.10882",
    kRopeFactor | kRopePowerExponent, MakeGiraffePower};

}  // namespace phasor
