// A CPU level for the length of a test.
#pragma once

#include <gtest/gtest.h>

#include "simd/cpu.h"

namespace phasor {

class LevelGuard {
 public:
  explicit LevelGuard(CpuLevel level) : before_(ActiveCpuLevel()) {
    EXPECT_TRUE(SetCpuLevel(level).ok());
  }
  ~LevelGuard() { EXPECT_TRUE(SetCpuLevel(before_).ok()); }

 private:
  CpuLevel before_;
};

}  // namespace phasor
