// Measurements behind `phasor reproduce` that are not the quality and speed of cache types.
//
// A declaration (eval/claims.h) names an experiment and may give it settings, a JSON object that
// the experiment alone understands. An experiment says what it needs by its settings, then runs:
//   needs(input)   settings are read, nothing is loaded; what is wrong with them is an error here
//   run(input)     measures; the figures that claims may name go into ExperimentReport::measured
// A new one is a source file here with an `extern const Experiment` below and a row in
// experiment.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/table.h"
#include "engine/engine.h"
#include "eval/claims.h"
#include "eval/fields.h"
#include "phasor/status.h"

namespace phasor::eval {

struct ExperimentInput {
  std::string settings = "{}";             // JSON object of the declaration
  std::string settings_name = "settings";  // "pie.json: settings", for messages
  bool quick = false;                      // small sizes and one round, to try the command
  int64_t max_tokens = 0;                  // of the text, where its length is a setting; 0: all
  // As needed; null, empty and "" otherwise.
  const LoadedModel* model = nullptr;
  std::string text_path;          // a text file; or sources, a file or a folder
  std::span<const int32_t> text;  // the first tokens of it
  // what: "evaluating", where a new word begins a new count; unit: "tokens".
  std::function<void(const char* what, const char* unit, int64_t done, int64_t total)> on_progress;
  const std::atomic<bool>* cancel = nullptr;
};

enum class ExperimentText { kNone, kText, kSources };

struct ExperimentNeeds {
  bool model = false;
  ExperimentText text = ExperimentText::kNone;
  int64_t n_tokens = 0;  // of ExperimentInput::text; 0: run reads text_path itself
};

struct ResultTable {
  // The first column is text, the rest are numbers.
  ResultTable(std::string title, const std::vector<std::string>& columns,
              const std::vector<std::vector<std::string>>& rows = {});
  ResultTable(std::string title, Table table);

  std::string title;
  Table table;
};

struct ExperimentReport {
  Measurements measured;
  std::vector<ResultTable> tables;
  std::string ran_on;  // "300 tokens of source"; empty where ExperimentNeeds::n_tokens says it
  nlohmann::ordered_json details = nlohmann::ordered_json::object();  // for scripts
};

struct Experiment {
  const char* id;
  // kDataCorrupt names the setting at fault.
  Result<ExperimentNeeds> (*needs)(const ExperimentInput& input);
  // kInvalidArgument for a text that is too short; kCancelled.
  Result<ExperimentReport> (*run)(const ExperimentInput& input);
};

extern const Experiment kAnchorExperiment;
extern const Experiment kUniEncoderExperiment;
extern const Experiment kGpeExperiment;
extern const Experiment kV2peExperiment;
extern const Experiment kApeExperiment;
extern const Experiment kPieExperiment;
extern const Experiment kSchedulesExperiment;

// kNotFound lists the ids there are.
Result<const Experiment*> FindExperiment(const std::string& id);

// The settings, for a reader of fields. kDataCorrupt: not a JSON object.
Result<nlohmann::json> ParseSettings(const ExperimentInput& input);
// The needs of an experiment without settings, on a model and so many tokens of text; 0: of none.
Result<ExperimentNeeds> NeedsWithoutSettings(const ExperimentInput& input, int64_t n_tokens);

// kCancelled once the flag is set.
Status CheckCancelled(const ExperimentInput& input);
// An empty session in f32 for n_ctx tokens.
Result<std::unique_ptr<Session>> PlainSession(const LoadedModel& model, int64_t n_ctx,
                                              const char* cache_type = "f32");
// The largest |a - b| over the largest |b|; infinity for NaN. a, b: equal sizes.
double RelativeDifference(std::span<const float> a, std::span<const float> b);

}  // namespace phasor::eval
