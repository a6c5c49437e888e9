#include "kvcodec/int_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kvcodec/hadamard.h"
#include "kvcodec/int_kernels.h"
#include "kvcodec/row_codec.h"
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr float kMaxF16 = 65504.0f;
constexpr int kStrip = 16;  // tokens encoded together: one row of lanes, or whole tiles of tokens

// NaN -> 0, everything else into the range of f16.
inline float MakeFinite(float x) {
  if (std::isnan(x)) return 0.0f;
  return std::clamp(x, -kMaxF16, kMaxF16);
}

std::size_t RoundUp64(std::size_t n) { return (n + 63) / 64 * 64; }

class IntCodec : public KvCodec {
 public:
  IntCodec(const IntFormat& format, const KvCodecParams& params)
      : format_(format),
        shape_(params.role, params.head_dim, format.bits,
               format.block == 0 ? params.head_dim : format.block) {}

  std::size_t PageBytes() const override { return shape_.page_bytes; }

  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override;
  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override;

  std::size_t PreparedQueryBytes(int g) const override { return QueryAt(g).end; }
  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override;

  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override {
    PHASOR_CHECK(shape_.role == KvRole::kKey);
    const QueryLayout at = QueryAt(g);
    Kernels().score({&shape_, page, reinterpret_cast<const int16_t*>(prepared + at.codes),
                     reinterpret_cast<const float*>(prepared),
                     reinterpret_cast<const int32_t*>(prepared + at.bias), g, n_tokens, score_GT});
  }

  void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                      float* out_GD) const override {
    PHASOR_CHECK(shape_.role == KvRole::kValue);
    Kernels().accumulate({&shape_, page, weight_GT, g, n_tokens, out_GD});
  }

  bool HasRotation() const override { return format_.hadamard; }
  void Rotate(float* x_ND, int n) const override {
    if (format_.hadamard) HadamardRows(x_ND, n, shape_.head_dim);
  }
  // The transform is its own inverse.
  void Unrotate(float* x_ND, int n) const override { Rotate(x_ND, n); }

 private:
  // A prepared query: float step [g], int32 bias [g, n_blocks], int16 codes [g, n_inner].
  struct QueryLayout {
    std::size_t bias, codes, end;
  };
  QueryLayout QueryAt(int g) const {
    QueryLayout at;
    at.bias = RoundUp64(sizeof(float) * g);
    at.codes = at.bias + RoundUp64(sizeof(int32_t) * g * shape_.n_blocks);
    at.end = at.codes + RoundUp64(sizeof(int16_t) * g * shape_.n_inner);
    return at;
  }

  void QuantizeRow(const float* x, int token, int16_t* codes, uint16_t* scales) const;
  void PackStrip(const int16_t (*codes)[kMaxHeadDim], int first, std::byte* page) const;

  // Looked up per call: a test may lower the CPU level after the codec was made.
  const IntKernels& Kernels() const { return GetIntKernels(ActiveCpuLevel()); }

  const IntFormat format_;
  const IntPageShape shape_;
};

void IntCodec::QuantizeRow(const float* x, int token, int16_t* codes, uint16_t* scales) const {
  alignas(64) float block[kMaxHeadDim];
  for (int b = 0; b < shape_.n_blocks; ++b) {
    const int first = b * shape_.block;
    const int n = std::min(shape_.block, shape_.head_dim - first);
    for (int i = 0; i < n; ++i) block[i] = MakeFinite(x[first + i]);
    for (int i = n; i % 16 != 0; ++i) block[i] = 0;
    format_.quantize(block, n, &scales[b * kPageTokens + token], codes + first);
  }
}

void IntCodec::PackStrip(const int16_t (*codes)[kMaxHeadDim], int first, std::byte* page) const {
  const bool key = shape_.role == KvRole::kKey;
  const int n_lane_blocks = shape_.n_lanes / 16, group = shape_.group;
  const int row_begin = key ? 0 : first / group;
  const int row_end = key ? shape_.n_inner / group : (first + kStrip) / group;
  const int lane_begin = key ? first / 16 : 0;
  const int lane_end = key ? lane_begin + 1 : n_lane_blocks;
  int16_t tile[kMaxTileSteps][32];
  for (int row = row_begin; row < row_end; ++row) {
    for (int lane = lane_begin; lane < lane_end; ++lane) {
      for (int inner = 0; inner < group; ++inner) {
        int16_t* to = tile[inner / 2] + (inner & 1);
        for (int l = 0; l < 16; ++l) {
          to[2 * l] = key ? codes[l][row * group + inner]
                          : codes[row * group + inner - first][lane * 16 + l];
        }
      }
      const std::size_t index = static_cast<std::size_t>(row) * n_lane_blocks + lane;
      PackTile(shape_.bits, tile, page + shape_.codes_at + index * shape_.tile_bytes);
    }
  }
}

void IntCodec::EncodePage(const float* x_TD, int n_tokens, std::byte* page) const {
  auto* scales = reinterpret_cast<uint16_t*>(page);
  std::memset(page, 0, shape_.codes_at);
  int16_t codes[kStrip][kMaxHeadDim];
  for (int first = 0; first < kPageTokens; first += kStrip) {
    for (int i = 0; i < kStrip; ++i) {
      const int token = first + i;
      // Codes beyond the head or the last token are 0 and never weigh anything.
      const int padded = std::min((shape_.head_dim + 15) / 16 * 16, kMaxHeadDim);
      std::memset(codes[i], 0, sizeof(int16_t) * padded);
      if (token < n_tokens) {
        QuantizeRow(x_TD + static_cast<std::ptrdiff_t>(token) * shape_.head_dim, token, codes[i],
                    scales);
      }
    }
    PackStrip(codes, first, page);
  }
}

void IntCodec::DecodePage(const std::byte* page, int n_tokens, float* x_TD) const {
  const bool key = shape_.role == KvRole::kKey;
  const int n_lane_blocks = shape_.n_lanes / 16, group = shape_.group, dim = shape_.head_dim;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  float scale[kPageTokens];
  int16_t codes[kMaxTileSteps][32];
  for (int b = 0; b < shape_.n_blocks; ++b) {
    for (int t = 0; t < n_tokens; ++t) scale[t] = F16ToF32(scales[b * kPageTokens + t]);
    const int first = b * shape_.block, end = std::min(first + shape_.block, dim);
    const int row_begin = key ? first / group : 0, lane_begin = key ? 0 : first / 16;
    const int row_end = ((key ? end : n_tokens) + group - 1) / group;
    const int lane_end = ((key ? n_tokens : end) + 15) / 16;
    for (int row = row_begin; row < row_end; ++row) {
      for (int lane = lane_begin; lane < lane_end; ++lane) {
        const std::size_t index = static_cast<std::size_t>(row) * n_lane_blocks + lane;
        UnpackTile(shape_.bits, page + shape_.codes_at + index * shape_.tile_bytes, codes);
        for (int inner = 0; inner < group; ++inner) {
          const int16_t* from = codes[inner / 2] + (inner & 1);
          for (int l = 0; l < 16; ++l) {
            const int token = key ? lane * 16 + l : row * group + inner;
            const int channel = key ? row * group + inner : lane * 16 + l;
            if (token >= n_tokens || channel >= end) break;
            x_TD[token * dim + channel] =
                scale[token] * static_cast<float>(from[2 * l] - shape_.offset);
          }
        }
      }
    }
  }
}

void IntCodec::PrepareQuery(const float* q_GD, int g, std::byte* prepared) const {
  const QueryLayout at = QueryAt(g);
  auto* step = reinterpret_cast<float*>(prepared);
  auto* bias = reinterpret_cast<int32_t*>(prepared + at.bias);
  auto* codes = reinterpret_cast<int16_t*>(prepared + at.codes);
  const int dim = shape_.head_dim;
  for (int i = 0; i < g; ++i) {
    const float* q = q_GD + i * dim;
    int16_t* qi = codes + i * shape_.n_inner;
    float largest = 0;
    for (int d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(MakeFinite(q[d])));
    const bool zero = largest < kSmallestWeight;
    const float inverse = zero ? 0.0f : kWeightLevels / largest;
    step[i] = zero ? 0.0f : largest / kWeightLevels;
    for (int b = 0; b < shape_.n_blocks; ++b) bias[i * shape_.n_blocks + b] = 0;
    for (int d = 0; d < shape_.n_inner; ++d) {
      const float scaled = d < dim ? MakeFinite(q[d]) * inverse : 0.0f;
      qi[d] = static_cast<int16_t>(std::nearbyint(scaled));
      bias[i * shape_.n_blocks + std::min(d / shape_.block, shape_.n_blocks - 1)] +=
          shape_.offset * qi[d];
    }
  }
}

// Codes for a given step: nearest grid place, clamped.
void CodesForScale(const float* x, int n, float d, int half, int16_t* codes) {
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  const float low = static_cast<float>(-half), high = static_cast<float>(half - 1);
  for (int i = 0; i < n; ++i) {
    const float r = std::nearbyint(std::clamp(x[i] * inverse, low, high));
    codes[i] = static_cast<int16_t>(static_cast<int>(r) + half);
  }
}

void QuantizeSearched(const ScaleSearch& search, const float* x, int n, uint16_t* scale,
                      int16_t* codes) {
  const float d = GetIntKernels(ActiveCpuLevel()).search_scale(search, x, n);
  *scale = F32ToF16(d);
  CodesForScale(x, n, d, search.half, codes);
}

}  // namespace

void QuantizeQ8_0(const float* x, int n, uint16_t* scale, int16_t* codes) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127.0f;
  const float inverse = d >= kSmallestWeight ? 1.0f / d : 0.0f;
  *scale = F32ToF16(d);
  for (int i = 0; i < n; ++i) codes[i] = static_cast<int16_t>(std::round(x[i] * inverse));
}

void QuantizeQ4_0(const float* x, int n, uint16_t* scale, int16_t* codes) {
  float largest = 0, extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > largest) {
      largest = std::fabs(x[i]);
      extreme = x[i];
    }
  }
  const float d = extreme / -8.0f;
  const float inverse = std::fabs(d) >= kSmallestWeight ? 1.0f / d : 0.0f;
  *scale = F32ToF16(d);
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<int16_t>(std::min(15, static_cast<int>(x[i] * inverse + 8.5f)));
  }
}

void QuantizeSearched4(const float* x, int n, uint16_t* scale, int16_t* codes) {
  QuantizeSearched({.half = 8, .first = 0.72f, .step = 0.045f}, x, n, scale, codes);
}

void QuantizeSearched3(const float* x, int n, uint16_t* scale, int16_t* codes) {
  QuantizeSearched({.half = 4, .first = 0.52f, .step = 0.072f}, x, n, scale, codes);
}

Result<std::unique_ptr<KvCodec>> MakeIntCodec(const char* id, const IntFormat& format,
                                              const KvCodecParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckHeadDim(id, params.head_dim));
  return std::unique_ptr<KvCodec>(std::make_unique<IntCodec>(format, params));
}

}  // namespace phasor
