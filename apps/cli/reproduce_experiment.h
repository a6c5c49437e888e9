// phasor reproduce for papers whose claims are measured by an experiment (eval/experiment.h).
#pragma once

#include <string>

#include "cli/command.h"
#include "eval/claims.h"

namespace phasor::cli {

struct ExperimentFlags {
  ModelFlags model;
  std::string text_file;  // empty: Emma, from `make texts`
  bool quick = false;
  std::string output = "plain";  // or md, json
};

// Measures, judges and prints.
Status ReproduceExperiment(const eval::Declaration& d, ExperimentFlags flags);

}  // namespace phasor::cli
