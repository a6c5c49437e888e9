// Checks for programmer errors. Input errors use Status (phasor/status.h) instead.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace phasor {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* expr) {
  std::fprintf(stderr, "phasor: internal error at %s:%d: check failed: %s\n", file, line, expr);
  std::abort();
}

}  // namespace phasor

#define PHASOR_CHECK(expr)                                         \
  do {                                                             \
    if (!(expr)) ::phasor::CheckFailed(__FILE__, __LINE__, #expr); \
  } while (0)

// Hot loops: only in builds without NDEBUG.
#ifdef NDEBUG
#define PHASOR_DCHECK(expr) \
  do {                      \
  } while (0)
#else
#define PHASOR_DCHECK(expr) PHASOR_CHECK(expr)
#endif
