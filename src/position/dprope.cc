// What: DPRoPE; per pair, either the original frequency or the interpolated one, whichever keeps
//   the distribution of its angles over the long context nearer to that over the trained one.
// Source: Wu et al. 2024, Extending Context Window of Large Language Models from a Distributional
//   Perspective (2410.01490), as released: histograms of 360 bins, argmin of the KL divergence of
//   the trained angles (L positions) from those of each candidate (s L positions).
// Deviations: divergences are summed over bins, the released code averages them (a constant factor,
//   no effect on the choice). The text of the paper has a threshold for the decision; the released
//   code has none, nor has this. The paper fine-tunes after the choice. Ties keep the original.
// Shapes: P = n_rot/2 frequencies, each omega or omega / s; the chosen set is no suffix of pairs.
// Exact or approximate: exact; angles are integers, so bins are counted without rounding. Neutral
//   setting: factor 1 equals rope (test). Golden: 46 and 42 of 64 pairs interpolated, 72.1 % and
//   31.7 % less disturbance than linear (test).
// Cost: as rope; making the table counts P (L + 2 s L) angles, 0.2 s for s L = 2^20 and 64 pairs.
// Limits: factor >= 1, original context known, s L <= 2^24 tokens.
// Rejected: nothing yet.
#include "position/dprope.h"

#include <array>
#include <cmath>

#include "base/check.h"
#include "position/position.h"

namespace phasor {
namespace {

using Histogram = std::array<double, kDisturbanceBins>;

// Shares of `n` positions per bin, the floor included.
Histogram AngleHistogram(uint64_t step, int64_t n) {
  std::array<int64_t, kDisturbanceBins> counts{};
  uint64_t angle = 0;  // in turns * 2^64; wraps as an angle does
  for (int64_t p = 0; p < n; ++p, angle += step) {
    ++counts[static_cast<std::size_t>((angle >> 32) * kDisturbanceBins >> 32)];
  }
  Histogram shares;
  for (int b = 0; b < kDisturbanceBins; ++b) {
    shares[b] = (kDisturbanceFloor + static_cast<double>(counts[b])) / static_cast<double>(n);
  }
  return shares;
}

double Divergence(const Histogram& p, const Histogram& q) {
  double kl = 0;
  for (int b = 0; b < kDisturbanceBins; ++b) kl += p[b] * std::log(p[b] / q[b]);
  return kl;
}

Result<PhaseTable> MakeDprope(const RopeParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckOriginalContext("dprope", params));
  const double length = params.factor * static_cast<double>(params.original_context);
  if (!(params.factor >= 1) || !(length <= static_cast<double>(kDisturbanceMaxTokens))) {
    return InvalidArgument("dprope: expected a factor of at least 1 and at most " +
                           std::to_string(kDisturbanceMaxTokens) + " tokens, found factor " +
                           std::to_string(params.factor) + " of " +
                           std::to_string(params.original_context) + " tokens");
  }
  PHASOR_ASSIGN_OR_RETURN(std::vector<long double> omega, BaseFrequencies("dprope", params));
  const int64_t n_reference = params.original_context;
  const int64_t n = std::llround(length);
  PhaseTable table;
  for (const long double w : omega) {
    const uint64_t keep = TurnsFromRadians(w), interpolate = TurnsFromRadians(w / params.factor);
    const Histogram trained = AngleHistogram(keep, n_reference);
    const double kept = Divergence(trained, AngleHistogram(keep, n));
    const double interpolated = Divergence(trained, AngleHistogram(interpolate, n));
    table.step_P.push_back(interpolated < kept ? interpolate : keep);
  }
  return table;
}

}  // namespace

double AngleDisturbance(uint64_t reference_step, int64_t n_reference, uint64_t step, int64_t n) {
  PHASOR_CHECK(n_reference >= 1 && n >= 1);
  PHASOR_CHECK(n_reference <= kDisturbanceMaxTokens && n <= kDisturbanceMaxTokens);
  return Divergence(AngleHistogram(reference_step, n_reference), AngleHistogram(step, n));
}

double MeanDisturbance(const PhaseTable& reference, int64_t n_reference, const PhaseTable& table,
                       int64_t n) {
  PHASOR_CHECK(reference.step_P.size() == table.step_P.size());
  double sum = 0;
  for (std::size_t j = 0; j < table.step_P.size(); ++j) {
    sum += AngleDisturbance(reference.step_P[j], n_reference, table.step_P[j], n);
  }
  return table.step_P.empty() ? 0 : sum / static_cast<double>(table.step_P.size());
}

const PositionMethodInfo kDpropeMethod = {
    "dprope", "per pair kept or interpolated, by the distribution of its angles",
    "Distributional RoPE, 2410.01490", kRopeFactor | kRopeOriginalContext, MakeDprope};

}  // namespace phasor
