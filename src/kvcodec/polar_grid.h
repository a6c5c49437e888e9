// The scalar building blocks of the polar codecs: pairs, angles, grids.
//
// A pair (x, y) of dimensions has radius r = sqrt(x^2 + y^2) and angle phi = atan2(y, x), counted
// in turns in [0, 1). Over the tokens of a page a pair gets one grid of 2^r_bits by 2^a_bits cells
// that spans the smallest ring segment holding them. Codes are floors, reconstruction is the middle
// of the cell (PolarQuant, arXiv 2502.00527, section 4).
//
// The grid itself is stored in 64 bits per pair, and the codes are computed from the *stored* grid,
// so rounding it can never push a code out of range:
//   phi_min    u16, turns / 65536, rounded down
//   phi_range  u16, turns / 65536, rounded up; step = range / 2^a_bits. 65535 also stands for a
//   full
//              turn; 0 means that every angle is phi_min
//   r_min      f16, rounded down; r_step f16, rounded up; 0 means that every radius is r_min
// An integer range in turns instead of an f16 step keeps the far end of a wide arc exact.
#pragma once

#include <cstdint>
#include <vector>

#include "contracts/kv_codec.h"

namespace phasor {

inline constexpr int kMaxPolarHeadDim = 1024;
inline constexpr float kPolarInfinity = 65504.0f;  // what an infinity counts as: the largest f16

// Angles while encoding: integers of 2^-24 turns, so that differences wrap exactly.
inline constexpr int kPhaseBits = 24;
inline constexpr int32_t kPhaseMask = (1 << kPhaseBits) - 1;

// Width of a pair.
struct PolarWidth {
  uint8_t r_bits;
  uint8_t a_bits;
  constexpr int total() const { return r_bits + a_bits; }
};

enum class CircleCut : uint8_t {
  kLargestGap,  // the arc starts behind the largest empty arc
  kAtZero,      // as published: angles are numbers in [0, 1), arcs over 0 become a full circle
};

// The two dimensions of a pair; y < 0: a single dimension is left over (odd tail), its y is 0.
struct PairDims {
  int16_t x;
  int16_t y;
};

// Pairs of a head: first the n_rot/2 pairs RoPE turns, then the dimensions RoPE leaves alone as
// pairs (n_rot + j, n_rot + j + tail/2), where nothing prefers one pairing over another.
std::vector<PairDims> PolarPairs(int head_dim, int n_rot, RopePairing pairing);

struct PolarGrid {
  uint16_t phi_min = 0;
  uint16_t phi_range = 0;
  uint16_t r_min = 0;   // f16
  uint16_t r_step = 0;  // f16

  float PhiStart() const { return static_cast<float>(phi_min) * 0x1p-16f; }
  // Turns per angle cell.
  float PhiStep(PolarWidth width) const {
    return static_cast<float>(phi_range) * (0x1p-16f / static_cast<float>(1 << width.a_bits));
  }
};

// NaN -> 0, values beyond +-65504 -> +-65504.
float SanitizeElement(float x);

// Angle of (x, y) in turns, [0, 1); 0 for the zero vector. Error below 1e-6 turns.
float Atan2Turns(float y, float x);
// sin and cos of an angle in turns, |turns| <= 1000. Error below 1e-6.
void SinCosTurns(float turns, float* sine, float* cosine);
// Coefficients of the two, shared with the vector kernels.
// atan(z) / (2 pi) = z * (c0 + c1 z^2 + ...) on [0, 1]; Lawson fit, error 4e-8 before rounding.
inline constexpr float kAtanTurns[7] = {
    0.15915432572364807f,  -0.0530262365937233f,   0.03152511641383171f,  -0.02106151543557644f,
    0.012672496028244495f, -0.005348273552954197f, 0.0010841290932148695f};
// sin(2 pi x) = x * (c0 + c1 x^2 + ...), cos(2 pi x) = c0 + c1 x^2 + ... on |x| <= 1/8; error 1e-9.
inline constexpr float kSinTurns[4] = {6.283185005187988f, -41.34162902832031f, 81.58812713623047f,
                                       -75.24005889892578f};
inline constexpr float kCosTurns[5] = {1.0f, -19.739208221435547f, 64.93931579589844f,
                                       -85.44285583496094f, 59.220420837402344f};

// Integer phase and radius of n tokens. A zero vector has no angle: it takes the angle of the first
// token that has one, so that it does not stretch the arc.
void ToPolar(const float* x_T, const float* y_T, int n, int32_t* phase_T, float* r_T);

// Start of the arc behind the largest empty arc: the first occupied of 256 bins after the longest
// run of empty ones, as a phase. `bins`: occupancy, 256 bits. The arc is at most 1/256 turn longer
// than the best one.
int32_t CutBehindLargestGap(const uint64_t bins[4]);

// The grid around phases that lie in [low, low + arc] (mod one turn) and radii in [r_low, r_high].
PolarGrid MakeGrid(int32_t low, int32_t arc, float r_low, float r_high, PolarWidth width);
// The grid of n >= 1 tokens.
PolarGrid FitGrid(const int32_t* phase_T, const float* r_T, int n, PolarWidth width, CircleCut cut);

// Code = (radius code << a_bits) | angle code.
uint16_t PolarCode(const PolarGrid& grid, PolarWidth width, int32_t phase, float r);
// Middle of the cell, in double: the meaning of a code.
void PolarCellCenter(const PolarGrid& grid, PolarWidth width, uint16_t code, double* turns,
                     double* r);

}  // namespace phasor
