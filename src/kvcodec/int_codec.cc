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
  x = x != x ? 0.0f : x;
  x = x > kMaxF16 ? kMaxF16 : x;
  return x < -kMaxF16 ? -kMaxF16 : x;
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

// One tile from codes[lane][inner] (keys) or codes[inner][lane] (values).
void GatherTile(bool key, const int16_t (*codes)[kMaxHeadDim], int first_column, int group,
                int16_t (*tile)[32]) {
  for (int s = 0; s < group / 2; ++s) {
    if (key) {
      for (int l = 0; l < 16; ++l) {
        std::memcpy(&tile[s][2 * l], &codes[l][first_column + 2 * s], 2 * sizeof(int16_t));
      }
      continue;
    }
    const int16_t* even = codes[2 * s] + first_column;
    const int16_t* odd = codes[2 * s + 1] + first_column;
    for (int l = 0; l < 16; ++l) {
      tile[s][2 * l] = even[l];
      tile[s][2 * l + 1] = odd[l];
    }
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
      if (key) GatherTile(true, codes, row * group, group, tile);
      if (!key) GatherTile(false, codes + (row - row_begin) * group, lane * 16, group, tile);
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

// Numbers of one tile: out_TC[token][channel] of a full tile, a row of out_TC is `stride` floats.
void ScatterTile(bool key, const int16_t (*codes)[32], int group, int offset, const float* scale,
                 float* out_TC, int stride) {
  if (key) {
    for (int l = 0; l < 16; ++l) {
      float* out = out_TC + l * stride;
      for (int s = 0; s < group / 2; ++s) {
        out[2 * s] = scale[l] * static_cast<float>(codes[s][2 * l] - offset);
        out[2 * s + 1] = scale[l] * static_cast<float>(codes[s][2 * l + 1] - offset);
      }
    }
    return;
  }
  for (int s = 0; s < group / 2; ++s) {
    float* even = out_TC + 2 * s * stride;
    float* odd = even + stride;
    for (int l = 0; l < 16; ++l) {
      even[l] = scale[2 * s] * static_cast<float>(codes[s][2 * l] - offset);
      odd[l] = scale[2 * s + 1] * static_cast<float>(codes[s][2 * l + 1] - offset);
    }
  }
}

void IntCodec::DecodePage(const std::byte* page, int n_tokens, float* x_TD) const {
  const bool key = shape_.role == KvRole::kKey;
  const int n_lane_blocks = shape_.n_lanes / 16, group = shape_.group, dim = shape_.head_dim;
  // Tokens and channels of one tile.
  const int tile_tokens = key ? 16 : group, tile_channels = key ? group : 16;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  float scale[kPageTokens], edge[16][16];
  int16_t codes[kMaxTileSteps][32];
  for (int b = 0; b < shape_.n_blocks; ++b) {
    for (int t = 0; t < kPageTokens; ++t) scale[t] = F16ToF32(scales[b * kPageTokens + t]);
    const int begin = b * shape_.block, end = std::min(begin + shape_.block, dim);
    for (int t = 0; t < n_tokens; t += tile_tokens) {
      for (int c = begin; c < end; c += tile_channels) {
        const std::size_t index =
            key ? static_cast<std::size_t>(c / group) * n_lane_blocks + t / 16
                : static_cast<std::size_t>(t / group) * n_lane_blocks + c / 16;
        UnpackTile(shape_.bits, page + shape_.codes_at + index * shape_.tile_bytes, codes);
        if (t + tile_tokens <= n_tokens && c + tile_channels <= end) {
          ScatterTile(key, codes, group, shape_.offset, scale + t, x_TD + t * dim + c, dim);
          continue;
        }
        ScatterTile(key, codes, group, shape_.offset, scale + t, edge[0], 16);
        const std::size_t n_channels = std::min(tile_channels, end - c);
        for (int i = 0; i < std::min(tile_tokens, n_tokens - t); ++i) {
          std::memcpy(x_TD + (t + i) * dim + c, edge[i], sizeof(float) * n_channels);
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

// Codes for a given step: nearest grid place, clamped. Written so that compilers vectorise it.
void CodesForScale(const float* x, int n, float d, int half, int16_t* codes) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  const float low = static_cast<float>(-half), high = static_cast<float>(half - 1);
  for (int i = 0; i < n; ++i) {
    float r = x[i] * inverse;
    r = r < low ? low : r;
    r = r > high ? high : r;
    r = r + kRound;
    r = r - kRound;
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
  for (int i = 0; i < n; ++i) {
    // std::round, halves away from zero, in steps that vectorise.
    const float a = std::fabs(x[i] * inverse);
    const int whole = static_cast<int>(a);
    const int up = a - static_cast<float>(whole) >= 0.5f ? whole + 1 : whole;
    codes[i] = static_cast<int16_t>(x[i] < 0 ? -up : up);
  }
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
