// Spreads requests for memory that is needed soon over the steps of a kernel.
#pragma once

#include <cstddef>
#include <cstdint>

namespace phasor {

// Memory that is needed next. Kernels that know how ask for its lines a few at a time between their
// own steps: more requests at once than a core keeps open hold up everything behind them.
struct Upcoming {
  const std::byte* at = nullptr;
  std::size_t n_bytes = 0;
};

// Brings `next` into the second-level cache in about n_steps steps (at least one is assumed).
class LineFetcher {
 public:
  LineFetcher() = default;
  LineFetcher(Upcoming next, int n_steps)
      : at_(next.at),
        end_(next.at + next.n_bytes),
        step_(LinesPerStep(next.n_bytes, n_steps) * 64) {}

  void Step() {
    const std::byte* stop = end_ - at_ < step_ ? end_ : at_ + step_;
    for (; at_ < stop; at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

 private:
  static std::ptrdiff_t LinesPerStep(std::size_t n_bytes, int n_steps) {
    // 32 bits: this is done for every page, and a division of 64 takes twice as long.
    const auto lines = static_cast<uint32_t>((n_bytes + 63) / 64);
    const uint32_t steps = n_steps > 0 ? static_cast<uint32_t>(n_steps) : 1;
    return static_cast<std::ptrdiff_t>((lines + steps - 1) / steps);
  }

  const std::byte* at_ = nullptr;
  const std::byte* end_ = nullptr;
  std::ptrdiff_t step_ = 0;
};

}  // namespace phasor
