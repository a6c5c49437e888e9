#include "kvcodec/frame_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/polar_grid.h"  // SanitizeElement
#include "simd/line_fetcher.h"
#include "tensor/half.h"

namespace phasor {
namespace {

struct GridView {
  const uint16_t* scale;
  const uint16_t* low;
};

GridView Grids(const FrameLayout& layout, const std::byte* page) {
  const auto* at = reinterpret_cast<const uint16_t*>(page);
  return {at, at + 4 * layout.n_quads};
}

// Which byte and bits of a quad a code's parts are in.
void PackCode(int code, int bits, int token, int k, uint8_t* quad) {
  const int tile = token / kFrameTile, byte = 4 * (token % kFrameTile) + k;
  if (bits & 4) {
    quad[64 * (tile / 2) + byte] |= static_cast<uint8_t>((code & 15) << (4 * (tile % 2)));
    quad += 256;
    code >>= 4;
  }
  if (bits & 2) {
    quad[64 * (tile / 4) + byte] |= static_cast<uint8_t>((code & 3) << (2 * (tile % 4)));
    quad += 128;
    code >>= 2;
  }
  if (bits & 1) quad[byte] |= static_cast<uint8_t>((code & 1) << tile);
}

int UnpackCode(const uint8_t* quad, int bits, int token, int k) {
  const int tile = token / kFrameTile, byte = 4 * (token % kFrameTile) + k;
  int code = 0, at = 0;
  if (bits & 4) {
    code = (quad[64 * (tile / 2) + byte] >> (4 * (tile % 2))) & 15;
    quad += 256;
    at = 4;
  }
  if (bits & 2) {
    code |= ((quad[64 * (tile / 4) + byte] >> (2 * (tile % 4))) & 3) << at;
    quad += 128;
    at += 2;
  }
  if (bits & 1) code |= ((quad[byte] >> tile) & 1) << at;
  return code;
}

// Squared error of x_T on a grid.
double GridError(const float* x_T, FrameGrid grid, int bits) {
  const float scale = F16ToF32(grid.scale), low = F16ToF32(grid.low);
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  const float top = static_cast<float>((1 << bits) - 1);
  double sum = 0;
  for (int t = 0; t < kPageTokens; ++t) {
    const float code = std::clamp(std::nearbyint((x_T[t] - low) * inverse), 0.0f, top);
    const double error = low + scale * code - x_T[t];
    sum += error * error;
  }
  return sum;
}

FrameGrid FitGrid(const float* x_T, int bits, bool whole_range) {
  if (bits == 0) {
    double sum = 0;
    for (int t = 0; t < kPageTokens; ++t) sum += x_T[t];
    return {0, F32ToF16(static_cast<float>(sum / kPageTokens))};
  }
  const auto [low, high] = std::minmax_element(x_T, x_T + kPageTokens);
  if (whole_range) return WholeFrameGrid(*low, *high, bits);
  FrameGrid best = {};
  double least = INFINITY;
  for (float shrink : kFrameShrink[bits]) {
    if (shrink == 0.0f) break;
    const FrameGrid grid = MakeFrameGrid(*low, *high, shrink, bits);
    const double error = GridError(x_T, grid, bits);
    if (error < least) {
      least = error;
      best = grid;
    }
  }
  return best;
}

// x_T[128], a channel of slot `slot`, becomes what is to be rounded. frame_DT: residuals of slots
// behind it.
void AddFeedback(const FrameLayout& layout, int slot, const float* frame_DT, float* x_T) {
  const uint32_t begin = layout.feedback_S[slot], end = layout.feedback_S[slot + 1];
  if (begin == end) return;
  double sum_T[kPageTokens];
  std::copy_n(x_T, kPageTokens, sum_T);
  for (uint32_t i = begin; i < end; ++i) {
    const auto [channel, weight] = layout.feedback[i];
    const float* residual_T = frame_DT + static_cast<std::ptrdiff_t>(channel) * kPageTokens;
    for (int t = 0; t < kPageTokens; ++t) sum_T[t] += weight * residual_T[t];
  }
  for (int t = 0; t < kPageTokens; ++t) x_T[t] = SanitizeElement(static_cast<float>(sum_T[t]));
}

void EncodeScalar(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
  static thread_local AlignedBuffer<float> frame;
  frame.Resize(static_cast<std::size_t>(layout.head_dim) * kPageTokens);
  ToFrame(layout, x_TD, n_tokens, frame.data());
  std::memset(page, 0, layout.page_bytes);
  const bool feeds_back = !layout.feedback.empty();
  auto* quad = reinterpret_cast<uint8_t*>(page) + layout.page_bytes;
  for (int q = layout.n_quads - 1; q >= 0; --q) {
    const int bits = layout.bits_Q[q];
    quad -= 64 * bits;
    for (int k = 3; k >= 0; --k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      if (channel < 0) continue;
      float* x_T = frame.data() + static_cast<std::ptrdiff_t>(channel) * kPageTokens;
      if (feeds_back) AddFeedback(layout, slot, frame.data(), x_T);
      const FrameGrid grid = FitGrid(x_T, bits, layout.whole_ranges);
      std::memcpy(page + 2 * slot, &grid.scale, 2);
      std::memcpy(page + 2 * (4 * layout.n_quads + slot), &grid.low, 2);
      const float scale = F16ToF32(grid.scale), low = F16ToF32(grid.low);
      const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
      const float top = static_cast<float>((1 << bits) - 1);
      for (int t = 0; t < kPageTokens; ++t) {
        const float code = std::clamp(std::nearbyint((x_T[t] - low) * inverse), 0.0f, top);
        PackCode(static_cast<int>(code), bits, t, k, quad);
        x_T[t] = low + scale * code - x_T[t];
      }
    }
  }
}

void DecodeScalar(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  const int D = layout.head_dim, n_pairs = static_cast<int>(layout.pairs.size());
  static thread_local AlignedBuffer<float> frame;
  frame.Resize(static_cast<std::size_t>(D) * kPageTokens);
  DecodeFrame(layout, page, frame.data());
  for (int t = 0; t < n_tokens; ++t) {
    float* row = x_TD + static_cast<std::ptrdiff_t>(t) * D;
    for (int d = 0; d < D; ++d) row[d] = frame[static_cast<std::size_t>(d) * kPageTokens + t];
    const std::size_t at = static_cast<std::size_t>(t / kFrameTokens) * n_pairs;
    for (int j = 0; j < n_pairs; ++j) {
      const auto [dx, dy] = layout.pairs[j];
      const float x = row[dx], y = row[dy], c = layout.cos_IP[at + j], s = layout.sin_IP[at + j];
      row[dx] = x * c - y * s;
      row[dy] = x * s + y * c;
    }
  }
}

void ScorePageScalar(const FrameLayout& layout, const FrameQuery& query, int g,
                     const PageToScore& at) {
  const auto [page, n_tokens, score_GT, next] = at;
  const GridView grids = Grids(layout, page);
  for (int h = 0; h < g; ++h) std::fill_n(score_GT + h * kPageTokens, n_tokens, 0.0f);
  LineFetcher fetcher(next, layout.n_quads);
  const auto* quad = reinterpret_cast<const uint8_t*>(page) + layout.first_code;
  for (int q = 0; q < layout.n_quads; ++q) {
    fetcher.Step();
    const int bits = layout.bits_Q[q];
    for (int k = 0; k < 4; ++k) {
      const int slot = 4 * q + k;
      if (layout.channel_S[slot] < 0) continue;
      const float scale = F16ToF32(grids.scale[slot]), low = F16ToF32(grids.low[slot]);
      float x_T[kPageTokens];
      for (int t = 0; t < n_tokens; ++t) x_T[t] = low + scale * UnpackCode(quad, bits, t, k);
      for (int h = 0; h < g; ++h) {
        const float* turned = query.turned + FrameQueryRow(slot, g, h, 0) + slot % 64;
        for (int t = 0; t < n_tokens; ++t) {
          score_GT[h * kPageTokens + t] += turned[t / kFrameTokens * 64] * x_T[t];
        }
      }
    }
    quad += 64 * bits;
  }
}

void ScoreScalar(const FrameLayout& layout, const FrameQuery& query, int g,
                 std::span<const PageToScore> pages) {
  for (const PageToScore& p : pages) {
    ScorePageScalar(layout, query, g, p);
  }
}

void PrepareScalar(const FrameLayout& layout, const float* q_GD, int g, const FrameQuery& query) {
  const int n = layout.n_padded;
  std::fill_n(query.turned, static_cast<std::ptrdiff_t>(g) * kFrames * n, 0.0f);
  std::fill_n(query.normalized, static_cast<std::ptrdiff_t>(g) * kFrames * n, int16_t{0});
  std::fill_n(query.largest, static_cast<std::ptrdiff_t>(g) * n, 0.0f);
  for (int h = 0; h < g; ++h) {
    const float* q = q_GD + static_cast<std::ptrdiff_t>(h) * layout.head_dim;
    for (int s = 0; s < 4 * layout.n_quads; ++s) {
      if (layout.channel_S[s] < 0) continue;
      const float x = q[layout.channel_S[s]], y = q[layout.partner_S[s]];
      const float largest =
          layout.partner_S[s] == layout.channel_S[s] ? std::fabs(x) : std::sqrt(x * x + y * y);
      query.largest[FrameQueryRow(s, g, h, 0) / kFrames + s % 64] = largest;
      const float inverse = largest > 0.0f ? 2047.0f / largest : 0.0f;
      for (int i = 0; i < kFrames; ++i) {
        const std::ptrdiff_t row = FrameQueryRow(s, g, h, i);
        const float value = layout.cos_IS[i * n + s] * x + layout.sin_IS[i * n + s] * y;
        query.turned[row + s % 64] = value;
        query.normalized[row + FrameWord(s)] =
            static_cast<int16_t>(std::clamp(std::nearbyint(value * inverse), -2047.0f, 2047.0f));
      }
    }
  }
}

constexpr FrameKernels kScalar = {EncodeScalar, DecodeScalar, ScoreScalar, PrepareScalar};

}  // namespace

FrameGrid MakeFrameGrid(float low, float high, float shrink, int bits) {
  const float middle = 0.5f * (low + high), half = 0.5f * (high - low) * shrink;
  const float step = 2.0f * half / static_cast<float>((1 << bits) - 1);
  return {F32ToF16(std::min(step, 65504.0f)), F32ToF16(middle - half)};
}

FrameGrid WholeFrameGrid(float low, float high, int bits) {
  FrameGrid grid = {0, F32ToF16(low)};
  // Down: towards minus infinity, which for negative numbers is the larger magnitude.
  if (F16ToF32(grid.low) > low) {
    grid.low = static_cast<uint16_t>(grid.low == 0        ? 0x8001
                                     : grid.low & 0x8000u ? grid.low + 1
                                                          : grid.low - 1);
  }
  const float step = (high - F16ToF32(grid.low)) / static_cast<float>((1 << bits) - 1);
  grid.scale = F32ToF16(std::max(step, 0.0f));
  if (F16ToF32(grid.scale) < step) ++grid.scale;
  return grid;
}

void ToFrame(const FrameLayout& layout, const float* x_TD, int n_tokens, float* frame_DT) {
  const int D = layout.head_dim, n_pairs = static_cast<int>(layout.pairs.size());
  for (int t = 0; t < kPageTokens; ++t) {
    if (t >= n_tokens) {
      for (int d = 0; d < D; ++d) frame_DT[d * kPageTokens + t] = frame_DT[d * kPageTokens + t - 1];
      continue;
    }
    const float* row = x_TD + static_cast<std::ptrdiff_t>(t) * D;
    for (int d = 0; d < D; ++d) frame_DT[d * kPageTokens + t] = SanitizeElement(row[d]);
    const std::size_t at = static_cast<std::size_t>(t / kFrameTokens) * n_pairs;
    for (int j = 0; j < n_pairs; ++j) {
      float* x = frame_DT + layout.pairs[j].x * kPageTokens + t;
      float* y = frame_DT + layout.pairs[j].y * kPageTokens + t;
      const float c = layout.cos_IP[at + j], s = layout.sin_IP[at + j];
      const float turned_x = *x * c + *y * s, turned_y = *y * c - *x * s;
      *x = SanitizeElement(turned_x);
      *y = SanitizeElement(turned_y);
    }
  }
}

void DecodeFrame(const FrameLayout& layout, const std::byte* page, float* frame_DT) {
  const GridView grids = Grids(layout, page);
  const auto* quad = reinterpret_cast<const uint8_t*>(page) + layout.first_code;
  for (int q = 0; q < layout.n_quads; ++q) {
    const int bits = layout.bits_Q[q];
    for (int k = 0; k < 4; ++k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      if (channel < 0) continue;
      const float scale = F16ToF32(grids.scale[slot]), low = F16ToF32(grids.low[slot]);
      float* x_T = frame_DT + static_cast<std::ptrdiff_t>(channel) * kPageTokens;
      for (int t = 0; t < kPageTokens; ++t) x_T[t] = low + scale * UnpackCode(quad, bits, t, k);
    }
    quad += 64 * bits;
  }
}

const FrameKernels& FrameKernelsFor(CpuLevel level) {
#if defined(__x86_64__)
  if (IsAvx512(level)) return kFrameKernelsAvx512;
  if (level == CpuLevel::kAvx2) return kFrameKernelsAvx2;
#elif defined(__aarch64__)
  if (level == CpuLevel::kNeonDot) return kFrameKernelsNeonDot;
  if (level == CpuLevel::kNeon) return kFrameKernelsNeon;
#endif
  return kScalar;
}

const FrameKernels& ActiveFrameKernels() { return FrameKernelsFor(ActiveCpuLevel()); }

}  // namespace phasor
