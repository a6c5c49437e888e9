// What: no position encoding (NoPE); queries and keys are not turned, so a score does not know the
//   distance. Order reaches the model through the causal mask alone.
// Source: Kazemnejad et al. 2023, The Impact of Positional Encoding on Length Generalization in
//   Transformers (2305.19466).
// Deviations: none in the rotation. The paper trains models without positions; applied to a model
//   that was trained with RoPE this is an ablation, which breaks it (docs/quality.md).
// Shapes: P = n_rot/2 frequencies, all 0.
// Exact or approximate: exact. Equals hope with cut_context 0 (test).
// Cost: as rope; the rotation by angle 0 is still computed.
// Limits: not what llama.cpp and GGUF files call none: that is no scaling, `rope`.
// Rejected: leaving the rotation out of the pass (a branch in every layer for an ablation).
#include "position/position.h"

namespace phasor {
namespace {

Result<PhaseTable> MakeNone(const RopeParams& params) {
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("nope", params));
  for (long double& w : omega) w = 0;
  return TableOf(omega);
}

}  // namespace

const PositionMethodInfo kNopeMethod = {"nope", "no rotation at all (NoPE)", "NoPE, 2305.19466", 0,
                                        MakeNone};

}  // namespace phasor
