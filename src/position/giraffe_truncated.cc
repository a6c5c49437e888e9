// What: Giraffe's truncated basis; fast pairs are kept, a band of slower ones gets one constant
//   frequency, the slowest are not turned.
// Source: Pal et al. 2023, Giraffe (2308.10882), truncated basis, with the constants of the
//   authors' code: for a length of t tokens and c = 2 pi / t, omega >= c is kept, c/8 <= omega < c
//   becomes c/16, the rest 0. Their code scales linearly first; so does factor here.
// Deviations: none. The paper fine-tunes with the changed basis; here it can also be put on a model
//   as it is (docs/quality.md).
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact. Neutral setting: factor 1 and a truncation_context so large that all
//   pairs are kept equal rope (test).
// Cost: as rope.
// Limits: factor > 0, truncation_context >= 1.
// Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeGiraffeTruncated(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckFactor("giraffe_truncated", params));
  const int64_t length =
      params.truncation_context < 0 ? params.original_context : params.truncation_context;
  if (length < 1) {
    return InvalidArgument(
        "giraffe_truncated: expected a truncation context of at least 1 token, found " +
        std::to_string(length));
  }
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega,
                          BaseFrequencies("giraffe_truncated", params));
  const long double cutoff = kTwoPi / static_cast<long double>(length);
  for (long double& w : omega) {
    w /= params.factor;
    if (w >= cutoff) continue;
    w = w >= cutoff / 8 ? cutoff / 16 : 0;
  }
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kGiraffeTruncatedMethod = {
    "giraffe_truncated", "fast pairs kept, a band at one frequency, the slowest not turned",
    "Giraffe, 2308.10882", kRopeFactor | kRopeOriginalContext | kRopeTruncationContext,
    MakeGiraffeTruncated};

}  // namespace phasor
