// Log-likelihoods of several candidates after one context, which is read once: the causal form of
// Uni-Encoder (2106.01263). Every candidate is a branch (a fork) of the context's cache and starts
// at the same position; all branches go through the model together.
//
// Scores equal those of separate passes up to the order of float sums: 1e-4 and less with a cache
// in f32. A 16-bit cache turns such differences into roundings of keys and values, about 1e-3.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace phasor {

struct RankOptions {
  bool per_token = false;  // order by log-likelihood per token instead of the sum
  const std::atomic<bool>* cancel = nullptr;
};

struct CandidateScore {
  int64_t n_tokens = 0;
  double log_likelihood = 0;  // sum of ln p(token | context and tokens before it)

  double per_token() const { return log_likelihood / static_cast<double>(n_tokens); }
};

struct Ranking {
  std::vector<CandidateScore> scores;  // in the order of the candidates
  std::vector<int> order;              // their indices, best first; equal ones by index
  int64_t n_read = 0;                  // tokens that went through the model
  double milliseconds = 0;             // the context's reading included
};

// Reads `context` (may be empty when the session holds text) and ranks `candidates` behind it. The
// session holds the context afterwards, nothing of the candidates, and can be asked again. A
// candidate's last token is scored, not read. kInvalidArgument without candidates or for empty
// ones.
Result<Ranking> RankCandidates(std::span<const int32_t> context,
                               std::span<const std::vector<int32_t>> candidates,
                               const RankOptions& options, Session* session);

// The same, each candidate by itself on a context of its own: what the one pass is compared with.
// The session is left as it was.
Result<Ranking> RankSeparately(std::span<const int32_t> context,
                               std::span<const std::vector<int32_t>> candidates,
                               const RankOptions& options, const Session& session);

// How much less n candidates of r tokens after a context of c tokens cost in one pass, counted in
// tokens read: (c + r) n / (c + n r).
inline double RankSpeedUp(double c, double r, double n) { return (c + r) * n / (c + n * r); }

}  // namespace phasor
