// Second moments of the values of one KV head as attention weighs them.
//
// The error of an attention output is sum_t p_t e_t, its square on average sum_t p_t^2 |e_t|^2: a
// token counts by the sum of its squared weights over all queries. Few tokens have most of that,
// and their values look alike, so these moments have stronger directions than those of all values.
#pragma once

#include <cstdint>
#include <vector>

namespace phasor {

class AttendedValues {
 public:
  // The first n_sink tokens are attended to, but left out of the moments: the cache keeps them in
  // 16 bits, and so it does the newest of each query.
  AttendedValues(int head_dim, int group, int n_sink)
      : head_dim_(head_dim), group_(group), n_sink_(n_sink) {}

  // The next token: its queries [g, D] and key after RoPE, and its value.
  void Add(const float* q_GD, const float* k_D, const float* v_D);

  // [D, D]; a part of them weighs all tokens alike.
  std::vector<double> Moments() const;

 private:
  std::vector<double> Weights() const;

  int head_dim_, group_;
  int64_t n_sink_, n_tokens_ = 0;
  std::vector<float> keys_TD_, values_TD_;
  std::vector<float> queries_NGD_;  // of every kQueryStride-th token
};

}  // namespace phasor
