// The position methods of this folder; src/registry/position_table.cc lists them.
#pragma once

#include <cmath>

#include "contracts/position_method.h"

namespace phasor {

extern const PositionMethodInfo kRopeMethod;
extern const PositionMethodInfo kLinearMethod;
extern const PositionMethodInfo kLlama3Method;
extern const PositionMethodInfo kYarnMethod;
extern const PositionMethodInfo kNopeMethod;
extern const PositionMethodInfo kNtkMethod;
extern const PositionMethodInfo kDynamicNtkMethod;
extern const PositionMethodInfo kLongRopeMethod;
extern const PositionMethodInfo kGiraffePowerMethod;
extern const PositionMethodInfo kGiraffeTruncatedMethod;
extern const PositionMethodInfo kDpropeMethod;
extern const PositionMethodInfo kHopeMethod;

inline constexpr long double kTwoPi = 6.283185307179586476925286766559L;

// Radians per position to turns per position * 2^64, in long double (64-bit mantissa).
inline uint64_t TurnsFromRadians(long double omega) {
  long double turns = omega / kTwoPi;
  turns -= std::floor(turns);
  return static_cast<uint64_t>(turns * 18446744073709551616.0L);
}

// The table of frequencies omega_P, with attention factor 1.
PhaseTable TableOf(const std::vector<long double>& omega_P);

// omega_j = theta_base^(-2j/n_rot), divided by the file's factor where there is one.
// kInvalidArgument when n_rot, theta_base or the factors do not fit.
Result<std::vector<long double>> BaseFrequencies(const char* method, const RopeParams& params);

// Raises the frequency base as NTK-aware scaling does: omega_j times factor^(-j / (P - 1)).
void ScaleBase(long double factor, std::vector<long double>* omega_P);

// The checks that several methods share; kInvalidArgument says what was expected and found.
Status CheckFactor(const char* method, const RopeParams& params);           // positive, finite
Status CheckOriginalContext(const char* method, const RopeParams& params);  // at least 1

}  // namespace phasor
