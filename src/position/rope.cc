// What: plain rotary position embedding, with optional per-pair frequency divisors from the file.
// Source: Su et al. 2021, RoFormer (2104.09864), eq. 15; divisors as in GGUF's rope_freqs.weight
//   (Llama 3) and LongRoPE's factor tensors (2402.13753).
// Deviations: angles are integer turns, so that they are exact at any position (none in value).
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact; position 1,000,000 is tested against long double.
// Cost: one 64-bit product, one cosine and one sine per pair and position.
// Limits: n_rot even; divisors positive and finite.
// Rejected: float angles (position times frequency in float loses 1e-2 rad at 131,072).
#include "position/position.h"

namespace phasor {

Result<std::vector<long double>> BaseFrequencies(const char* method, const RopeParams& params) {
  const std::string where(method);
  if (params.n_rot < 0 || params.n_rot % 2 != 0) {
    return InvalidArgument(where + ": expected even rotated dimensions, found " +
                           std::to_string(params.n_rot));
  }
  if (!(params.theta_base > 0) || !std::isfinite(params.theta_base)) {
    return InvalidArgument(where + ": expected a positive, finite frequency base, found " +
                           std::to_string(params.theta_base));
  }
  const int n_pairs = params.n_rot / 2;
  if (!params.freq_factors.empty() && static_cast<int>(params.freq_factors.size()) != n_pairs) {
    return InvalidArgument(where + ": expected " + std::to_string(n_pairs) +
                           " frequency factors, found " +
                           std::to_string(params.freq_factors.size()));
  }
  std::vector<long double> omega(n_pairs);
  for (int j = 0; j < n_pairs; ++j) {
    omega[j] = std::pow(static_cast<long double>(params.theta_base),
                        -2.0L * j / static_cast<long double>(params.n_rot));
    if (params.freq_factors.empty()) continue;
    const float factor = params.freq_factors[j];
    if (!(factor > 0) || !std::isfinite(factor)) {
      return InvalidArgument(where + ": frequency factor " + std::to_string(j) +
                             ": expected a positive, finite number, found " +
                             std::to_string(factor));
    }
    omega[j] /= factor;
  }
  return omega;
}

PhaseTable TableOf(const std::vector<long double>& omega_P) {
  PhaseTable table;
  for (long double w : omega_P) table.step_P.push_back(TurnsFromRadians(w));
  return table;
}

Status CheckFactor(const char* method, const RopeParams& params) {
  if (params.factor > 0 && std::isfinite(params.factor)) return Status::Ok();
  return InvalidArgument(std::string(method) + ": expected a positive factor, found " +
                         std::to_string(params.factor));
}

Status CheckOriginalContext(const char* method, const RopeParams& params) {
  if (params.original_context > 0) return Status::Ok();
  return InvalidArgument(std::string(method) +
                         ": expected the trained context before extension in tokens, found " +
                         std::to_string(params.original_context));
}

namespace {

Result<PhaseTable> MakeRope(const RopeParams& params) {
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("rope", params));
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kRopeMethod = {
    "rope", "plain rotary embedding, with the file's frequency factors if it has any",
    "RoFormer, 2104.09864", 0, MakeRope};

}  // namespace phasor
