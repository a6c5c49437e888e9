#include "simd/cpu.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace phasor {
namespace {

// Sets PHASOR_CPU_LEVEL for a test and puts everything back.
class Environment {
 public:
  explicit Environment(const char* value) : before_(ActiveCpuLevel()) {
    if (const char* old = std::getenv("PHASOR_CPU_LEVEL")) old_ = old;
    ::setenv("PHASOR_CPU_LEVEL", value, 1);
  }
  ~Environment() {
    ::setenv("PHASOR_CPU_LEVEL", old_.c_str(), 1);
    EXPECT_TRUE(SetCpuLevel(before_).ok());
  }

 private:
  CpuLevel before_;
  std::string old_;
};

TEST(CpuLevel, AutomaticFollowsTheEnvironment) {
  const Environment environment("scalar");
  ASSERT_TRUE(SetCpuLevel(DetectedCpuLevel()).ok());
  ASSERT_TRUE(SetCpuLevel("auto").ok());
  EXPECT_EQ(ActiveCpuLevel(), CpuLevel::kScalar);
}

TEST(CpuLevel, AFlagBeatsTheEnvironment) {
  const Environment environment("scalar");
  ASSERT_TRUE(SetCpuLevel(CpuLevelName(DetectedCpuLevel())).ok());
  EXPECT_EQ(ActiveCpuLevel(), DetectedCpuLevel());
}

TEST(CpuLevel, AnEmptyEnvironmentMeansTheDetectedLevel) {
  const Environment environment("");
  ASSERT_TRUE(SetCpuLevel(CpuLevel::kScalar).ok());
  ASSERT_TRUE(SetCpuLevel("auto").ok());
  EXPECT_EQ(ActiveCpuLevel(), DetectedCpuLevel());
}

TEST(CpuLevel, UnknownNamesAreErrorsAndChangeNothing) {
  const CpuLevel before = ActiveCpuLevel();
  {
    const Environment environment("avx1024");
    const Status s = SetCpuLevel("auto");
    ASSERT_FALSE(s.ok());
    EXPECT_NE(s.message().find("PHASOR_CPU_LEVEL: expected"), std::string::npos) << s.message();
  }
  EXPECT_FALSE(SetCpuLevel("sse").ok());
  EXPECT_EQ(ActiveCpuLevel(), before);
}

TEST(CpuLevel, AmxIsOnWhereItIsUnlessSwitchedOff) {
  if (std::getenv("PHASOR_AMX") == nullptr) {
    EXPECT_EQ(AmxEnabled(), HasAmx());
  }
  EXPECT_TRUE(EnableAmx(false).ok());
  EXPECT_FALSE(AmxEnabled());
  EXPECT_EQ(ActiveKernels(), CpuLevelName(ActiveCpuLevel()));
  EXPECT_EQ(EnableAmx(true).ok(), HasAmx());
  EXPECT_EQ(AmxEnabled(), HasAmx());
  if (HasAmx() && ActiveCpuLevel() == CpuLevel::kAvx512) {
    EXPECT_EQ(ActiveKernels(), "avx512+amx");
  }
}

}  // namespace
}  // namespace phasor
