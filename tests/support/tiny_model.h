// The tiny golden models in float, sessions on them and random texts: for tests of the engine that
// compare two ways of reading.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "tests/golden/golden_support.h"

namespace phasor::testing {

// Two float programs that sum in different orders, relative to the largest logit: the golden
// tests' 4e-5 of logits near 10.
inline constexpr double kRelativeTolerance = 1e-5;
// Sums of some ten log-probabilities, each off by the rounding of its logits (1e-5 and less).
inline constexpr double kLikelihoodTolerance = 1e-4;

inline constexpr const char* kModels[] = {"llama_gqa_tied.gguf", "llama_partial", "qwen2.gguf"};

inline std::unique_ptr<LoadedModel> Load(const std::string& name) {
  LoadOptions options;
  options.path = GoldenPath("models/" + name);
  options.precision = MatMulPrecision::kF32;
  options.n_threads = 2;
  options.use_calibration = false;
  auto model = LoadedModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

inline std::unique_ptr<Session> NewSession(const LoadedModel& model, int n_batch = 512,
                                           const char* type = "f32") {
  SessionOptions options;
  options.n_ctx = 512;
  options.type_k = options.type_v = type;
  options.n_batch = n_batch;
  options.n_recent = 16;  // so that longer texts have pages, too
  auto session = Session::Create(model, options);
  EXPECT_TRUE(session.ok()) << session.status().message();
  return std::move(session).value();
}

inline std::vector<int32_t> RandomTokens(const LoadedModel& model, int n, Rng& rng) {
  std::vector<int32_t> tokens(static_cast<std::size_t>(n));
  for (int32_t& id : tokens) id = static_cast<int32_t>(rng.Below(model.config().n_vocab));
  return tokens;
}

inline double Largest(std::span<const float> x) {
  double largest = 0;
  for (float v : x) largest = std::max(largest, std::abs(static_cast<double>(v)));
  return largest;
}

inline std::span<const float> Row(const std::vector<float>& logits, int64_t t, int n_vocab) {
  return std::span(logits).subspan(static_cast<std::size_t>(t) * n_vocab, n_vocab);
}

// Reads one token and returns its logits.
inline std::vector<float> Probe(Session& session, int32_t token) {
  const int32_t one[] = {token};
  EXPECT_TRUE(session.Append(one, {}).ok());
  return {session.logits().begin(), session.logits().end()};
}

}  // namespace phasor::testing
