// What: Llama 3's frequency scaling; long wavelengths are divided by a factor, short ones kept, the
//   ones between are blended.
// Source: Llama 3.1 model code and config.json (rope_type "llama3"): with L the original context
//   and wavelength 2 pi / omega, pairs with wavelength > L / low_freq_factor are divided by factor,
//   pairs with wavelength < L / high_freq_factor are kept, others get the mix
//   smooth = (L / wavelength - low) / (high - low).
// Deviations: none. GGUF files carry the result as rope_freqs.weight, which plain `rope` reads.
// Shapes: P = n_rot/2 frequencies.
// Exact or approximate: exact. Neutral setting: factor 1 equals rope (test).
// Cost: as rope.
// Limits: factor > 0, high_freq_factor > low_freq_factor > 0, original context known.
// Rejected: nothing yet.
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeLlama3(const RopeParams& params) {
  if (!(params.factor > 0) || !(params.low_freq_factor > 0) ||
      !(params.high_freq_factor > params.low_freq_factor) || params.original_context <= 0) {
    return InvalidArgument(
        "llama3: expected factor > 0, 0 < low_freq_factor < high_freq_factor and an original "
        "context, found factor " +
        std::to_string(params.factor) + ", " + std::to_string(params.low_freq_factor) + ", " +
        std::to_string(params.high_freq_factor) + ", " + std::to_string(params.original_context));
  }
  PHASOR_RETURN_IF_ERROR(CheckFactor("llama3", params));
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("llama3", params));
  const long double low = params.low_freq_factor, high = params.high_freq_factor;
  for (long double& w : omega) {
    const long double turns_in_context = params.original_context * w / kTwoPi;
    const long double divided = w / params.factor;
    if (turns_in_context < low) {
      w = divided;
    } else if (turns_in_context <= high) {
      // Written so that factor 1 gives w itself, to the last bit.
      w = divided + (turns_in_context - low) / (high - low) * (w - divided);
    }
  }
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kLlama3Method = {
    "llama3", "Llama 3 frequency scaling: long wavelengths divided, short ones kept",
    "Llama 3.1 model card and config", kRopeFactor | kRopeOriginalContext | kRopeLowHighFreqFactor,
    MakeLlama3};

}  // namespace phasor
