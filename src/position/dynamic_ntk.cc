// What: NTK-aware interpolation with a factor from the length to serve; up to the trained context
//   it is plain rope.
// Source: emozilla 2023, "Dynamically Scaled RoPE"; Peng et al. 2023, YaRN (2309.00071), section
//   3.3; Hugging Face config.json, rope type "dynamic": with L the trained context, C the length
//   and a the configured factor, s = a C / L - (a - 1). At a = 1 that is C / L.
// Deviations: the published form takes C from the tokens seen so far and so turns every new token
//   with another base. Here C is the context a session was made for (RopeParams::context), fixed
//   for its whole life: keys are stored turned, and a cache whose keys were turned with one base is
//   not turned again later. Mixing bases in one cache, as naive use of the published form does,
//   makes distances wrong; storing keys unturned makes every step turn all of them.
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact. Neutral setting: context <= original_context equals rope (test).
// Cost: as rope.
// Limits: factor >= 1, original context known.
// Rejected: a base per page (scores need one rotation per page and query; see above for the rest).
#include <algorithm>

#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeDynamicNtk(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckOriginalContext("dynamic_ntk", params));
  if (!(params.factor >= 1) || !std::isfinite(params.factor)) {
    return InvalidArgument("dynamic_ntk: expected a factor of at least 1, found " +
                           std::to_string(params.factor));
  }
  if (params.context < 0) {
    return InvalidArgument("dynamic_ntk: expected a context of at least 0 tokens, found " +
                           std::to_string(params.context));
  }
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("dynamic_ntk", params));
  const long double length = std::max(params.context, params.original_context);
  const long double a = params.factor;
  ScaleBase(a * (length / params.original_context) - (a - 1), &omega);
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kDynamicNtkMethod = {
    "dynamic_ntk",
    "ntk with a factor from the session's context; plain rope within the trained one",
    "YaRN, 2309.00071, section 3.3", kRopeFactor | kRopeOriginalContext | kRopeContext,
    MakeDynamicNtk};

}  // namespace phasor
