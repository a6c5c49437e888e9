#include "kvcodec/int_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/aligned.h"
#include "base/check.h"
#include "kvcodec/hadamard.h"
#include "kvcodec/row_codec.h"
#include "kvcodec/searched_rows.h"
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr float kMaxF16 = 65504.0f;
constexpr int kStrip = 16;  // tokens encoded together: one row of lanes, or whole tiles of tokens
static_assert(kStrip == kStripTokens && kStrip == kStripRows);

// NaN -> 0, everything else into the range of f16.
inline float MakeFinite(float x) {
  x = x != x ? 0.0f : x;
  x = x > kMaxF16 ? kMaxF16 : x;
  return x < -kMaxF16 ? -kMaxF16 : x;
}

std::size_t RoundUp64(std::size_t n) { return (n + 63) / 64 * 64; }

class IntCodec : public KvCodec {
 public:
  IntCodec(const IntFormat& format, const KvCodecParams& params,
           std::unique_ptr<const ValueStretch> stretch)
      : format_(format),
        stretch_(std::move(stretch)),
        feeds_back_(stretch_ != nullptr && format.levels->bits < 8),
        shape_(params.role, params.head_dim, format.levels,
               format.block == 0 ? params.head_dim : format.block) {}

  std::size_t PageBytes() const override { return shape_.page_bytes; }

  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override;
  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override {
    Kernels().decode(shape_, page, n_tokens, x_TD);
  }

  std::size_t PreparedQueryBytes(int g) const override { return QueryAt(g).end; }
  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override;

  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override {
    const PageToScore one = {page, n_tokens, score_GT};
    ScorePages(prepared, g, {&one, 1});
  }
  void ScorePages(const std::byte* prepared, int g,
                  std::span<const PageToScore> pages) const override {
    PHASOR_CHECK(shape_.role == KvRole::kKey);
    const QueryLayout at = QueryAt(g);
    for (const PageToScore& p : pages) {
      Kernels().score({&shape_, p.page, reinterpret_cast<const int16_t*>(prepared + at.codes),
                       reinterpret_cast<const int8_t*>(prepared + at.bytes),
                       reinterpret_cast<const float*>(prepared),
                       reinterpret_cast<const int32_t*>(prepared + at.sum), g, p.n_tokens,
                       p.score_GT, p.next});
    }
  }

  void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                      float* out_GD) const override {
    const PageToAccumulate one = {weight_GT, page, n_tokens};
    AccumulatePages(g, {&one, 1}, out_GD);
  }
  void AccumulatePages(int g, std::span<const PageToAccumulate> pages,
                       float* out_GD) const override {
    PHASOR_CHECK(shape_.role == KvRole::kValue);
    for (const PageToAccumulate& p : pages) {
      Kernels().accumulate({&shape_, p.page, p.weight_GT, g, p.n_tokens, out_GD, p.next});
    }
  }

  bool HasRotation() const override { return format_.hadamard || stretch_ != nullptr; }
  void Rotate(float* x_ND, int n) const override {
    if (stretch_ != nullptr) stretch_->Apply(x_ND, n);
    if (format_.hadamard) HadamardRows(x_ND, n, shape_.head_dim);
  }
  // The Hadamard transform is its own inverse.
  void Unrotate(float* x_ND, int n) const override {
    if (format_.hadamard) HadamardRows(x_ND, n, shape_.head_dim);
    if (stretch_ != nullptr) stretch_->Undo(x_ND, n);
  }

 private:
  // A prepared query: float step [g], int32 sum [g, n_blocks], int16 codes [g, n_inner], the same
  // codes as bytes (IntScoreArgs).
  struct QueryLayout {
    std::size_t sum, codes, bytes, end;
  };
  QueryLayout QueryAt(int g) const {
    QueryLayout at;
    at.sum = RoundUp64(sizeof(float) * g);
    at.codes = at.sum + RoundUp64(sizeof(int32_t) * g * shape_.n_blocks);
    at.bytes = at.codes + RoundUp64(sizeof(int16_t) * g * shape_.n_inner);
    at.end = at.bytes + RoundUp64(sizeof(int16_t) * g * shape_.n_inner);
    return at;
  }

  void QuantizeRow(const float* x, int token, uint8_t* codes, uint16_t* scales) const;
  void PackStrip(const uint8_t (*codes)[kMaxHeadDim], int first, std::byte* page) const;
  void PackColumns(const uint8_t* codes_DT, int first, std::byte* page) const;
  void PackKeyColumns(const uint8_t* codes_DT, int n, int first, std::byte* page) const;

  // Looked up per call: a test may lower the CPU level after the codec was made.
  const IntKernels& Kernels() const { return GetIntKernels(ActiveCpuLevel()); }

  void EncodeSearched(const float* x_TD, int n_tokens, std::byte* page) const;
  void FeedBack(const float* x_TD, int n, uint16_t* scales, uint8_t* codes_DT) const;

  const IntFormat format_;
  const std::unique_ptr<const ValueStretch> stretch_;  // null: none
  const bool feeds_back_;  // whole numbers to 127 leave next to no error to make up for
  const IntPageShape shape_;
};

void IntCodec::QuantizeRow(const float* x, int token, uint8_t* codes, uint16_t* scales) const {
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
void GatherTile(bool key, const uint8_t (*codes)[kMaxHeadDim], int first_column, int group,
                uint32_t (*word)[16]) {
  for (int s = 0; s < group / 4; ++s) {
    if (key) {
      for (int l = 0; l < 16; ++l) {
        std::memcpy(&word[s][l], &codes[l][first_column + 4 * s], sizeof(uint32_t));
      }
      continue;
    }
    const uint8_t* c = codes[4 * s] + first_column;
    for (int l = 0; l < 16; ++l) {
      word[s][l] = c[l] | static_cast<uint32_t>(c[kMaxHeadDim + l]) << 8 |
                   static_cast<uint32_t>(c[2 * kMaxHeadDim + l]) << 16 |
                   static_cast<uint32_t>(c[3 * kMaxHeadDim + l]) << 24;
    }
  }
}

void IntCodec::PackStrip(const uint8_t (*codes)[kMaxHeadDim], int first, std::byte* page) const {
  const bool key = shape_.role == KvRole::kKey;
  const int n_lane_blocks = shape_.n_lanes / 16, group = shape_.group;
  const int row_begin = key ? 0 : first / group;
  const int row_end = key ? shape_.n_inner / group : (first + kStrip) / group;
  const int lane_begin = key ? first / 16 : 0;
  const int lane_end = key ? lane_begin + 1 : n_lane_blocks;
  uint32_t word[kMaxTileSteps][16];
  for (int row = row_begin; row < row_end; ++row) {
    for (int lane = lane_begin; lane < lane_end; ++lane) {
      if (key) GatherTile(true, codes, row * group, group, word);
      if (!key) GatherTile(false, codes + (row - row_begin) * group, lane * 16, group, word);
      const std::size_t index = static_cast<std::size_t>(row) * n_lane_blocks + lane;
      PackTile(shape_.bits, word, page + shape_.codes_at + index * shape_.tile_bytes);
    }
  }
}

// Tiles of values from token `first` on, from codes [padded][kStrip].
void IntCodec::PackColumns(const uint8_t* codes_DT, int first, std::byte* page) const {
  const int group = shape_.group, n_lane_blocks = shape_.n_lanes / 16;
  uint32_t word[kMaxTileSteps][16];
  for (int t = 0; t < kStrip; t += group) {
    for (int lane = 0; lane < n_lane_blocks; ++lane) {
      const uint8_t* codes = codes_DT + 16 * lane * kStrip + t;
      const std::size_t index =
          static_cast<std::size_t>((first + t) / group) * n_lane_blocks + lane;
      std::byte* tile = page + shape_.codes_at + index * shape_.tile_bytes;
      if (shape_.bits == 4) {  // what PackTile does, eight tokens at once
        for (int l = 0; l < 16; ++l) {
          uint64_t eight;
          std::memcpy(&eight, codes + l * kStrip, sizeof(eight));
          const auto packed = static_cast<uint32_t>(eight | eight >> 28);
          std::memcpy(tile + 4 * l, &packed, sizeof(packed));
        }
        continue;
      }
      for (int s = 0; s < group / 4; ++s) {
        for (int l = 0; l < 16; ++l) {
          std::memcpy(&word[s][l], codes + l * kStrip + 4 * s, sizeof(uint32_t));
        }
      }
      PackTile(shape_.bits, word, tile);
    }
  }
}

// Codes [D][kStrip] of n rows to rows, and to the page.
void IntCodec::PackKeyColumns(const uint8_t* codes_DT, int n, int first, std::byte* page) const {
  uint8_t codes[kStrip][kMaxHeadDim];
  const int padded = std::min((shape_.head_dim + 15) / 16 * 16, kMaxHeadDim);
  for (int t = 0; t < kStrip; ++t) {
    std::memset(codes[t], 0, static_cast<std::size_t>(padded));
    for (int d = 0; d < shape_.head_dim && t < n; ++d) codes[t][d] = codes_DT[d * kStrip + t];
  }
  PackStrip(codes, first, page);
}

// Rows of values as codes that make up for each other, and scales to go with them, n rows of a few
// strips.
void IntCodec::FeedBack(const float* x_TD, int n, uint16_t* scales, uint8_t* codes_DT) const {
  const std::size_t size = static_cast<std::size_t>(shape_.n_lanes) * kStrip;
  static thread_local AlignedBuffer<float> floats;
  floats.Resize(kMostStrips * 3 * size);
  const IntLevels& levels = *format_.levels;
  struct Rounding {
    alignas(64) float step[kStrip];
    uint8_t book[kStrip];
  } rounding[kMostStrips];
  FeedbackStrip jobs[kMostStrips];
  int n_strips = 0;
  for (int first = 0; first < n; first += kStrip, ++n_strips) {
    float* x_DT = floats.data() + static_cast<std::size_t>(n_strips) * 3 * size;
    FiniteColumns(x_TD + static_cast<std::ptrdiff_t>(first) * shape_.head_dim,
                  std::min(kStrip, n - first), shape_.head_dim, shape_.n_lanes, x_DT);
    // As they are best for rows that are rounded one by one.
    QuantizeStrip({&levels, x_DT, shape_.head_dim, scales + first, /*codes_DT=*/nullptr});
    Rounding& r = rounding[n_strips];
    for (int t = 0; t < kStrip; ++t) {
      r.step[t] = F16ToF32(scales[first + t]);
      r.book[t] = static_cast<uint8_t>(scales[first + t] & ((1 << levels.book_bits) - 1));
    }
    jobs[n_strips] = {x_DT,
                      shape_.head_dim,
                      stretch_->feedback().data(),
                      r.step,
                      &NearestTablesOf(levels),
                      r.book,
                      x_DT + size,
                      x_DT + 2 * size,
                      codes_DT + static_cast<std::size_t>(n_strips) * size};
  }
  FeedBackStrips({jobs, static_cast<std::size_t>(n_strips)});
  for (int i = 0; i < n_strips; ++i) {
    alignas(64) float square[kStrip], product[kStrip];
    stretch_->WeighStrip(jobs[i].x_DT, jobs[i].level_DT, square, product);
    LengthenScales(levels, square, product, scales + i * kStrip);
  }
}

void IntCodec::EncodeSearched(const float* x_TD, int n_tokens, std::byte* page) const {
  constexpr int kTogether = kMostStrips * kStrip;
  const int D = shape_.head_dim;
  const bool key = shape_.role == KvRole::kKey;
  auto* scales = reinterpret_cast<uint16_t*>(page);
  const int padded = (D + 15) / 16 * 16;
  const std::size_t strip_codes = static_cast<std::size_t>(padded) * kStrip;
  static thread_local AlignedBuffer<float> columns;
  alignas(64) uint8_t codes[kTogether * kMaxHeadDim];
  for (int first = 0; first < n_tokens; first += kTogether) {
    const int n = std::min(kTogether, n_tokens - first);
    const float* x = x_TD + static_cast<std::ptrdiff_t>(first) * D;
    if (feeds_back_) FeedBack(x, n, scales + first, codes);
    for (int at = 0; at < n; at += kStrip) {
      uint8_t* codes_DT = codes + static_cast<std::size_t>(at / kStrip) * strip_codes;
      const int rows = std::min(kStrip, n - at);
      if (!feeds_back_) {
        columns.Resize(static_cast<std::size_t>(padded) * kStrip);
        FiniteColumns(x + static_cast<std::ptrdiff_t>(at) * D, rows, D, padded, columns.data());
        QuantizeStrip({format_.levels, columns.data(), D, scales + first + at, codes_DT});
      }
      if (key) {
        PackKeyColumns(codes_DT, rows, first + at, page);
        continue;
      }
      // Codes beyond the head or the last token are 0.
      std::fill(codes_DT + D * kStrip, codes_DT + strip_codes, uint8_t{0});
      for (int d = 0; d < D && rows < kStrip; ++d) {
        std::fill(codes_DT + d * kStrip + rows, codes_DT + (d + 1) * kStrip, uint8_t{0});
      }
      PackColumns(codes_DT, first + at, page);
    }
  }
}

void IntCodec::EncodePage(const float* x_TD, int n_tokens, std::byte* page) const {
  if (format_.quantize == nullptr) {
    std::memset(page, 0, shape_.page_bytes);
    return EncodeSearched(x_TD, n_tokens, page);
  }
  auto* scales = reinterpret_cast<uint16_t*>(page);
  std::memset(page, 0, shape_.codes_at);
  uint8_t codes[kStrip][kMaxHeadDim];
  for (int first = 0; first < kPageTokens; first += kStrip) {
    for (int i = 0; i < kStrip; ++i) {
      const int token = first + i;
      // Codes beyond the head or the last token are 0 and never weigh anything.
      const int padded = std::min((shape_.head_dim + 15) / 16 * 16, kMaxHeadDim);
      std::memset(codes[i], 0, padded);
      if (token < n_tokens) {
        QuantizeRow(x_TD + static_cast<std::ptrdiff_t>(token) * shape_.head_dim, token, codes[i],
                    scales);
      }
    }
    PackStrip(codes, first, page);
  }
}

void IntCodec::PrepareQuery(const float* q_GD, int g, std::byte* prepared) const {
  const QueryLayout at = QueryAt(g);
  auto* step = reinterpret_cast<float*>(prepared);
  auto* sum = reinterpret_cast<int32_t*>(prepared + at.sum);
  auto* codes = reinterpret_cast<int16_t*>(prepared + at.codes);
  auto* bytes = reinterpret_cast<int8_t*>(prepared + at.bytes);
  const int dim = shape_.head_dim;
  for (int i = 0; i < g; ++i) {
    const float* q = q_GD + i * dim;
    float largest = 0;
    for (int d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(MakeFinite(q[d])));
    const bool zero = largest < kSmallestWeight;
    const float inverse = zero ? 0.0f : kQueryLevels / largest;
    step[i] = zero ? 0.0f : largest / kQueryLevels;
    for (int b = 0; b < shape_.n_blocks; ++b) sum[i * shape_.n_blocks + b] = 0;
    for (int d = 0; d < shape_.n_inner; ++d) {
      const float scaled = d < dim ? MakeFinite(q[d]) * inverse : 0.0f;
      const int code = static_cast<int>(std::lrint(scaled));
      codes[i * shape_.n_inner + d] = static_cast<int16_t>(code);
      sum[i * shape_.n_blocks + std::min(d / shape_.block, shape_.n_blocks - 1)] += code;
      int8_t* byte = bytes + 2 * (i * shape_.n_inner + (d & ~3)) + (d & 3);
      const int high = (code + 64) >> 7;
      byte[0] = static_cast<int8_t>(high);
      byte[4] = static_cast<int8_t>(code - 128 * high);
    }
  }
}

}  // namespace

Result<std::unique_ptr<KvCodec>> MakeIntCodec(const char* id, const IntFormat& format,
                                              const KvCodecParams& params,
                                              std::unique_ptr<const ValueStretch> stretch) {
  PHASOR_RETURN_IF_ERROR(CheckHeadDim(id, params.head_dim));
  return std::unique_ptr<KvCodec>(std::make_unique<IntCodec>(format, params, std::move(stretch)));
}

Result<std::unique_ptr<KvCodec>> MakeHeadRowCodec(const char* id, int bits,
                                                  const KvCodecParams& params) {
  static constexpr IntFormat kFormats[] = {
      {.levels = &kLevelsSearched3, .block = 0, .hadamard = true, .quantize = nullptr},
      {.levels = &kLevelsSearched4, .block = 0, .hadamard = true, .quantize = nullptr},
      {.levels = &kLevels8, .block = 0, .hadamard = true, .quantize = QuantizeQ8_0}};
  if (params.role == KvRole::kValue && !params.classes.empty()) {
    if (params.classes.size() != 1) {
      return InvalidArgument(std::string(id) + ": expected one width for a head of values, found " +
                             std::to_string(params.classes.size()));
    }
    bits = params.classes[0];
  }
  std::unique_ptr<const ValueStretch> stretch;
  if (params.role == KvRole::kValue && !params.factor_N.empty()) {
    PHASOR_RETURN_IF_ERROR(CheckHeadDim(id, params.head_dim));
    PHASOR_ASSIGN_OR_RETURN(ValueStretch made, ValueStretch::Make(id, params));
    stretch = std::make_unique<const ValueStretch>(std::move(made));
  }
  for (const IntFormat& format : kFormats) {
    if (format.levels->bits == bits) return MakeIntCodec(id, format, params, std::move(stretch));
  }
  return InvalidArgument(std::string(id) + ": expected a width of 3, 4 or 8 bits, found " +
                         std::to_string(bits));
}

}  // namespace phasor
