#include "base/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>

namespace phasor {
namespace {

constexpr int kBarWidth = 24;
// Work that ends sooner than this never shows a bar.
constexpr double kSilentSeconds = 0.3;
constexpr double kRedrawSeconds = 0.1;

std::string TimeLeft(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02} h", s / 3600, s / 60 % 60);
}

}  // namespace

std::string ProgressBar::Line(const std::string& label, int64_t done, int64_t total,
                              const std::string& unit, double seconds) {
  const double share =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
  const int filled = static_cast<int>(share * kBarWidth);
  double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  std::string name = unit;
  if (unit == "B") {
    rate /= 1 << 20;
    name = "MiB";
  }
  return fmt::format("{} [{}{}] {:3.0f} %  {:.0f} {}/s  {} left", label, std::string(filled, '#'),
                     std::string(kBarWidth - filled, '.'), share * 100, rate, name, TimeLeft(left));
}

ProgressBar::ProgressBar(std::string label, int64_t total, std::string unit, bool force)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      active_(force || ::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Set(int64_t done) {
  if (!active_) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto now = Clock::now();
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  if (elapsed < kSilentSeconds) return;
  if (drawn_ && std::chrono::duration<double>(now - last_).count() < kRedrawSeconds) return;
  last_ = now;
  drawn_ = true;
  fmt::print(stderr, "\r\033[K{}", Line(label_, done, total_, unit_, elapsed));
  std::fflush(stderr);
}

}  // namespace phasor
