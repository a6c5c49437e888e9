// Element-wise and row-wise float operations. Each has a plain double reference in
// vector_ops_reference.h against which every CPU level is tested.
#pragma once

#include <cstdint>
#include <span>

#include "contracts/kv_codec.h"         // RopePairing
#include "contracts/position_method.h"  // PhaseTable

namespace phasor {

// y = x / sqrt(mean(x^2) + eps) * weight, over n elements. y may alias x.
void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* y);

// y = silu(gate) * up, element-wise. y may alias either.
void SwiGlu(const float* gate, const float* up, int64_t n, float* y);

// x = exp(x - max) / sum, in place.
void Softmax(float* x, int64_t n);

// The two halves of it, for rows that come in pieces: the largest of x and start; and
// x = exp(x - max) in place for max at least the largest, returning the sum of the terms.
float MaxOf(const float* x, int64_t n, float start);
float ExpSum(float* x, int64_t n, float max);
// The same over several rows, faster than one after the other.
struct FloatRow {
  float* x;
  int64_t n;
};
float MaxOf(std::span<const FloatRow> rows, float start);
float ExpSum(std::span<const FloatRow> rows, float max);

// One step of an online softmax over n scores, in place: x = exp(x - *max) after *max was raised to
// cover x; returns the factor exp(old max - new max) for earlier sums; adds the new terms to *sum.
float OnlineSoftmax(float* x, int64_t n, float* max, float* sum);

// y += a * x, and x *= a.
void Axpy(float a, const float* x, int64_t n, float* y);
void Scale(float a, int64_t n, float* x);
float Dot(const float* a, const float* b, int64_t n);

// log(sum(exp(x))), for log-probabilities; relative error of the sum below 1e-5.
float LogSumExp(const float* x, int64_t n);

// KL(softmax(base) || softmax(test)) in nats; absolute error below 1e-6.
float KlDivergence(const float* base, const float* test, int64_t n);

// Cosines and sines of one position for every pair: angle = position * step_P (mod 1 turn).
// cos_P and sin_P are multiplied by the table's attention factor. Error below 1e-7 at any position.
void RopeAngles(const PhaseTable& table, int64_t position, float* cos_P, float* sin_P);
// The same at a position in ticks (kTicksPerPosition).
void RopeAnglesAt(const PhaseTable& table, PositionTicks position, float* cos_P, float* sin_P);
// Cosines and sines, times factor, of angles in turns * 2^64.
void TurnsToAngles(std::span<const uint64_t> turns_P, double factor, float* cos_P, float* sin_P);

// Rotates n_heads rows of head_dim floats in place; dimensions beyond n_rot stay as they are.
void ApplyRope(float* x_HD, int n_heads, int head_dim, int n_rot, RopePairing pairing,
               const float* cos_P, const float* sin_P);

}  // namespace phasor
