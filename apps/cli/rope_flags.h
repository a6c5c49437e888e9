// The position schedule of a request: --rope-scaling and its relatives, named as in llama.cpp where
// it has them.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "cli/command.h"
#include "contracts/position_method.h"
#include "phasor/status.h"

namespace phasor::cli {

struct RopeFlags {
  std::string method;  // empty: the model's own
  std::optional<double> factor, theta_base, attention_factor, beta_fast, beta_slow;
  std::optional<double> low_freq_factor, high_freq_factor, power_exponent;
  std::optional<int64_t> original_context, context, truncation_context, cut_context;
  std::string factor_file;
};

void AddRopeFlags(CLI::App* command, RopeFlags* flags);

// The schedule the flags ask for, starting from the model's own; nullopt when none was given.
// A factor without a method makes plain rope linear, as in llama.cpp. A new method or factor drops
// an attention factor that the file gave for another one. kInvalidArgument for a flag that the
// method does not read.
Result<std::optional<RopeParams>> RopeOverride(const RopeFlags& flags, const RopeParams& own);

// LongRoPE's lists out of a JSON file that spells them as config.json does: short_factor and
// long_factor. Nothing else is changed.
Status ReadFactorFile(const std::string& path, RopeParams* rope);

// Session options of both groups of flags for a model.
Result<SessionOptions> ToSessionOptions(const CacheFlags& cache, const RopeFlags& rope,
                                        const ModelConfig& config);

// The schedule of a session, for messages and reports.
const RopeParams& RopeOf(const SessionOptions& options, const ModelConfig& config);
nlohmann::ordered_json RopeJson(const RopeParams& rope);
// What llama.cpp's users must know about --rope-scaling none; empty otherwise.
std::string RopeNotice(const RopeFlags& flags);

// The flags that set what a method reads: "--rope-scale, --yarn-orig-ctx".
std::string RopeFlagNames(uint32_t reads);

}  // namespace phasor::cli
