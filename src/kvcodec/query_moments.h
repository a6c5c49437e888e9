// Second moments of the queries of one KV head, over all positions.
//
// A frame codec's page meets queries that have been turned by the position of the query, give or
// take its own frame (frame.h). What two channels of queries have in common at one position is
// therefore turned by their pairs' frequencies at another; the mean over positions 0 .. n is a
// closed form.
#pragma once

#include <cstdint>
#include <vector>

#include "contracts/kv_codec.h"

namespace phasor {

class QueryMoments {
 public:
  // params: head_dim, n_rot, pairing, omega_P (empty: nothing turns).
  explicit QueryMoments(const KvCodecParams& params);

  // A query after RoPE at this position [D].
  void Add(const float* q_D, int64_t position);
  int64_t n_added() const { return n_added_; }

  // E[q q^T], [D, D], for queries like those that were added, spread evenly over positions
  // 0 .. n_positions. 0 where none were added.
  std::vector<double> Average(double n_positions) const;

 private:
  int head_dim_;
  int64_t n_added_ = 0;
  std::vector<double> omega_D_;     // radians per token of a channel's pair; 0: does not turn
  std::vector<int16_t> partner_D_;  // the other channel of the pair
  std::vector<double> sign_D_;      // turning by a: cos(a) x[d] + sign sin(a) x[partner]
  std::vector<double> sum_DD_;      // at position 0; lower triangle
  std::vector<double> at_zero_D_;   // scratch
};

}  // namespace phasor
