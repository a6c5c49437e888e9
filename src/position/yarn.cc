// What: YaRN; a ramp over the pairs blends interpolated and original frequencies, and attention is
//   sharpened by a factor on q and k.
// Source: Peng et al. 2023, YaRN (2309.00071), eq. 19-22. With L the original context, the pair
//   that turns b times within L has index d(b) = n_rot * ln(L / (2 pi b)) / (2 ln base); the ramp
//   runs from floor(d(beta_fast)) to ceil(d(beta_slow)), clamped to [0, n_rot - 1].
// Deviations: none; the default attention factor is 0.1 ln(factor) + 1 on q and k each.
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact. Neutral setting: factor 1 equals rope (test).
// Cost: as rope.
// Limits: factor >= 1, original context known, 0 < beta_slow <= beta_fast.
// Rejected: nothing yet.
#include <algorithm>

#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeYarn(const RopeParams& params) {
  if (!(params.factor >= 1) || params.original_context <= 0 || !(params.theta_base > 1)) {
    return InvalidArgument("yarn: expected factor >= 1, base > 1 and an original context, found " +
                           std::to_string(params.factor) + ", " +
                           std::to_string(params.theta_base) + ", " +
                           std::to_string(params.original_context));
  }
  PHASOR_RETURN_IF_ERROR(CheckFactor("yarn", params));
  if (!(params.beta_slow > 0) || !(params.beta_fast >= params.beta_slow) ||
      !std::isfinite(params.beta_fast)) {
    return InvalidArgument("yarn: expected 0 < beta_slow <= beta_fast, found " +
                           std::to_string(params.beta_slow) + " and " +
                           std::to_string(params.beta_fast));
  }
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("yarn", params));
  const double log_base = std::log(params.theta_base);
  auto pair_of = [&](double turns) {
    return params.n_rot * std::log(params.original_context / (turns * 6.283185307179586)) /
           (2 * log_base);
  };
  const double low = std::max(0.0, std::floor(pair_of(params.beta_fast)));
  double high = std::min(params.n_rot - 1.0, std::ceil(pair_of(params.beta_slow)));
  if (high <= low) high = low + 0.001;  // the ramp becomes a step
  for (std::size_t j = 0; j < omega.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    // Written so that factor 1 gives the frequency itself, to the last bit.
    const long double divided = omega[j] / params.factor;
    omega[j] = divided + (1 - ramp) * (omega[j] - divided);
  }
  PhaseTable table = TableOf(omega);
  table.attention_factor = static_cast<float>(
      params.attention_factor > 0 ? params.attention_factor : 0.1 * std::log(params.factor) + 1.0);
  return table;
}

}  // namespace

const PositionMethodInfo kYarnMethod = {
    "yarn", "interpolation by wavelength with an attention factor", "YaRN, 2309.00071",
    kRopeFactor | kRopeOriginalContext | kRopeBetas | kRopeAttentionFactor, MakeYarn};

}  // namespace phasor
