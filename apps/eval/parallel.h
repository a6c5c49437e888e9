// phasor eval parallel: the subcommand, for eval.cc.
#pragma once

namespace CLI {
class App;
}

namespace phasor::cli {

void AddParallelCommand(CLI::App& eval, int* exit_code);

}  // namespace phasor::cli
