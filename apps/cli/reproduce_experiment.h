// phasor reproduce for papers whose claims are measured by an experiment
// (eval/experiments/experiment.h).
#pragma once

#include <cstdint>
#include <string>

#include "cli/command.h"
#include "eval/claims.h"

namespace phasor::cli {

struct ExperimentFlags {
  ModelFlags model;
  std::string text;  // file or folder; empty: Emma, from `make texts`, or this program's sources
  int64_t max_tokens = 0;  // of the text; 0: as many as the settings say
  bool quick = false;
  std::string output = "plain";  // or md, json
};

// Measures, judges and prints.
Status ReproduceExperiment(const eval::Declaration& d, const ExperimentFlags& flags);

}  // namespace phasor::cli
