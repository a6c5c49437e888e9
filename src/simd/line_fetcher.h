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

// Whether requests go into the first-level cache; see LineFetcher.
extern const bool kFetchIntoFirstLevel;

// Brings `next` into the caches evenly over the steps of a kernel. A core keeps few requests open:
// who asks for more in a short time waits, and who asks too late as well. So requests are less than
// a line apart rather than some steps without one: asking again for a line that is under way costs
// little, a branch that is taken now and then much (docs/log.md, "Why does streaming take longer").
//
// Requests go into the first-level cache where it holds 48 KiB and more: there that is faster by a
// tenth to a quarter (Zen 5); with 32 KiB, and asked for in bursts, it took twice the time (Zen 4),
// so there they go into the second. So they do on Intel's CPUs: on an Emerald Rapids, with 48 KiB,
// the second level takes a fifth less time.
class LineFetcher {
 public:
  LineFetcher() = default;
  // n_steps: of one request or more, as many as `next` needs (at least one step is assumed).
  LineFetcher(Upcoming next, int n_steps) {
    if (next.n_bytes == 0) return;
    at_ = next.at;
    end_ = next.at + next.n_bytes;
    // 32 bits: this is done for every page, and a division of 64 takes twice as long.
    const auto bytes = static_cast<uint32_t>(next.n_bytes);
    const uint32_t steps = n_steps > 0 ? static_cast<uint32_t>(n_steps) : 1;
    n_requests_ = (bytes + 64 * steps - 1) / (64 * steps);
    stride_ = (bytes + n_requests_ * steps - 1) / (n_requests_ * steps);
  }

  void Step() { Request(n_requests_); }

  // For kernels with so many steps that one request in each is enough: n steps at once.
  void Steps(int n) { Request(static_cast<uint32_t>(n)); }
  // The same without a loop: g++ 12 keeps the sums of a kernel in memory beside one.
  template <int kSteps>
  void Steps() {
    if constexpr (kSteps > 0) {
      if (into_l1_) {
        Unrolled<kSteps, 3>();
      } else {
        Unrolled<kSteps, 2>();
      }
    }
  }
  // What they have left, where each step should have made more than one.
  void Finish() {
    for (; at_ < end_; at_ += 64) Prefetch();
  }

  // Where the next request goes.
  const std::byte* at() const { return at_; }

 private:
  void Prefetch() const {
    if (into_l1_) {
      __builtin_prefetch(at_, 0, 3);
    } else {
      __builtin_prefetch(at_, 0, 2);
    }
  }
  void Request(uint32_t n) {
    for (; n > 0; --n, at_ += stride_) Prefetch();
  }
  template <int kSteps, int kLocality>
  void Unrolled() {
    if constexpr (kSteps > 0) {
      __builtin_prefetch(at_, 0, kLocality);
      at_ += stride_;
      Unrolled<kSteps - 1, kLocality>();
    }
  }

  // Without anything to fetch, requests go to a line that is there.
  alignas(64) static constexpr std::byte kNothing[64] = {};
  const std::byte* at_ = kNothing;
  const std::byte* end_ = kNothing;
  std::ptrdiff_t stride_ = 0;
  uint32_t n_requests_ = 0;
  bool into_l1_ = kFetchIntoFirstLevel;
};

}  // namespace phasor
