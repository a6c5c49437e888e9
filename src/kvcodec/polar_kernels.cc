#include "kvcodec/polar_kernels.h"

#include <algorithm>
#include <cmath>

#include "simd/line_fetcher.h"
#include "tensor/half.h"

namespace phasor {

void EncodePolarScalar(const PolarLayout& layout, const float* x_TD, int n_tokens,
                       std::byte* page) {
  std::memset(page, 0, layout.page_bytes);  // the padding behind the grids
  for (int s = 0; s < layout.n_slots; ++s) {
    const PolarSlot& slot = layout.slots[s];
    float x_T[kPageTokens], y_T[kPageTokens], r_T[kPageTokens];
    int32_t phase_T[kPageTokens];
    for (int t = 0; t < n_tokens; ++t) {
      const float* row = x_TD + static_cast<std::ptrdiff_t>(t) * layout.head_dim;
      x_T[t] = row[slot.dims.x];
      y_T[t] = slot.dims.y < 0 ? 0.0f : row[slot.dims.y];
    }
    ToPolar(x_T, y_T, n_tokens, phase_T, r_T);
    const PolarGrid grid = FitGrid(phase_T, r_T, n_tokens, slot.width, layout.cut);
    StorePolarGrid(layout, s, grid, page);
    uint16_t code_T[kPageTokens];
    for (int t = 0; t < kPageTokens; ++t) {  // missing tokens repeat the last one
      const int u = std::min(t, n_tokens - 1);
      code_T[t] = PolarCode(grid, slot.width, phase_T[u], r_T[u]);
    }
    PackField(code_T, slot.width.total(), slot.parts, page);
  }
}

namespace {

// Cosine and sine of every angle level and the radius of every radius level of a slot.
struct Levels {
  float cosine[256], sine[256], r[64];
  Levels(const PolarGrid& grid, PolarWidth width) {
    const float start = grid.PhiStart(), step = grid.PhiStep(width);
    for (int k = 0; k < 1 << width.a_bits; ++k) {
      SinCosTurns(start + (static_cast<float>(k) + 0.5f) * step, &sine[k], &cosine[k]);
    }
    const float r_min = F16ToF32(grid.r_min), r_step = F16ToF32(grid.r_step);
    for (int k = 0; k < 1 << width.r_bits; ++k) {
      r[k] = r_min + (static_cast<float>(k) + 0.5f) * r_step;
    }
  }
};

void DecodeScalar(const PolarLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  for (int s = 0; s < layout.n_slots; ++s) {
    const PolarSlot& slot = layout.slots[s];
    const Levels levels(LoadPolarGrid(layout, page, s), slot.width);
    uint16_t code_T[kPageTokens];
    UnpackField(page, slot.width.total(), slot.parts, code_T);
    const int mask = (1 << slot.width.a_bits) - 1;
    for (int t = 0; t < n_tokens; ++t) {
      float* row = x_TD + static_cast<std::ptrdiff_t>(t) * layout.head_dim;
      const float r = levels.r[code_T[t] >> slot.width.a_bits];
      row[slot.dims.x] = r * levels.cosine[code_T[t] & mask];
      if (slot.dims.y >= 0) row[slot.dims.y] = r * levels.sine[code_T[t] & mask];
    }
  }
}

void ScoreScalar(const PolarLayout& layout, const float* q_SG2, int g, const std::byte* page,
                 int n_tokens, float* score_GT, Upcoming next) {
  for (int h = 0; h < g; ++h) {
    std::fill_n(score_GT + h * kPageTokens, n_tokens, 0.0f);
  }
  LineFetcher fetcher(next, layout.n_slots);
  for (int s = 0; s < layout.n_slots; ++s) {
    fetcher.Step();
    const PolarSlot& slot = layout.slots[s];
    const Levels levels(LoadPolarGrid(layout, page, s), slot.width);
    uint16_t code_T[kPageTokens];
    UnpackField(page, slot.width.total(), slot.parts, code_T);
    const int mask = (1 << slot.width.a_bits) - 1;
    for (int h = 0; h < g; ++h) {
      const float* q = q_SG2 + 2 * (s * g + h);
      float table[256];
      for (int k = 0; k <= mask; ++k) table[k] = q[0] * levels.cosine[k] + q[1] * levels.sine[k];
      float* score_T = score_GT + h * kPageTokens;
      for (int t = 0; t < n_tokens; ++t) {
        score_T[t] += levels.r[code_T[t] >> slot.width.a_bits] * table[code_T[t] & mask];
      }
    }
  }
}

constexpr PolarKernels kPolarKernelsScalar = {EncodePolarScalar, DecodeScalar, ScoreScalar,
                                              PreparePolarQuery};

}  // namespace

const PolarKernels& PolarKernelsFor(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::kAvx512Vnni) return kPolarKernelsAvx512Vnni;
  if (level == CpuLevel::kAvx512) return kPolarKernelsAvx512;
  if (level == CpuLevel::kAvx2) return kPolarKernelsAvx2;
#endif
  return kPolarKernelsScalar;
}

const PolarKernels& ActivePolarKernels() { return PolarKernelsFor(ActiveCpuLevel()); }

void PreparePolarQuery(const PolarLayout& layout, const float* q_GD, int g, float* q_SG2) {
  for (int s = 0; s < layout.n_slots; ++s) {
    const PairDims dims = layout.slots[s].dims;
    for (int h = 0; h < g; ++h) {
      const float* q = q_GD + static_cast<std::ptrdiff_t>(h) * layout.head_dim;
      q_SG2[2 * (s * g + h)] = q[dims.x];
      q_SG2[2 * (s * g + h) + 1] = dims.y < 0 ? 0.0f : q[dims.y];
    }
  }
}

void ReferencePolarDecode(const PolarLayout& layout, const std::byte* page, int n_tokens,
                          double* x_TD) {
  constexpr double kTwoPi = 6.283185307179586;
  for (int s = 0; s < layout.n_slots; ++s) {
    const PolarSlot& slot = layout.slots[s];
    const PolarGrid grid = LoadPolarGrid(layout, page, s);
    uint16_t code_T[kPageTokens];
    UnpackField(page, slot.width.total(), slot.parts, code_T);
    for (int t = 0; t < n_tokens; ++t) {
      double turns = 0, r = 0;
      PolarCellCenter(grid, slot.width, code_T[t], &turns, &r);
      double* row = x_TD + static_cast<std::ptrdiff_t>(t) * layout.head_dim;
      row[slot.dims.x] = r * std::cos(kTwoPi * turns);
      if (slot.dims.y >= 0) row[slot.dims.y] = r * std::sin(kTwoPi * turns);
    }
  }
}

}  // namespace phasor
