// Page shape, tiles, the plain C++ kernel set and the choice between the sets.
#include "kvcodec/int_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/half.h"

namespace phasor {

IntPageShape::IntPageShape(KvRole role_in, int head_dim_in, int bits_in, int block_in)
    : role(role_in), head_dim(head_dim_in), bits(bits_in), block(block_in) {
  PHASOR_CHECK(bits == 3 || bits == 4 || bits == 8);
  PHASOR_CHECK(block == head_dim || block % 16 == 0);
  offset = bits == 8 ? 0 : 1 << (bits - 1);
  n_blocks = (head_dim + block - 1) / block;
  group = bits == 3 ? 16 : 8;
  const int inner = role == KvRole::kKey ? head_dim : kPageTokens;
  const int lanes = role == KvRole::kKey ? kPageTokens : head_dim;
  n_inner = (inner + group - 1) / group * group;
  n_lanes = (lanes + 15) / 16 * 16;
  tile_bytes = 16 * group * bits / 8;
  codes_at = sizeof(uint16_t) * kPageTokens * n_blocks;
  page_bytes = codes_at + static_cast<std::size_t>(n_inner / group) * (n_lanes / 16) * tile_bytes;
}

void PackTile(int bits, const int16_t (*codes)[32], std::byte* tile) {
  if (bits == 8) {
    auto* b = reinterpret_cast<int8_t*>(tile);
    for (int s = 0; s < 4; ++s) {
      for (int j = 0; j < 32; ++j) b[32 * s + j] = static_cast<int8_t>(codes[s][j]);
    }
    return;
  }
  uint16_t word[32] = {};
  if (bits == 4) {
    for (int s = 0; s < 4; ++s) {
      for (int j = 0; j < 32; ++j) word[j] |= static_cast<uint16_t>(codes[s][j] << (4 * s));
    }
    std::memcpy(tile, word, sizeof(word));
    return;
  }
  uint8_t high[32] = {};
  for (int s = 0; s < 8; ++s) {
    for (int j = 0; j < 32; ++j) {
      word[j] |= static_cast<uint16_t>((codes[s][j] & 3) << (2 * s));
      high[j] |= static_cast<uint8_t>((codes[s][j] >> 2) << s);
    }
  }
  std::memcpy(tile, word, sizeof(word));
  std::memcpy(tile + sizeof(word), high, sizeof(high));
}

void UnpackTile(int bits, const std::byte* tile, int16_t (*codes)[32]) {
  if (bits == 8) {
    const auto* b = reinterpret_cast<const int8_t*>(tile);
    for (int s = 0; s < 4; ++s) {
      for (int j = 0; j < 32; ++j) codes[s][j] = b[32 * s + j];
    }
    return;
  }
  uint16_t word[32];
  std::memcpy(word, tile, sizeof(word));
  if (bits == 4) {
    for (int s = 0; s < 4; ++s) {
      for (int j = 0; j < 32; ++j) codes[s][j] = static_cast<int16_t>(word[j] >> (4 * s) & 15);
    }
    return;
  }
  uint8_t high[32];
  std::memcpy(high, tile + sizeof(word), sizeof(high));
  for (int s = 0; s < 8; ++s) {
    for (int j = 0; j < 32; ++j) {
      codes[s][j] = static_cast<int16_t>((word[j] >> (2 * s) & 3) | (high[j] >> s & 1) << 2);
    }
  }
}

namespace {

inline float RoundToF16(float x) { return F16ToF32(F32ToF16(x)); }

#include "kvcodec/int_kernels-inl.h"

struct Plain {
  static constexpr int kMaxLaneBlocks = 1;

  // acc[i][l] = sum over tile rows [first, end) of code * w.
  template <int BITS, int G>
  static void Dot(const IntPageShape& shape, const std::byte* page, int lane, int first, int end,
                  uint64_t groups, const int16_t* w, int w_stride, int32_t (*acc)[16]) {
    int16_t codes[kMaxTileSteps][32] = {};
    for (int i = 0; i < G; ++i) std::memset(acc[i], 0, sizeof(acc[i]));
    for (int row = first; row < end; ++row) {
      if ((groups >> ((row - first) & 63) & 1) == 0) continue;
      const std::size_t tile = static_cast<std::size_t>(row) * (shape.n_lanes / 16) + lane;
      UnpackTile(BITS, page + shape.codes_at + tile * shape.tile_bytes, codes);
      for (int i = 0; i < G; ++i) {
        const int16_t* wi = w + i * w_stride + row * shape.group;
        for (int s = 0; s < shape.group / 2; ++s) {
          for (int l = 0; l < 16; ++l) {
            acc[i][l] += codes[s][2 * l] * wi[2 * s] + codes[s][2 * l + 1] * wi[2 * s + 1];
          }
        }
      }
    }
  }

  template <int BITS, int G, int NB>
  static void ScoreLanes(const IntScoreArgs& a, int head, int lane) {
    const IntPageShape& shape = *a.shape;
    const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
    const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
    int32_t acc[G][16];
    for (int b = 0; b < shape.n_blocks; ++b) {
      const int end = b + 1 == shape.n_blocks ? n_rows : (b + 1) * rows_per_block;
      Dot<BITS, G>(shape, a.page, lane, b * rows_per_block, end, ~0ull, a.q + head * shape.n_inner,
                   shape.n_inner, acc);
      for (int i = 0; i < G; ++i) {
        float* score = a.score_GT + (head + i) * kPageTokens + 16 * lane;
        const int32_t bias = a.q_bias[(head + i) * shape.n_blocks + b];
        for (int l = 0; l < 16; ++l) {
          const float scale = F16ToF32(scales[b * kPageTokens + 16 * lane + l]);
          const float term = static_cast<float>(acc[i][l] - bias) * (a.q_step[head + i] * scale);
          score[l] = b == 0 ? term : score[l] + term;
        }
      }
    }
  }

  static uint32_t QuantizeWeights(const float* weight, const uint16_t* scale, int n_tokens,
                                  int16_t* w, float* step, int32_t* sum) {
    float product[kPageTokens], largest = 0;
    for (int t = 0; t < n_tokens; ++t) {
      product[t] = weight[t] * F16ToF32(scale[t]);
      largest = std::max(largest, std::fabs(product[t]));
    }
    std::memset(w, 0, sizeof(int16_t) * kPageTokens);
    *step = 0;
    if (!(largest >= kSmallestWeight)) return 0;
    const float inverse = kWeightLevels / largest;
    *step = largest / kWeightLevels;
    uint32_t octets = 0;
    for (int t = 0; t < n_tokens; ++t) {
      w[t] = static_cast<int16_t>(std::nearbyint(product[t] * inverse));
      *sum += w[t];
      if (w[t] != 0) octets |= 1u << (t / 8);
    }
    return octets;
  }

  template <int BITS, int G, int NB>
  static void AccumulateLanes(const IntAccumulateArgs& a, const BlockWeights& weights, int head,
                              int lane) {
    const IntPageShape& shape = *a.shape;
    int32_t acc[G][16];
    Dot<BITS, G>(shape, a.page, lane, 0, kPageTokens / shape.group, weights.groups, weights.w[0],
                 kPageTokens, acc);
    for (int i = 0; i < G; ++i) {
      for (int l = 0; l < 16 && 16 * lane + l < shape.head_dim; ++l) {
        a.out_GD[(head + i) * shape.head_dim + 16 * lane + l] +=
            static_cast<float>(acc[i][l] - weights.bias[i]) * weights.step[i];
      }
    }
  }
};

constexpr IntKernels kScalarSet = {Score<Plain>, Accumulate<Plain>, SearchScale};

}  // namespace

const IntKernels& GetIntKernels(CpuLevel level) {
  const IntKernels* set = nullptr;
  if (level == CpuLevel::kAvx512) set = IntKernelsAvx512();
  if (level == CpuLevel::kAvx2) set = IntKernelsAvx2();
  return set != nullptr ? *set : kScalarSet;
}

}  // namespace phasor
