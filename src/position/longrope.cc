// What: LongRoPE; every pair has its own divisor, found by a search and shipped with the model, one
//   list for contexts up to the trained one and one for longer ones.
// Source: Ding et al. 2024, LongRoPE (2402.13753), eq. 4; the two lists and the attention factor
//   sqrt(1 + ln s / ln L) as in the code and config.json (rope type "longrope") of the Phi-3
//   models; GGUF: rope_factors_long.weight, rope_factors_short.weight, rope.scaling.attn_factor.
// Deviations: the paper leaves the first tokens unscaled (its n-hat); released models do not, nor
//   does this. The list is chosen once, by the context a session was made for
//   (RopeParams::context > original_context: long): the cache is not turned again when a text
//   grows past the trained context (see dynamic_ntk.cc).
// Shapes: P = n_rot/2 frequencies; short_factors, long_factors [P].
// Exact or approximate: exact. Neutral setting: lists of ones at factor 1 equal rope (test).
// Cost: as rope.
// Limits: the lists come from the file; there is no search for them here. Factors positive, finite.
// Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Status CheckList(const char* name, const std::vector<float>& factors, int n_pairs) {
  const std::string where = std::string("longrope: ") + name + " factors: ";
  if (static_cast<int>(factors.size()) != n_pairs) {
    return InvalidArgument(where + "expected " + std::to_string(n_pairs) + " of them, found " +
                           (factors.empty() ? "none" : std::to_string(factors.size())));
  }
  for (const float f : factors) {
    if (!(f > 0) || !std::isfinite(f)) {
      return InvalidArgument(where + "expected positive, finite numbers, found " +
                             std::to_string(f));
    }
  }
  return Status::Ok();
}

// The published default: keeps the entropy of attention as the number of keys grows.
Result<double> AttentionFactor(const RopeParams& params) {
  if (params.attention_factor > 0) return params.attention_factor;
  if (params.factor <= 1) return 1.0;
  if (params.original_context < 2) {
    return InvalidArgument("longrope: expected an original context of at least 2, found " +
                           std::to_string(params.original_context));
  }
  return std::sqrt(1.0 + std::log(params.factor) /
                             std::log(static_cast<double>(params.original_context)));
}

Result<PhaseTable> MakeLongRope(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckOriginalContext("longrope", params));
  PHASOR_RETURN_IF_ERROR(CheckFactor("longrope", params));
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("longrope", params));
  PHASOR_RETURN_IF_ERROR(CheckList("short", params.short_factors, params.n_rot / 2));
  PHASOR_RETURN_IF_ERROR(CheckList("long", params.long_factors, params.n_rot / 2));
  const bool is_long = params.context > params.original_context;
  const std::vector<float>& factors = is_long ? params.long_factors : params.short_factors;
  for (std::size_t j = 0; j < omega.size(); ++j) omega[j] /= factors[j];
  PhaseTable table = TableOf(omega);
  PHASOR_ASSIGN_OR_RETURN(const double attention, AttentionFactor(params));
  table.attention_factor = static_cast<float>(attention);
  return table;
}

}  // namespace

const PositionMethodInfo kLongRopeMethod = {
    "longrope", "a divisor per pair from the file: one list within the trained context, one beyond",
    "LongRoPE, 2402.13753",
    kRopeFactor | kRopeOriginalContext | kRopeContext | kRopeAttentionFactor | kRopeFactorLists,
    MakeLongRope};

}  // namespace phasor
