// int4_channel, int3_channel: integers per channel, KIVI's form for keys.
//
// What it does: over the 128 tokens of a page each channel is rounded to 2^b levels between its
//   least and its largest value. Keys have strong channels, which formats per token must pay for in
//   every block; per channel they cost nothing.
// Source: KIVI (Liu et al., 2024, arXiv 2402.02750), key cache; group of 128 instead of 32.
// Deviations: groups are pages; scale and low end are rounded outwards to f16 and codes computed
//   from the stored ones, so nothing is clipped; also allowed for values, where KIVI is per token.
// Shapes and layout: kchannel.h.
// Exactness: approximate; per element at most half a step, (max - min) / (2^b - 1) / 2, plus the
//   outward rounding (tested). NaN counts as 0, an element beyond +-65504 as +-65504.
// Cost: b + 0.25 bits per element. Scores fold the scales into the query once per page:
//   q.k = sum_d q_d low_d + sum_d (q_d scale_d) code_d.
// Limits: head size up to 1024.
// Tried and rejected: nothing yet; this is the baseline polar has to beat at equal bits.
#include "kvcodec/kchannel.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "kvcodec/kvcodec.h"
#include "kvcodec/polar_grid.h"  // SanitizeElement
#include "simd/cpu.h"
#include "tensor/half.h"

namespace phasor {

ChannelGrid MakeChannelGrid(float low, float high, int bits) {
  ChannelGrid grid;
  grid.low = F32ToF16(low);
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

namespace {

ChannelGrid LoadGrid(const ChannelLayout& layout, const std::byte* page, int d) {
  ChannelGrid grid;
  std::memcpy(&grid.scale, page + 2 * d, 2);
  std::memcpy(&grid.low, page + 2 * (layout.head_dim + d), 2);
  return grid;
}

void EncodeScalar(const ChannelLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
  const int D = layout.head_dim;
  std::memset(page, 0, layout.page_bytes);
  for (int d = 0; d < D; ++d) {
    float x_T[kPageTokens];
    for (int t = 0; t < kPageTokens; ++t) {  // missing tokens repeat the last one
      const std::ptrdiff_t row = std::min(t, n_tokens - 1);
      x_T[t] = SanitizeElement(x_TD[row * D + d]);
    }
    const auto [low, high] = std::minmax_element(x_T, x_T + kPageTokens);
    const ChannelGrid grid = MakeChannelGrid(*low, *high, layout.bits);
    std::memcpy(page + 2 * d, &grid.scale, 2);
    std::memcpy(page + 2 * (D + d), &grid.low, 2);
    const float scale = F16ToF32(grid.scale), start = F16ToF32(grid.low);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    const float top = static_cast<float>((1 << layout.bits) - 1);
    uint16_t code_T[kPageTokens];
    for (int t = 0; t < kPageTokens; ++t) {
      const float level = std::nearbyint((x_T[t] - start) * inverse);
      code_T[t] = static_cast<uint16_t>(std::clamp(level, 0.0f, top));
    }
    PackField(code_T, layout.bits, layout.parts_D[d], page);
  }
}

void DecodeScalar(const ChannelLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  for (int d = 0; d < layout.head_dim; ++d) {
    const ChannelGrid grid = LoadGrid(layout, page, d);
    const float scale = F16ToF32(grid.scale), low = F16ToF32(grid.low);
    uint16_t code_T[kPageTokens];
    UnpackField(page, layout.bits, layout.parts_D[d], code_T);
    for (int t = 0; t < n_tokens; ++t) {
      x_TD[static_cast<std::ptrdiff_t>(t) * layout.head_dim + d] = low + scale * code_T[t];
    }
  }
}

void ScoreScalar(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
                 int n_tokens, float* score_GT) {
  const int D = layout.head_dim;
  for (int h = 0; h < g; ++h) {
    float base = 0.0f;
    for (int d = 0; d < D; ++d) base += q_GD[h * D + d] * F16ToF32(LoadGrid(layout, page, d).low);
    std::fill_n(score_GT + h * kPageTokens, n_tokens, base);
  }
  for (int d = 0; d < D; ++d) {
    const float scale = F16ToF32(LoadGrid(layout, page, d).scale);
    uint16_t code_T[kPageTokens];
    UnpackField(page, layout.bits, layout.parts_D[d], code_T);
    for (int h = 0; h < g; ++h) {
      const float q = q_GD[h * D + d] * scale;
      float* score_T = score_GT + h * kPageTokens;
      for (int t = 0; t < n_tokens; ++t) score_T[t] += q * code_T[t];
    }
  }
}

void AccumulateScalar(const ChannelLayout& layout, const float* weight_GT, int g,
                      const std::byte* page, int n_tokens, float* out_GD) {
  const int D = layout.head_dim;
  for (int d = 0; d < D; ++d) {
    const ChannelGrid grid = LoadGrid(layout, page, d);
    uint16_t code_T[kPageTokens];
    UnpackField(page, layout.bits, layout.parts_D[d], code_T);
    for (int h = 0; h < g; ++h) {
      const float* weight_T = weight_GT + h * kPageTokens;
      float sum = 0.0f, codes = 0.0f;
      for (int t = 0; t < n_tokens; ++t) {
        sum += weight_T[t];
        codes += weight_T[t] * code_T[t];
      }
      out_GD[h * D + d] += sum * F16ToF32(grid.low) + codes * F16ToF32(grid.scale);
    }
  }
}

constexpr ChannelKernels kScalar = {EncodeScalar, DecodeScalar, ScoreScalar, AccumulateScalar};
#if defined(__x86_64__)
constexpr ChannelKernels kAvx2 = {EncodeScalar, DecodeScalar, ScoreChannelsAvx2,
                                  AccumulateChannelsAvx2};
#elif defined(__aarch64__)
constexpr ChannelKernels kNeon = {EncodeScalar, DecodeScalar, ScoreChannelsNeon,
                                  AccumulateChannelsNeon};
#endif

const ChannelKernels& Kernels() {
#if defined(__x86_64__)
  if (ActiveCpuLevel() == CpuLevel::kAvx512) return kChannelKernelsAvx512;
  if (ActiveCpuLevel() == CpuLevel::kAvx2) return kAvx2;
#elif defined(__aarch64__)
  if (ActiveCpuLevel() != CpuLevel::kScalar) return kNeon;
#endif
  return kScalar;
}

class ChannelCodec : public KvCodec {
 public:
  ChannelCodec(int head_dim, int bits) : layout_{head_dim, bits, 0, {}} {
    layout_.parts_D.resize(static_cast<std::size_t>(head_dim));
    std::size_t at = (static_cast<std::size_t>(head_dim) * 4 + 63) / 64 * 64;
    for (int p = 0; p < 4; ++p) {
      if ((bits & kFieldParts[p]) == 0) continue;
      for (PartOffsets& parts : layout_.parts_D) {
        parts.at[p] = static_cast<uint32_t>(at);
        at += static_cast<std::size_t>(PartBytes(kFieldParts[p]));
      }
    }
    layout_.page_bytes = at;
  }

  std::size_t PageBytes() const override { return layout_.page_bytes; }
  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override {
    PHASOR_CHECK(n_tokens >= 1 && n_tokens <= kPageTokens);
    Kernels().encode(layout_, x_TD, n_tokens, page);
  }
  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override {
    Kernels().decode(layout_, page, n_tokens, x_TD);
  }
  std::size_t PreparedQueryBytes(int g) const override {
    return static_cast<std::size_t>(g) * static_cast<std::size_t>(layout_.head_dim) * sizeof(float);
  }
  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override {
    std::memcpy(prepared, q_GD, PreparedQueryBytes(g));
  }
  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override {
    Kernels().score(layout_, reinterpret_cast<const float*>(prepared), g, page, n_tokens, score_GT);
  }
  void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                      float* out_GD) const override {
    Kernels().accumulate(layout_, weight_GT, g, page, n_tokens, out_GD);
  }

 private:
  ChannelLayout layout_;
};

template <int kBits>
Result<std::unique_ptr<KvCodec>> MakeChannel(const char* id, const KvCodecParams& params) {
  if (params.head_dim < 1 || params.head_dim > kMaxChannelHeadDim) {
    return Unsupported(std::string(id) + ": expected a head size of 1 to " +
                       std::to_string(kMaxChannelHeadDim) + ", found " +
                       std::to_string(params.head_dim));
  }
  return std::unique_ptr<KvCodec>(new ChannelCodec(params.head_dim, kBits));
}

}  // namespace

const KvCodecInfo kInt4ChannelKvCodec = {
    "int4_channel",
    "4-bit integers per channel, groups of 128 tokens",
    "KIVI (arXiv 2402.02750)",
    /*for_keys=*/true,
    /*for_values=*/true,
    /*exact=*/false,
    /*uses_calibration=*/false,
    4.25,
    4.25,
    MakeChannel<4>,
};

const KvCodecInfo kInt3ChannelKvCodec = {
    "int3_channel",
    "3-bit integers per channel, groups of 128 tokens",
    "KIVI (arXiv 2402.02750)",
    /*for_keys=*/true,
    /*for_values=*/true,
    /*exact=*/false,
    /*uses_calibration=*/false,
    3.25,
    3.25,
    MakeChannel<3>,
};

}  // namespace phasor
