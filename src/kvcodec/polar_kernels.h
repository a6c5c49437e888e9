// The work of the polar codecs, once per CPU level. A kernel takes any layout (polar_layout.h).
//
// Scores without decoding: with T[k] = qx cos(phi_k) + qy sin(phi_k) over the angle levels of a
// pair in a page, q.k is the sum over pairs of r(code) * T[code]. Tables hold 16 floats per vector
// register and are looked up by permutes, 16 tokens at a time (AVX-512); the AVX2 kernels look up
// cosine and sine instead and multiply by the query, which suits registers of 8 floats better.
#pragma once

#include <cstddef>

#include "kvcodec/polar_layout.h"
#include "simd/cpu.h"

namespace phasor {

struct PolarKernels {
  // As in KvCodec; every byte of the page is written.
  void (*encode)(const PolarLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
  void (*decode)(const PolarLayout& layout, const std::byte* page, int n_tokens, float* x_TD);
  // q_SG2: [slot][g][x, y], see PreparePolarQuery.
  void (*score)(const PolarLayout& layout, const float* q_SG2, int g, const std::byte* page,
                int n_tokens, float* score_GT);
};

// Kernels of a level this CPU can run, and of the level in force.
const PolarKernels& PolarKernelsFor(CpuLevel level);
const PolarKernels& ActivePolarKernels();

// Sorts g queries [g, D] by slot: n_slots * g * 2 floats.
void PreparePolarQuery(const PolarLayout& layout, const float* q_GD, int g, float* q_SG2);

// Double-precision meaning of a page, for tests: the decoded keys [n_tokens, D].
void ReferencePolarDecode(const PolarLayout& layout, const std::byte* page, int n_tokens,
                          double* x_TD);

// The levels; only to be called through PolarKernelsFor.
extern const PolarKernels kPolarKernelsAvx2;
extern const PolarKernels kPolarKernelsAvx512;
void EncodePolarScalar(const PolarLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
void EncodePolarAvx512(const PolarLayout& layout, const float* x_TD, int n_tokens, std::byte* page);

}  // namespace phasor
