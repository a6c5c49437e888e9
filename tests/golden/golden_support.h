// What the golden logits tests share: reading files, distances between logits, running a session.
// Inside namespace phasor write ::testing::X for GoogleTest's names.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace phasor::testing {

inline std::string GoldenPath(const std::string& name) {
  return std::string(PHASOR_SOURCE_DIR) + "/tests/golden/" + name;
}

// The whole file; a failure of the running test and "" when it cannot be read.
inline std::string ReadGoldenFile(const std::string& name) {
  std::ifstream in(GoldenPath(name), std::ios::binary);
  if (!in) ADD_FAILURE() << "cannot open " << GoldenPath(name);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline nlohmann::json ReadGoldenJson(const std::string& name) {
  return nlohmann::json::parse(ReadGoldenFile(name), nullptr, /*allow_exceptions=*/false);
}

inline int64_t ArgMax(std::span<const float> x) {
  return std::max_element(x.begin(), x.end()) - x.begin();
}

// log(sum(exp(x))) in double.
inline double LogSumExp(std::span<const float> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (float v : x) sum += std::exp(v - top);
  return top + std::log(sum);
}

// Largest |a - b|; infinity when a value is NaN or the sizes differ, so that no bound accepts it.
inline double MaxAbsDifference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
  }
  return worst;
}

// KL(softmax(p) || softmax(q)) in nats.
inline double KlDivergence(std::span<const float> p, std::span<const float> q) {
  const double lse_p = LogSumExp(p), lse_q = LogSumExp(q);
  double kl = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    kl += std::exp(p[i] - lse_p) * ((p[i] - lse_p) - (q[i] - lse_q));
  }
  return kl;
}

// Feeds `tokens` in pieces of `chunk` and returns all logits [n_tokens, n_vocab]; empty after a
// failure, which is reported to the running test.
inline std::vector<float> CollectLogits(Session& session, std::span<const int32_t> tokens,
                                        std::size_t chunk) {
  const std::size_t n_vocab = session.model().config().n_vocab;
  std::vector<float> all(tokens.size() * n_vocab, NAN);
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    AppendOptions options;
    options.on_logits = [&](int64_t index, std::span<const float> logits) {
      ASSERT_EQ(logits.size(), n_vocab);
      std::copy(logits.begin(), logits.end(), all.begin() + (at + index) * n_vocab);
    };
    const std::size_t n = std::min(chunk, tokens.size() - at);
    const Status status = session.Append(tokens.subspan(at, n), options);
    if (!status.ok()) {
      ADD_FAILURE() << status.message();
      return {};
    }
  }
  return all;
}

}  // namespace phasor::testing
