// What every subcommand shares: flags for the model and the cache, loading, and error output.
//
// A command is a function that adds itself to the program: Add...Command(app, &exit_code). Results
// go to stdout, messages to stderr. Exit codes: 0 good, 1 run failure, 2 usage.
#pragma once

#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::cli {

struct ModelFlags {
  std::string model;  // empty: the default model
  int threads = 0;
  std::string precision = "int8";  // or "f32"
  std::string cpu_level = "auto";
  std::string calibration;
  bool no_calibration = false;
};

struct CacheFlags {
  int64_t ctx = 0;
  std::string type_k = SessionOptions().type_k;
  std::string type_v = SessionOptions().type_v;
  int sink = SessionOptions().n_sink;
  int recent = SessionOptions().n_recent;
  int batch = SessionOptions().n_batch;
};

// positional_name: also accept the model as the first positional argument.
void AddModelFlags(CLI::App* command, ModelFlags* flags, bool positional = true);
void AddCacheFlags(CLI::App* command, CacheFlags* flags);

// The model file named by the flags, or the default model in the user's cache folder.
Result<std::string> ModelPath(const ModelFlags& flags);
// Loads with a progress bar on a terminal. Says on stderr when `polar` will run without
// calibration.
Result<std::unique_ptr<LoadedModel>> LoadModel(const ModelFlags& flags);
SessionOptions ToSessionOptions(const CacheFlags& flags);
// The line that tells when type_k asks for a calibration that is not there; empty otherwise.
std::string CalibrationNotice(const LoadedModel& model, const std::string& type_k);

// Checks of flag values with messages that tell what was expected and what was found.
CLI::Validator Integer(int64_t low, int64_t high = INT64_MAX);
CLI::Validator Number(double low = -HUGE_VAL, double high = HUGE_VAL);
CLI::Validator OneOf(std::vector<std::string> words);

// Control characters as \n and \x1b: a name out of a file must not move the cursor or break a line.
std::string OneLine(const std::string& text);
// "phasor: error: <message>" to stderr; returns 1.
int Fail(const Status& status);
// The same for flags that do not go together; returns 2.
int UsageError(const std::string& message);
// 98362432 -> "93.8 MiB".
std::string HumanBytes(double bytes);
// The best CPU name the system tells, for tables.
std::string CpuName();

void AddRunCommand(CLI::App& app, int* exit_code);
void AddChunksCommand(CLI::App& app, int* exit_code);
void AddInspectCommand(CLI::App& app, int* exit_code);
void AddTokenizeCommand(CLI::App& app, int* exit_code);
void AddMethodsCommand(CLI::App& app, int* exit_code);
void AddCalibrateCommand(CLI::App& app, int* exit_code);
void AddEvalCommand(CLI::App& app, int* exit_code);
void AddBenchCommand(CLI::App& app, int* exit_code);
void AddReproduceCommand(CLI::App& app, int* exit_code);
void AddEditSessionCommand(CLI::App& app, int* exit_code);
void AddRankCommand(CLI::App& app, int* exit_code);
void AddSynthCommand(CLI::App& app, int* exit_code);

}  // namespace phasor::cli
