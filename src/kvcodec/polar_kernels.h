// The work of the polar codecs, once per CPU level. A kernel takes any layout (polar_layout.h).
//
// Scores without decoding: with T[k] = qx cos(phi_k) + qy sin(phi_k) over the angle levels of a
// pair in a page, q.k is the sum over pairs of r(code) * T[code]. In integers with AVX-512
// (polar_score_avx512.cc) and with AVX2 (polar_score_avx2.cc), after one plan (polar_plan.h).
#pragma once

#include <cstddef>

#include "contracts/kv_codec.h"
#include "kvcodec/polar_layout.h"
#include "simd/cpu.h"

namespace phasor {

struct PolarKernels {
  // As in KvCodec; every byte of the page is written.
  void (*encode)(const PolarLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
  void (*decode)(const PolarLayout& layout, const std::byte* page, int n_tokens, float* x_TD);
  // prepared: what `prepare` of the same level wrote.
  void (*score)(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
                int n_tokens, float* score_GT, Upcoming next);
  // q_GD: [g, D]; prepared: PreparedPolarFloats.
  void (*prepare)(const PolarLayout& layout, const float* q_GD, int g, float* prepared);
};

// Kernels of a level this CPU can run, and of the level in force.
const PolarKernels& PolarKernelsFor(CpuLevel level);
const PolarKernels& ActivePolarKernels();

// Slots as the AVX2 kernels pad them.
inline int PaddedPolarSlots(const PolarLayout& layout) { return (layout.n_slots + 7) / 8 * 8; }
// Room for g prepared queries of any level.
inline std::size_t PreparedPolarFloats(const PolarLayout& layout, int g) {
  return std::size_t{3} * static_cast<std::size_t>(g) *
         static_cast<std::size_t>(PaddedPolarSlots(layout));
}

// Sorts g queries [g, D] by slot: [slot][g][x, y].
void PreparePolarQuery(const PolarLayout& layout, const float* q_GD, int g, float* q_SG2);

// Double-precision meaning of a page, for tests: the decoded keys [n_tokens, D].
void ReferencePolarDecode(const PolarLayout& layout, const std::byte* page, int n_tokens,
                          double* x_TD);

// The levels; only to be called through PolarKernelsFor.
extern const PolarKernels kPolarKernelsAvx2;
extern const PolarKernels kPolarKernelsAvx512Vnni;
extern const PolarKernels kPolarKernelsAvx512;
// prepared: as PreparePolarWords wrote it (polar_plan.h).
void ScorePolarAvx2(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
                    int n_tokens, float* score_GT, Upcoming next);
void ScorePolarFloatAvx2(const PolarLayout& layout, const float* prepared, int g,
                         const std::byte* page, int n_tokens, float* score_GT);
void ScorePolarAvx512(const PolarLayout& layout, const float* prepared, int g,
                      const std::byte* page, int n_tokens, float* score_GT, Upcoming next);
void ScorePolarAvx512Vnni(const PolarLayout& layout, const float* prepared, int g,
                          const std::byte* page, int n_tokens, float* score_GT, Upcoming next);
void ScorePolarFloatAvx512(const PolarLayout& layout, const float* prepared, int g,
                           const std::byte* page, int n_tokens, float* score_GT);
void EncodePolarScalar(const PolarLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
void EncodePolarAvx512(const PolarLayout& layout, const float* x_TD, int n_tokens, std::byte* page);

}  // namespace phasor
