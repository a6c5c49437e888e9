// Ctrl-C as a flag that long work looks at, so that it stops the work and not the program.
#pragma once

#include <atomic>

namespace phasor {

class InterruptFlag {
 public:
  // Catches SIGINT from now on. A second Ctrl-C within two seconds, while the flag is still set,
  // ends the process with code 130. Reads and writes go on after it; poll() is interrupted.
  static void Install();
  static std::atomic<bool>& flag();
  static void Reset();
  // How many times Ctrl-C was pressed so far; never reset.
  static int count();
};

}  // namespace phasor
