// What it does: stores each token's key or value as int8 codes with one 16-bit scale.
// Source: the worked example of docs/adding_a_method.md; the scheme is textbook absmax rounding.
// Deviations: none.
// Shapes and layout: page = scales, f16 [128], then codes, int8 [128, D], row-major.
// Exact or approximate: approximate; |x - decoded| <= scale / 2 where scale is max|x| / 127 rounded
//   up to the next f16 (the test enforces it). Neutral setting: whole numbers with a maximum of 127
//   are stored exactly.
// Cost: 8 + 16 / D bits per element; scoring D multiplications per token, nothing decoded.
// Limits: any head size; magnitudes above 65504 are clamped.
// Tried and rejected: rounding the scale to nearest, because codes of the largest element then need
//   clamping and the bound grows to 0.57 scale.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "contracts/kv_codec.h"
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr float kMaxF16 = 65504.0f;
constexpr int kMaxCode = 127;
// Scale bytes at the front of a page; keeps the codes 64-byte aligned.
constexpr std::size_t kScaleBytes = kPageTokens * sizeof(uint16_t);

float MakeFinite(float x) { return std::isnan(x) ? 0.0f : std::clamp(x, -kMaxF16, kMaxF16); }

// The smallest f16 that is not below x, for x >= 0.
uint16_t F16AtLeast(float x) {
  uint16_t h = F32ToF16(x);
  return F16ToF32(h) < x ? static_cast<uint16_t>(h + 1) : h;
}

class Int8RowCodec : public KvCodec {
 public:
  explicit Int8RowCodec(int head_dim) : head_dim_(head_dim) {}

  std::size_t PageBytes() const override {
    return kScaleBytes + std::size_t{kPageTokens} * head_dim_;
  }

  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override {
    std::memset(page, 0, PageBytes());  // every byte of a page is written, also in a short one
    auto* scales = reinterpret_cast<uint16_t*>(page);
    for (int t = 0; t < n_tokens; ++t) {
      const float* x = x_TD + static_cast<std::size_t>(t) * head_dim_;
      float max = 0;
      for (int d = 0; d < head_dim_; ++d) max = std::max(max, std::abs(MakeFinite(x[d])));
      scales[t] = F16AtLeast(max / kMaxCode);
      const float scale = F16ToF32(scales[t]);
      if (scale == 0) continue;
      int8_t* codes = MutableCodes(page, t);
      for (int d = 0; d < head_dim_; ++d) {
        codes[d] = static_cast<int8_t>(std::lrint(MakeFinite(x[d]) / scale));
      }
    }
  }

  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override {
    for (int t = 0; t < n_tokens; ++t) {
      const int8_t* codes = Codes(page, t);
      for (int d = 0; d < head_dim_; ++d) *x_TD++ = ScaleOf(page, t) * codes[d];
    }
  }

  // A prepared query is the query itself: [g, D] floats.
  std::size_t PreparedQueryBytes(int g) const override {
    return static_cast<std::size_t>(g) * head_dim_ * sizeof(float);
  }
  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override {
    std::memcpy(prepared, q_GD, PreparedQueryBytes(g));
  }

  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override {
    const auto* q_GD = reinterpret_cast<const float*>(prepared);
    for (int t = 0; t < n_tokens; ++t) {
      const int8_t* codes = Codes(page, t);
      for (int i = 0; i < g; ++i) {
        float sum = 0;
        for (int d = 0; d < head_dim_; ++d) sum += q_GD[i * head_dim_ + d] * codes[d];
        score_GT[i * kPageTokens + t] = sum * ScaleOf(page, t);
      }
    }
  }

  void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                      float* out_GD) const override {
    for (int t = 0; t < n_tokens; ++t) {
      const int8_t* codes = Codes(page, t);
      for (int i = 0; i < g; ++i) {
        const float weight = weight_GT[i * kPageTokens + t] * ScaleOf(page, t);
        for (int d = 0; d < head_dim_; ++d) out_GD[i * head_dim_ + d] += weight * codes[d];
      }
    }
  }

 private:
  static float ScaleOf(const std::byte* page, int t) {
    return F16ToF32(reinterpret_cast<const uint16_t*>(page)[t]);
  }
  const int8_t* Codes(const std::byte* page, int t) const {
    return reinterpret_cast<const int8_t*>(page + kScaleBytes) +
           static_cast<std::size_t>(t) * head_dim_;
  }
  int8_t* MutableCodes(std::byte* page, int t) const { return const_cast<int8_t*>(Codes(page, t)); }

  int head_dim_;
};

Result<std::unique_ptr<KvCodec>> MakeInt8Row(const char* id, const KvCodecParams& params) {
  if (params.head_dim < 1) {
    return Unsupported(std::string(id) + ": expected a head size of at least 1, found " +
                       std::to_string(params.head_dim));
  }
  return std::unique_ptr<KvCodec>(std::make_unique<Int8RowCodec>(params.head_dim));
}

}  // namespace

extern const KvCodecInfo kInt8RowKvCodec;  // in the tree: declared in src/kvcodec/kvcodec.h
const KvCodecInfo kInt8RowKvCodec = {
    .id = "int8row",
    .summary = "int8 codes with one f16 scale per token",
    .source = "docs/adding_a_method.md",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 8 + 16.0 / 64,
    .nominal_bits_128 = 8 + 16.0 / 128,
    .make = MakeInt8Row,
};

}  // namespace phasor
