#include "base/cancel.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

namespace phasor {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<int> g_count{0};
std::atomic<int64_t> g_last_ms{0};

int64_t NowMs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);  // async-signal-safe
  return static_cast<int64_t>(t.tv_sec) * 1000 + t.tv_nsec / 1000000;
}

void OnInterrupt(int) {
  const int64_t now = NowMs();
  if (g_interrupted.load() && now - g_last_ms.load() < 2000) _exit(130);
  g_last_ms.store(now);
  g_interrupted.store(true);
  g_count.fetch_add(1);
}

}  // namespace

void InterruptFlag::Install() {
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  // Writes go on where they were, or a piece of the answer would be lost. Who waits for input and
  // wants to hear of Ctrl-C waits in poll(), which is interrupted all the same.
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

std::atomic<bool>& InterruptFlag::flag() { return g_interrupted; }

int InterruptFlag::count() { return g_count.load(); }

void InterruptFlag::Reset() { g_interrupted.store(false); }

}  // namespace phasor
