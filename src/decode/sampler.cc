#include "decode/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace phasor {
namespace {

using Candidate = std::pair<float, int32_t>;

// Larger logit first; among equals the lower id, so that results do not depend on the sort.
bool Before(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

Status Bad(const char* name, const char* expected, double found) {
  return InvalidArgument(std::string(name) + ": expected " + expected + ", found " +
                         std::to_string(found));
}

}  // namespace

Status ValidateSamplerOptions(const SamplerOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) {
    return Bad("temp", "a number of at least 0", o.temperature);
  }
  if (o.top_k < 0) return Bad("top-k", "a number of at least 0", o.top_k);
  if (!(o.top_p > 0 && o.top_p <= 1)) return Bad("top-p", "a number in (0, 1]", o.top_p);
  if (!(o.min_p >= 0 && o.min_p <= 1)) return Bad("min-p", "a number in [0, 1]", o.min_p);
  if (!(o.repeat_penalty > 0) || !std::isfinite(o.repeat_penalty)) {
    return Bad("repeat-penalty", "a positive number", o.repeat_penalty);
  }
  if (o.repeat_last_n < -1) return Bad("repeat-last-n", "a number of at least -1", o.repeat_last_n);
  return Status::Ok();
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), rng_(options.seed) {}

Result<int32_t> Sampler::Next(std::span<const float> logits, std::span<const int32_t> history) {
  scratch_.assign(logits.begin(), logits.end());
  const auto vocab = static_cast<int32_t>(scratch_.size());
  for (float& x : scratch_) {
    if (std::isnan(x)) x = -INFINITY;
  }
  if (options_.repeat_penalty != 1.0f) {
    std::size_t n = history.size();
    if (options_.repeat_last_n >= 0) n = std::min<std::size_t>(n, options_.repeat_last_n);
    // Each token is penalised once, however often it occurs.
    std::vector<int32_t> seen(history.end() - static_cast<std::ptrdiff_t>(n), history.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t id : seen) {
      if (id < 0 || id >= vocab) continue;
      float& x = scratch_[id];
      x = x > 0 ? x / options_.repeat_penalty : x * options_.repeat_penalty;
    }
  }
  const auto best = std::max_element(scratch_.begin(), scratch_.end());
  if (best == scratch_.end() || !std::isfinite(*best)) {
    return DataCorrupt("sampler: expected at least one finite logit, found none");
  }
  const float max = *best;
  if (options_.temperature == 0) {
    double sum = 0;
    for (float x : scratch_) sum += std::exp(static_cast<double>(x) - max);
    last_probability_ = static_cast<float>(1 / sum);
    return static_cast<int32_t>(best - scratch_.begin());
  }
  candidates_.clear();
  for (int32_t i = 0; i < vocab; ++i) {
    if (scratch_[i] != -INFINITY) candidates_.emplace_back(scratch_[i], i);
  }
  if (options_.top_k > 0 && options_.top_k < static_cast<int>(candidates_.size())) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                     Before);
    candidates_.resize(options_.top_k);
  }
  std::sort(candidates_.begin(), candidates_.end(), Before);
  // Top-p and min-p are judged on the distribution at temperature 1, as in llama.cpp's chain.
  std::vector<double> p(candidates_.size());
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    total += p[i] = std::exp(static_cast<double>(candidates_[i].first) - max);
  }
  std::size_t keep = p.size();
  if (options_.top_p < 1) {
    double cumulative = 0;
    for (std::size_t i = 0; i < keep; ++i) {
      cumulative += p[i] / total;
      if (cumulative >= options_.top_p) {
        keep = i + 1;
        break;
      }
    }
  }
  if (options_.min_p > 0) {
    std::size_t n = 1;
    while (n < keep && p[n] >= options_.min_p * p[0]) ++n;
    keep = n;
  }
  double sum = 0;
  for (std::size_t i = 0; i < keep; ++i) {
    sum += p[i] =
        std::exp((static_cast<double>(candidates_[i].first) - max) / options_.temperature);
  }
  double draw = rng_.Uniform() * sum;
  std::size_t pick = 0;
  while (pick + 1 < keep && draw >= p[pick]) draw -= p[pick++];
  double all = 0;
  for (float x : scratch_) all += std::exp(static_cast<double>(x) - max);
  last_probability_ =
      static_cast<float>(std::exp(static_cast<double>(candidates_[pick].first) - max) / all);
  return candidates_[pick].second;
}

}  // namespace phasor
