// phasor eval schedules: the subcommand, for eval.cc.
#pragma once

namespace CLI {
class App;
}

namespace phasor::cli {

void AddSchedulesCommand(CLI::App& eval, int* exit_code);

}  // namespace phasor::cli
