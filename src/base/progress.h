// A progress bar for long work: percent, rate and time left on a terminal, silence elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace phasor {

class ProgressBar {
 public:
  // Draws on stderr when that is a terminal, or when force is set. `unit` is printed after the rate
  // ("tokens"; "B" is scaled to MiB). total > 0.
  ProgressBar(std::string label, int64_t total, std::string unit, bool force = false);
  // Wipes its line, so that what follows starts clean.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Thread-safe; redraws at most ten times per second. `done` may only grow.
  void Set(int64_t done);
  // The line for a state, without control characters; for tests.
  static std::string Line(const std::string& label, int64_t done, int64_t total,
                          const std::string& unit, double seconds);

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_, unit_;
  int64_t total_;
  bool active_, drawn_ = false;
  Clock::time_point start_, last_;
  std::mutex mutex_;
};

}  // namespace phasor
