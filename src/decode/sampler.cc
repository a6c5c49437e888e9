#include "decode/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace phasor {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
// exp(-25) times a vocabulary of 2^18 is 4e-6: what is left out cannot be seen in a float.
constexpr float kNegligible = -25.0f;

using Candidate = std::pair<float, int32_t>;  // logit, id

// Higher logit first, lower id first among equals.
bool Better(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// NaN counts as minus infinity, plus infinity as the largest float, so that differences are safe.
float Clean(float logit) {
  if (std::isnan(logit)) return kMinusInf;
  return std::min(logit, std::numeric_limits<float>::max());
}

// Sum of exp(logit - max) over all logits, without the terms that do not matter.
double SumExp(std::span<const float> logits, float max) {
  double sum = 0;
  for (float raw : logits) {
    float difference = Clean(raw) - max;
    if (difference > kNegligible) sum += std::exp(difference);
  }
  return sum;
}

// Options are named as the flags that set them.
Status OutOfRangeOption(const char* name, const char* expected, double found) {
  return InvalidArgument(std::string("sampler: ") + name + ": expected " + expected + ", found " +
                         std::to_string(found));
}

// Divides positive and multiplies negative logits of every token in the window, once per token
// (the rule of Keskar et al. 2019 in llama.cpp's form).
void ApplyRepeatPenalty(const SamplerOptions& options, std::span<const int32_t> history,
                        std::vector<float>* logits) {
  std::size_t window = history.size();
  if (options.repeat_last_n >= 0) {
    window = std::min(window, static_cast<std::size_t>(options.repeat_last_n));
  }
  auto recent = history.subspan(history.size() - window);
  std::vector<int32_t> tokens(recent.begin(), recent.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  for (int32_t token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= logits->size()) continue;
    float& logit = (*logits)[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / options.repeat_penalty : logit * options.repeat_penalty;
  }
}

// Keeps the k best, sorted.
void KeepTopK(std::size_t k, std::vector<Candidate>* candidates) {
  if (k < candidates->size()) {
    auto end = candidates->begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(candidates->begin(), end, candidates->end(), Better);
    candidates->resize(k);
  }
  std::sort(candidates->begin(), candidates->end(), Better);
}

// Keeps the shortest best-first prefix whose probability reaches top_p (at least one token).
// `sorted`: candidates are in order; else only as much as needed is sorted.
void KeepTopP(double top_p, double temperature, float max, bool sorted,
              std::vector<Candidate>* candidates) {
  auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.first) - max) / temperature);
  };
  double total = 0;
  for (const Candidate& c : *candidates) total += weight(c);
  double needed = top_p * total, cumulative = 0;
  std::size_t ready = sorted ? candidates->size() : 0, kept = 0;
  while (kept < candidates->size()) {
    if (kept == ready) {
      ready = std::min(candidates->size(), std::max<std::size_t>(64, ready * 8));
      auto begin = candidates->begin() + static_cast<std::ptrdiff_t>(kept);
      auto end = candidates->begin() + static_cast<std::ptrdiff_t>(ready);
      if (end != candidates->end()) std::nth_element(begin, end, candidates->end(), Better);
      std::sort(begin, end, Better);
    }
    cumulative += weight((*candidates)[kept++]);
    if (cumulative >= needed) break;
  }
  candidates->resize(kept);
}

}  // namespace

Status ValidateSamplerOptions(const SamplerOptions& o) {
  if (!std::isfinite(o.temperature) || o.temperature < 0) {
    return OutOfRangeOption("temp", "a number of at least 0", o.temperature);
  }
  if (o.top_k < 0) return OutOfRangeOption("top-k", "at least 0", o.top_k);
  if (!(o.top_p > 0 && o.top_p <= 1))
    return OutOfRangeOption("top-p", "a number in (0, 1]", o.top_p);
  if (!(o.min_p >= 0 && o.min_p <= 1))
    return OutOfRangeOption("min-p", "a number in [0, 1]", o.min_p);
  if (!std::isfinite(o.repeat_penalty) || o.repeat_penalty <= 0) {
    return OutOfRangeOption("repeat-penalty", "a number above 0", o.repeat_penalty);
  }
  if (o.repeat_last_n < -1) {
    return OutOfRangeOption("repeat-last-n", "at least -1", o.repeat_last_n);
  }
  return Status::Ok();
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), rng_(options.seed) {
  PHASOR_CHECK(ValidateSamplerOptions(options).ok());
}

Result<int32_t> Sampler::Next(std::span<const float> logits, std::span<const int32_t> history) {
  if (options_.repeat_penalty != 1.0f && options_.repeat_last_n != 0 && !history.empty()) {
    scratch_.assign(logits.begin(), logits.end());
    ApplyRepeatPenalty(options_, history, &scratch_);
    logits = scratch_;
  }
  float max = kMinusInf;
  int32_t best = -1;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    float logit = Clean(logits[i]);
    if (logit > max) {
      max = logit;
      best = static_cast<int32_t>(i);
    }
  }
  if (best < 0) {
    return DataCorrupt("sampler: expected a finite logit, found none among " +
                       std::to_string(logits.size()));
  }
  int32_t pick = best;
  if (options_.temperature > 0) {
    const double temperature = options_.temperature;
    candidates_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i) {
      float logit = Clean(logits[i]);
      if (logit != kMinusInf) candidates_.emplace_back(logit, static_cast<int32_t>(i));
    }
    const bool top_k = options_.top_k > 0;
    if (top_k) KeepTopK(static_cast<std::size_t>(options_.top_k), &candidates_);
    if (options_.top_p < 1) KeepTopP(options_.top_p, temperature, max, top_k, &candidates_);

    // min-p and the draw: weights relative to the best token, whose weight is 1.
    double total = 0;
    auto weight = [&](const Candidate& c) {
      double w = std::exp((static_cast<double>(c.first) - max) / temperature);
      return w >= options_.min_p ? w : 0.0;
    };
    for (const Candidate& c : candidates_) total += weight(c);
    double left = rng_.Uniform() * total;
    for (const Candidate& c : candidates_) {
      double w = weight(c);
      if (w <= 0) continue;
      pick = c.second;  // also the last one that counts, should rounding leave something
      left -= w;
      if (left < 0) break;
    }
  }
  float picked = Clean(logits[static_cast<std::size_t>(pick)]);
  last_probability_ = static_cast<float>(std::exp(picked - max) / SumExp(logits, max));
  return pick;
}

}  // namespace phasor
