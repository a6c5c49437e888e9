// Child processes for tests of what must survive a crash or is shared between processes.
#pragma once

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>

#include "base/check.h"

namespace phasor::testing {

// Runs `body` in a fork of this process; its result is the exit status. No test framework there:
// the child reports by its status and on stderr.
inline pid_t StartChild(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  PHASOR_CHECK(pid >= 0);
  if (pid == 0) {
    const int rc = body();
    std::fflush(nullptr);
    ::_exit(rc);
  }
  return pid;
}

// The exit status, or minus the signal that ended it.
inline int WaitForChild(pid_t pid) {
  int status = 0;
  PHASOR_CHECK(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace phasor::testing
