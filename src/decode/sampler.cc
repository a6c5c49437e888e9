#include "decode/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"

namespace phasor {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
// Logits per block of the first pass.
constexpr std::size_t kBlock = 64;

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

// exp(x) for x <= 0, relative error below 2e-7; written so that compilers vectorize loops of it.
float FastExp(float x) {
  constexpr float kLog2E = 1.44269504f, kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds
  float t = std::max(x * kLog2E, -126.0f);  // below that the result would be denormal
  float n = (t + kRound) - kRound, f = (t - n) * 0.693147181f;
  // Taylor to the sixth power; |f| <= ln(2) / 2 leaves a remainder of 1.2e-7.
  float p =
      1 +
      f * (1 + f * (0.5f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f * (1 / 720.0f))))));
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// Sum of exp(logit - max) over all logits. What is 87 or more below the best adds 1e-38.
double SumExp(std::span<const float> logits, float max) {
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); i += kBlock) {
    float block = 0;
    const std::size_t end = std::min(i + kBlock, logits.size());
    float terms[kBlock] = {};
    for (std::size_t j = i; j < end; ++j) {
      float x = logits[j] - max;
      terms[j - i] = FastExp(x > -87.0f ? (x < 0 ? x : 0.0f) : -87.0f);  // NaN: -87
    }
    for (float term : terms) block += term;
    sum += block;
  }
  return sum;
}

// The largest logit of each block of kBlock; NaN never counts.
std::vector<float> BlockMaxima(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16;
  std::vector<float> maxima;
  maxima.reserve(logits.size() / kBlock + 1);
  for (std::size_t i = 0; i < logits.size(); i += kBlock) {
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, kMinusInf);
    const std::size_t n = std::min(kBlock, logits.size() - i);
    std::size_t j = 0;
    for (; j + kLanes <= n; j += kLanes) {
      for (std::size_t k = 0; k < kLanes; ++k) {
        float x = logits[i + j + k];
        lanes[k] = x > lanes[k] ? x : lanes[k];
      }
    }
    for (; j < n; ++j) lanes[0] = logits[i + j] > lanes[0] ? logits[i + j] : lanes[0];
    maxima.push_back(Clean(*std::max_element(lanes, lanes + kLanes)));
  }
  return maxima;
}

// A value that at least k logits reach: the k-th largest block maximum. Spares looking closely at
// nearly all of the vocabulary.
float TopKBound(std::vector<float> maxima, std::size_t k) {
  if (k > maxima.size()) return kMinusInf;
  auto kth = maxima.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(maxima.begin(), kth, maxima.end(), std::greater<float>());
  return *kth;
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
void KeepTopP(double top_p, float max, bool sorted, std::vector<Candidate>* candidates) {
  auto weight = [&](const Candidate& c) { return std::exp(static_cast<double>(c.first) - max); };
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

// min-p (judged at temperature 1) and the draw: weights relative to the best token, whose is 1.
int32_t Draw(double min_p, double temperature, float max, const std::vector<Candidate>& candidates,
             Rng* rng) {
  double total = 0;
  auto weight = [&](const Candidate& c) {
    const double distance = static_cast<double>(c.first) - max;
    return std::exp(distance) >= min_p ? std::exp(distance / temperature) : 0.0;
  };
  for (const Candidate& c : candidates) total += weight(c);
  double left = rng->Uniform() * total;
  int32_t pick = -1;
  for (const Candidate& c : candidates) {
    double w = weight(c);
    if (w <= 0) continue;
    pick = c.second;  // also the last one that counts, should rounding leave something
    left -= w;
    if (left < 0) break;
  }
  return pick;
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
  const std::vector<float> maxima = BlockMaxima(logits);
  const auto best_block = std::max_element(maxima.begin(), maxima.end());
  const float max = best_block == maxima.end() ? kMinusInf : *best_block;
  int32_t best = -1;
  if (max != kMinusInf) {
    auto i = static_cast<std::size_t>(best_block - maxima.begin()) * kBlock;
    while (Clean(logits[i]) != max) ++i;
    best = static_cast<int32_t>(i);
  }
  if (best < 0) {
    return DataCorrupt("sampler: expected a finite logit, found none among " +
                       std::to_string(logits.size()));
  }
  int32_t pick = best;
  if (options_.temperature > 0) {
    const double temperature = options_.temperature;
    const bool top_k = options_.top_k > 0;
    const float bound =
        top_k ? TopKBound(maxima, static_cast<std::size_t>(options_.top_k)) : kMinusInf;
    candidates_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (i % kBlock == 0 && maxima[i / kBlock] < bound) {
        i += kBlock - 1;
        continue;
      }
      float logit = Clean(logits[i]);
      if (logit >= bound && logit != kMinusInf) {
        candidates_.emplace_back(logit, static_cast<int32_t>(i));
      }
    }
    if (top_k) KeepTopK(static_cast<std::size_t>(options_.top_k), &candidates_);
    if (options_.top_p < 1) KeepTopP(options_.top_p, max, top_k, &candidates_);
    pick = Draw(options_.min_p, temperature, max, candidates_, &rng_);
  }
  float picked = Clean(logits[static_cast<std::size_t>(pick)]);
  last_probability_ = static_cast<float>(std::exp(picked - max) / SumExp(logits, max));
  return pick;
}

}  // namespace phasor
