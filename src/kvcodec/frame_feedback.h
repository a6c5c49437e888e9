// Error feedback of the frame codecs: which channels make up for the rounding of which others.
//
// The error of a score is q . e, its mean square e^T S e with S the second moments of the queries.
// Channels are rounded one after the other, the narrowest first, and each is shifted so that the
// sum of all errors so far costs least; that is what OBQ and GPTQ do with weights (Frantar et al.,
// 2023, arXiv 2210.17323). With S = U D U^T, U unit triangular, e^T S e = sum_c D_c u_c^2, where
// u_c is the rounding of channel c by itself; D_c, what is left of the mean square of a query's
// channel when those rounded after it are known, takes the place of S_cc. Codes and what reads
// them stay the same.
//
// A page is never told its positions, so S is averaged over them (query_moments.h). Pairs that turn
// within the context have nothing in common then and get no feedback; those that hardly turn,
// a third of the channels at a base of 100,000, do.
#pragma once

#include <span>
#include <vector>

#include "kvcodec/frame.h"

namespace phasor {

// Share of what channels have in common that is not trusted: it was estimated on one text.
inline constexpr double kMomentDoubt = 0.05;

// Sets layout->feedback_S and layout->feedback for the layout's slots. moments_DD: [D, D], empty
// for none. Moments that are no moments (not positive definite, not finite) give no feedback.
void AddFrameFeedback(std::span<const float> moments_DD, FrameLayout* layout);

// What an error of each channel costs with feedback, D_c above [D], when the channel that costs
// most is rounded last, and so on: error_D is the mean squared error of a channel by itself, which
// decides about that order. Moments as above give the diagonal.
std::vector<double> FeedbackWeights(std::span<const double> moments_DD,
                                    std::span<const double> error_D);

}  // namespace phasor
