// Choosing the next token from logits: penalties, top-k, top-p, min-p, then temperature and a
// seeded draw, in llama.cpp's default order (so top-p and min-p look at the distribution at
// temperature 1). Temperature 0 is the arg max (lowest id among equals). Flags follow llama.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "phasor/status.h"

namespace phasor {

struct SamplerOptions {
  float temperature = 0.8f;     // 0: greedy
  int top_k = 40;               // 0: off
  float top_p = 0.95f;          // 1: off
  float min_p = 0.05f;          // 0: off
  float repeat_penalty = 1.0f;  // 1: off
  int repeat_last_n = 64;       // tokens the penalty looks back; -1: all
  uint64_t seed = 0;
};

// kInvalidArgument names the first option out of range.
Status ValidateSamplerOptions(const SamplerOptions& options);

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  // history: all tokens so far (prompt and answer), newest last. NaN logits count as minus
  // infinity; kDataCorrupt when no logit is finite.
  Result<int32_t> Next(std::span<const float> logits, std::span<const int32_t> history);
  // Probability of the last pick before truncation (softmax of the penalised logits at T=1).
  float last_probability() const { return last_probability_; }

 private:
  SamplerOptions options_;
  Rng rng_;
  float last_probability_ = 0;
  std::vector<float> scratch_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace phasor
