// Measurements behind `phasor reproduce` that are neither quality nor speed of cache types: each is
// named by a declaration ("experiment" in reproduce/<id>.json), which holds the claims.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "eval/claims.h"
#include "phasor/status.h"

namespace phasor::eval {

struct ExperimentInput {
  const LoadedModel* model = nullptr;  // null where the experiment needs none
  std::span<const int32_t> text;       // tokens of a text
  bool quick = false;                  // small sizes, to try the command
  const std::atomic<bool>* cancel = nullptr;
};

struct ResultTable {
  std::string title;
  std::vector<std::string> columns;            // the first one is text, the rest are numbers
  std::vector<std::vector<std::string>> rows;  // one cell per column
};

struct ExperimentReport {
  Measurements measured;
  std::vector<ResultTable> tables;
};

struct Experiment {
  const char* id;
  // 0: arithmetic, without a model. Else tokens of text that it reads at most.
  int64_t (*n_tokens)(bool quick);
  // kInvalidArgument for a text that is too short; kCancelled.
  Result<ExperimentReport> (*run)(const ExperimentInput& input);
};

extern const Experiment kAnchorExperiment;
extern const Experiment kUniEncoderExperiment;
extern const Experiment kGpeExperiment;
extern const Experiment kV2peExperiment;

// kNotFound lists the ids there are.
Result<const Experiment*> FindExperiment(const std::string& id);

// kCancelled once the flag is set.
Status CheckCancelled(const ExperimentInput& input);
// An empty session in f32 for n_ctx tokens.
Result<std::unique_ptr<Session>> PlainSession(const LoadedModel& model, int64_t n_ctx,
                                              const char* cache_type = "f32");
// The largest |a - b| over the largest |b|; infinity for NaN. a, b: equal sizes.
double RelativeDifference(std::span<const float> a, std::span<const float> b);

}  // namespace phasor::eval
