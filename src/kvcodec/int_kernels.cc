// Page shape, tiles, the plain C++ kernel set and the choice between the sets.
#include "kvcodec/int_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/half.h"

namespace phasor {

IntPageShape::IntPageShape(KvRole role_in, int head_dim_in, const IntLevels* levels_in,
                           int block_in)
    : role(role_in),
      head_dim(head_dim_in),
      bits(levels_in->bits),
      levels(levels_in),
      block(block_in) {
  PHASOR_CHECK(bits == 3 || bits == 4 || bits == 8);
  PHASOR_CHECK(block == head_dim || block % 16 == 0);
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

void PackTile(int bits, const uint32_t (*word)[16], std::byte* tile) {
  uint32_t out[32] = {};
  if (bits == 8) {
    std::memcpy(tile, word, 2 * sizeof(word[0]));
    return;
  }
  if (bits == 4) {
    for (int l = 0; l < 16; ++l) out[l] = word[0][l] | word[1][l] << 4;
    std::memcpy(tile, out, sizeof(word[0]));
    return;
  }
  uint32_t high[16] = {};
  for (int s = 0; s < 4; ++s) {
    for (int l = 0; l < 16; ++l) {
      out[l] |= (word[s][l] & 0x03030303u) << (2 * s);
      high[l] |= (word[s][l] >> 2 & 0x01010101u) << s;
    }
  }
  for (int l = 0; l < 8; ++l) out[16 + l] = high[l] | high[8 + l] << 4;
  std::memcpy(tile, out, 96);
}

void UnpackTile(int bits, const std::byte* tile, uint32_t (*word)[16]) {
  uint32_t in[24];
  if (bits == 8) {
    std::memcpy(word, tile, 2 * sizeof(word[0]));
    return;
  }
  if (bits == 4) {
    std::memcpy(in, tile, sizeof(word[0]));
    for (int l = 0; l < 16; ++l) {
      word[0][l] = in[l] & 0x0f0f0f0fu;
      word[1][l] = in[l] >> 4 & 0x0f0f0f0fu;
    }
    return;
  }
  std::memcpy(in, tile, sizeof(in));
  for (int s = 0; s < 4; ++s) {
    for (int l = 0; l < 16; ++l) {
      const uint32_t high = in[16 + (l & 7)] >> (s + 4 * (l >> 3)) & 0x01010101u;
      word[s][l] = (in[l] >> (2 * s) & 0x03030303u) | high << 2;
    }
  }
}

namespace {

constexpr ThresholdTable MakeThresholds() {
  ThresholdTable t{};
  for (std::size_t i = 0; i < t.at.size(); ++i) {
    // The fraction of i / golden ratio, to 24 bits.
    t.at[i] = static_cast<float>(static_cast<uint32_t>(i) * 2654435769u >> 8) * 0x1p-24f;
  }
  return t;
}

// level[s][l][b]: the levels of one tile.
struct TileLevels {
  int8_t level[kMaxTileSteps][16][4];
};

TileLevels LoadTile(const IntPageShape& shape, const std::byte* page, int block, int row,
                    int lane_block) {
  const auto* scales = reinterpret_cast<const uint16_t*>(page) + block * kPageTokens;
  const std::size_t tile = static_cast<std::size_t>(row) * (shape.n_lanes / 16) + lane_block;
  const int book_mask = (1 << shape.levels->book_bits) - 1;
  uint32_t word[kMaxTileSteps][16];
  UnpackTile(shape.bits, page + shape.codes_at + tile * shape.tile_bytes, word);
  TileLevels out;
  for (int s = 0; s < shape.group / 4; ++s) {
    for (int l = 0; l < 16; ++l) {
      for (int b = 0; b < 4; ++b) {
        const int token =
            shape.role == KvRole::kKey ? 16 * lane_block + l : row * shape.group + 4 * s + b;
        const int code = word[s][l] >> (8 * b) & 255, book = scales[token] & book_mask;
        out.level[s][l][b] = shape.bits == 8 ? static_cast<int8_t>(code)
                                             : shape.levels->level[book << shape.bits | code];
      }
    }
  }
  return out;
}

void Score(const IntScoreArgs& a) {
  const IntPageShape& shape = *a.shape;
  const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
  for (int lane = 0; 16 * lane < a.n_tokens; ++lane) {
    for (int b = 0; b < shape.n_blocks; ++b) {
      const int begin = b * rows_per_block;
      const int end = b + 1 == shape.n_blocks ? n_rows : begin + rows_per_block;
      for (int i = 0; i < a.g; ++i) {
        int32_t sum[16] = {};
        for (int row = begin; row < end; ++row) {
          const TileLevels tile = LoadTile(shape, a.page, b, row, lane);
          const int16_t* q = a.q + i * shape.n_inner + row * shape.group;
          for (int j = 0; j < shape.group; ++j) {
            for (int l = 0; l < 16; ++l) sum[l] += tile.level[j / 4][l][j % 4] * q[j];
          }
        }
        float* score = a.score_GT + i * kPageTokens + 16 * lane;
        for (int l = 0; l < 16; ++l) {
          const float scale = F16ToF32(scales[b * kPageTokens + 16 * lane + l]);
          const float term = static_cast<float>(sum[l]) * (a.q_step[i] * scale);
          score[l] = b == 0 ? term : score[l] + term;
        }
      }
    }
  }
}

// w[t] * step is close to weight * |scale|. Returns step; 0 when no weight counts.
float QuantizeWeights(const IntPageShape& shape, const float* weight, const uint16_t* scale,
                      const float* threshold, int n_tokens, int32_t* w) {
  float product[kPageTokens], largest = 0;
  for (int t = 0; t < kPageTokens; ++t) {
    product[t] = t < n_tokens ? weight[t] * std::fabs(F16ToF32(scale[t])) : 0;
    largest = std::max(largest, product[t]);
  }
  std::fill(w, w + kPageTokens, 0);
  if (!(largest >= kSmallestWeight)) return 0;
  const int n_levels = shape.bits == 8 ? kWeightLevels : kByteWeightLevels;
  const float inverse = static_cast<float>(n_levels) / largest;
  const float step = largest / static_cast<float>(n_levels);
  for (int t = 0; t < n_tokens; ++t) {
    if (shape.bits == 8) {
      w[t] = static_cast<int32_t>(std::nearbyint(product[t] * inverse));
    } else {
      w[t] = std::min(255, static_cast<int32_t>(std::fma(product[t], inverse, threshold[t])));
    }
  }
  return step;
}

void Accumulate(const IntAccumulateArgs& a) {
  const IntPageShape& shape = *a.shape;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
  const int n_rows = (a.n_tokens + shape.group - 1) / shape.group;
  int32_t w[kPageTokens];
  for (int i = 0; i < a.g; ++i) {
    for (int b = 0; b < shape.n_blocks; ++b) {
      const uint16_t* scale = scales + b * kPageTokens;
      const float step = QuantizeWeights(shape, a.weight_GT + i * kPageTokens, scale,
                                         Thresholds(scale, i), a.n_tokens, w);
      const int end = std::min(shape.head_dim, (b + 1) * shape.block);
      for (int channel = b * shape.block; channel < end; channel += 16) {
        int32_t sum[16] = {};
        for (int row = 0; row < n_rows; ++row) {
          const TileLevels tile = LoadTile(shape, a.page, b, row, channel / 16);
          for (int j = 0; j < shape.group; ++j) {
            const int t = row * shape.group + j;
            const int32_t signed_w = (scale[t] & 0x8000) != 0 ? -w[t] : w[t];
            for (int l = 0; l < 16; ++l) sum[l] += tile.level[j / 4][l][j % 4] * signed_w;
          }
        }
        float* out = a.out_GD + i * shape.head_dim + channel;
        for (int l = 0; l < std::min(16, end - channel); ++l) {
          out[l] = std::fma(static_cast<float>(sum[l]), step, out[l]);
        }
      }
    }
  }
}

void Decode(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const bool key = shape.role == KvRole::kKey;
  const int tile_tokens = key ? 16 : shape.group, tile_channels = key ? shape.group : 16;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  for (int b = 0; b < shape.n_blocks; ++b) {
    const int end = std::min((b + 1) * shape.block, shape.head_dim);
    for (int t = 0; t < n_tokens; t += tile_tokens) {
      for (int c = b * shape.block; c < end; c += tile_channels) {
        const TileLevels tile = LoadTile(shape, page, b, key ? c / shape.group : t / shape.group,
                                         key ? t / 16 : c / 16);
        for (int i = 0; i < std::min(tile_tokens, n_tokens - t); ++i) {
          const float scale = F16ToF32(scales[b * kPageTokens + t + i]);
          for (int j = 0; j < std::min(tile_channels, end - c); ++j) {
            const int inner = key ? j : i, lane = key ? i : j;
            x_TD[(t + i) * shape.head_dim + c + j] =
                scale * static_cast<float>(tile.level[inner / 4][lane][inner % 4]);
          }
        }
      }
    }
  }
}

void Search(const IntSearchArgs& a) {
  for (int step = 0; step < kSearchSteps; ++step) {
    for (int v = 0; v < 2 * a.n_books; ++v) {
      int32_t* error = a.error[step][v];
      std::fill_n(error, 16, 0);
      for (int i = 0; i < a.n; ++i) {
        for (int t = 0; t < 16; ++t) {
          const int x = static_cast<int>(std::nearbyint(a.x_DT[16 * i + t] * a.inverse[step][t]));
          const int y = (v & 1) != 0 ? -x : x;
          const int e = y - a.nearest[v / 2][std::clamp(y, -64, 63) & 127];
          error[t] += e * e;
        }
      }
    }
  }
}

constexpr IntKernels kScalarSet = {Score, Accumulate, Decode, Search};

}  // namespace

constinit const ThresholdTable kThresholds = MakeThresholds();

const IntKernels& GetIntKernels(CpuLevel level) {
  const IntKernels* set = nullptr;
  if (level == CpuLevel::kAvx512Vnni) set = IntKernelsAvx512Vnni();
  if (level == CpuLevel::kAvx512) set = IntKernelsAvx512();
  if (level == CpuLevel::kAvx2) set = IntKernelsAvx2();
  if (level == CpuLevel::kNeon) set = IntKernelsNeon();
  if (level == CpuLevel::kNeonDot) set = IntKernelsNeonDot();
  return set != nullptr ? *set : kScalarSet;
}

}  // namespace phasor
