// phasor eval edit: the subcommand, for eval.cc.
#pragma once

namespace CLI {
class App;
}

namespace phasor::cli {

void AddEvalEditCommand(CLI::App& eval, int* exit_code);

}  // namespace phasor::cli
