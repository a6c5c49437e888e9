// PositionMethod: from the RoPE settings of a model to angles per position.
//
// Angles are kept in turns, as integers: a full circle is 2^64, so that position * step wraps
// exactly and the angle at position 1,000,000 is as good as at position 1. The attention factor
// (YaRN) is kept apart from the rotation.
//
// Keys are stored turned, and the cache keeps the phase table of every piece of text, so that a key
// is never read with another table than it was written with. Methods that depend on a length
// (dynamic_ntk, longrope) depend on the context a session was made for, not on how many tokens it
// holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "phasor/status.h"

namespace phasor {

// A position, as an integer number of 1/65536: fractional steps (V2PE, 2412.09616) and shifts of
// text stay exact, to positions of 2^47.
using PositionTicks = int64_t;
inline constexpr PositionTicks kTicksPerPosition = 65536;

// The turns * 2^64 of one pair at a position: exact modulo one turn at whole positions, within
// 2^-64 turns at fractions.
inline uint64_t TurnsAt(uint64_t step, PositionTicks position) {
  const bool negative = position < 0;
  const auto size =
      negative ? ~static_cast<uint64_t>(position) + 1 : static_cast<uint64_t>(position);
  const auto turns = static_cast<uint64_t>(static_cast<unsigned __int128>(step) * size >> 16);
  return negative ? ~turns + 1 : turns;
}

struct RopeParams {
  int n_rot = 0;                 // rotated dimensions of a head; n_rot/2 pairs
  double theta_base = 10000.0;   // omega_j = theta_base^(-2j/n_rot), radians per position
  std::string method = "rope";   // id of the position method
  double factor = 1.0;           // context extension factor s
  int64_t original_context = 0;  // trained context before extension, tokens (L)
  // Context to serve, tokens. dynamic_ntk takes its scale from it, longrope its choice of factors.
  // 0: the session's n_ctx, or original_context where there is no session.
  int64_t context = 0;
  // llama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  // yarn
  double beta_fast = 32.0, beta_slow = 1.0;
  double attention_factor = 0.0;  // yarn, longrope; 0: the method's default
  // giraffe_power: frequencies times (1 - j/P)^power_exponent; 0 leaves them.
  double power_exponent = 0.5;
  // giraffe_truncated: pairs that turn less than once in this many tokens are slowed to a constant
  // or stopped. -1: original_context.
  int64_t truncation_context = -1;
  // hope: pairs that turn less than once in this many tokens are not turned. -1: original_context;
  // 0 stops all pairs.
  int64_t cut_context = -1;
  // Per-pair divisors of the frequencies from the file (rope_freqs.weight); may be empty.
  std::vector<float> freq_factors;
  // longrope: per-pair divisors up to original_context and beyond it (rope_factors_short.weight,
  // rope_factors_long.weight); empty where the file has none.
  std::vector<float> short_factors, long_factors;
};

// Fields of RopeParams that some methods read and others do not; n_rot, theta_base and
// freq_factors are read by all.
enum RopeField : uint32_t {
  kRopeFactor = 1 << 0,
  kRopeOriginalContext = 1 << 1,
  kRopeContext = 1 << 2,
  kRopeLowHighFreqFactor = 1 << 3,
  kRopeBetas = 1 << 4,
  kRopeAttentionFactor = 1 << 5,
  kRopePowerExponent = 1 << 6,
  kRopeTruncationContext = 1 << 7,
  kRopeCutContext = 1 << 8,
  kRopeFactorLists = 1 << 9,
};

// What a method publishes; the cache and the codecs know nothing else about positions.
struct PhaseTable {
  std::vector<uint64_t> step_P;   // turns * 2^64 per position, one entry per pair
  float attention_factor = 1.0f;  // multiplies q and k after rotation (so scores by its square)

  bool operator==(const PhaseTable&) const = default;
};

struct PositionMethodInfo {
  const char* id;
  const char* summary;
  const char* source;
  uint32_t reads;  // RopeField bits
  Result<PhaseTable> (*make)(const RopeParams& params);
};

}  // namespace phasor
