// NEON: rows in vectors of 4, two at a time where they are 16 bits wide. Scores take two tokens and
// up to four queries at a time, accumulation 16 channels of up to four outputs; the rest of a row
// goes through plain code. One set for both NEON levels: there are no byte products here.
#include "kvcodec/row_kernels.h"

#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include "simd/neon-inl.h"
#include "tensor/half.h"

namespace phasor {
namespace {

// NaN -> 0, infinity -> +-65504, then |x| <= limit.
PHASOR_INLINE float32x4_t MakeFinite(float32x4_t x, float limit) {
  const float32x4_t size = vabsq_f32(x);
  const uint32x4_t infinite = vceqq_f32(size, vdupq_n_f32(__builtin_inff()));
  float32x4_t m = vbslq_f32(infinite, vdupq_n_f32(65504.0f), size);
  m = vbslq_f32(vdupq_n_u32(0x80000000u), x, vminq_f32(m, vdupq_n_f32(limit)));
  return vbslq_f32(vceqq_f32(x, x), m, vdupq_n_f32(0.0f));
}

struct Eight {
  float32x4_t low, high;
};

struct F32Row {
  using Stored = float;
  static Eight Load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static float Load1(const float* p) { return *p; }
  static void Store(float* p, Eight x) {
    vst1q_f32(p, MakeFinite(x.low, 0x1.fffffep127f));
    vst1q_f32(p + 4, MakeFinite(x.high, 0x1.fffffep127f));
  }
};

struct F16Row {
  using Stored = uint16_t;
  static Eight Load(const uint16_t* p) {
    const float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p));
    return {vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
  }
  static float Load1(const uint16_t* p) { return F16ToF32(*p); }
  static void Store(uint16_t* p, Eight x) {
    const float16x4_t low = vcvt_f16_f32(MakeFinite(x.low, 65504.0f));
    const float16x8_t h = vcvt_high_f16_f32(low, MakeFinite(x.high, 65504.0f));
    vst1q_u16(p, vreinterpretq_u16_f16(h));
  }
};

struct Bf16Row {
  using Stored = uint16_t;
  static Eight Load(const uint16_t* p) {
    const uint16x8_t h = vld1q_u16(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
            vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
  }
  static float Load1(const uint16_t* p) { return Bf16ToF32(*p); }
  static uint32x4_t Round(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(MakeFinite(x, 0x1.fep127f));
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  }
  static void Store(uint16_t* p, Eight x) {
    vst1q_u16(p, vshrn_high_n_u32(vshrn_n_u32(Round(x.low), 16), Round(x.high), 16));
  }
};

template <typename Row>
void Encode(const float* x, std::size_t n, void* out) {
  auto* stored = static_cast<typename Row::Stored*>(out);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) Row::Store(stored + i, F32Row::Load(x + i));
  if (i == n) return;
  float in[8] = {};
  typename Row::Stored last[8];
  for (std::size_t j = i; j < n; ++j) in[j - i] = x[j];
  Row::Store(last, F32Row::Load(in));
  for (std::size_t j = i; j < n; ++j) stored[j] = last[j - i];
}

template <typename Row>
void Decode(const void* in, std::size_t n, float* out) {
  const auto* stored = static_cast<const typename Row::Stored*>(in);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const Eight x = Row::Load(stored + i);
    vst1q_f32(out + i, x.low);
    vst1q_f32(out + i + 4, x.high);
  }
  for (; i < n; ++i) out[i] = Row::Load1(stored + i);
}

template <typename Row, int G>
void ScoreHeads(const float* q_GP, const void* in, int head_dim, int n_tokens, float* score_GT) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  const int stride = PaddedHeadDim(head_dim);
  for (int t = 0; t < n_tokens; t += 2) {
    const auto* row0 = rows + t * head_dim;
    const auto* row1 = t + 1 < n_tokens ? row0 + head_dim : row0;  // never past the last token
    float32x4_t acc[G][4];
    PHASOR_UNROLL for (int i = 0; i < 4 * G; ++i) acc[i / 4][i % 4] = vdupq_n_f32(0.0f);
    int d = 0;
    for (; d + 8 <= head_dim; d += 8) {
      const Eight k0 = Row::Load(row0 + d), k1 = Row::Load(row1 + d);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const Eight q = F32Row::Load(q_GP + i * stride + d);
        acc[i][0] = vfmaq_f32(acc[i][0], q.low, k0.low);
        acc[i][1] = vfmaq_f32(acc[i][1], q.high, k0.high);
        acc[i][2] = vfmaq_f32(acc[i][2], q.low, k1.low);
        acc[i][3] = vfmaq_f32(acc[i][3], q.high, k1.high);
      }
    }
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float sum0 = vaddvq_f32(vaddq_f32(acc[i][0], acc[i][1]));
      float sum1 = vaddvq_f32(vaddq_f32(acc[i][2], acc[i][3]));
      for (int e = d; e < head_dim; ++e) {
        sum0 += q_GP[i * stride + e] * Row::Load1(row0 + e);
        sum1 += q_GP[i * stride + e] * Row::Load1(row1 + e);
      }
      score_GT[i * kPageTokens + t] = sum0;
      score_GT[i * kPageTokens + t + 1] = sum1;  // inside the row: t is even
    }
  }
}

template <typename Row, int G>
void AccumulateHeads(const float* weight_GT, const void* in, int head_dim, int n_tokens,
                     float* out_GD) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  int d = 0;
  for (; d + 16 <= head_dim; d += 16) {
    float32x4_t acc[G][4];
    PHASOR_UNROLL for (int i = 0; i < 4 * G; ++i) {
      acc[i / 4][i % 4] = vld1q_f32(out_GD + i / 4 * head_dim + d + i % 4 * 4);
    }
    const auto* row = rows + d;
    for (int t = 0; t < n_tokens; ++t, row += head_dim) {
      const Eight v0 = Row::Load(row), v1 = Row::Load(row + 8);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const float w = weight_GT[i * kPageTokens + t];
        acc[i][0] = vfmaq_n_f32(acc[i][0], v0.low, w);
        acc[i][1] = vfmaq_n_f32(acc[i][1], v0.high, w);
        acc[i][2] = vfmaq_n_f32(acc[i][2], v1.low, w);
        acc[i][3] = vfmaq_n_f32(acc[i][3], v1.high, w);
      }
    }
    PHASOR_UNROLL for (int i = 0; i < 4 * G; ++i) {
      vst1q_f32(out_GD + i / 4 * head_dim + d + i % 4 * 4, acc[i / 4][i % 4]);
    }
  }
  for (; d < head_dim; ++d) {
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float sum = 0;
      for (int t = 0; t < n_tokens; ++t) {
        sum += weight_GT[i * kPageTokens + t] * Row::Load1(rows + t * head_dim + d);
      }
      out_GD[i * head_dim + d] += sum;
    }
  }
}

template <typename Row>
void Score(const float* q_GP, int g, const void* rows, int head_dim, int n_tokens,
           float* score_GT) {
  const int stride = PaddedHeadDim(head_dim);
  for (; g > 0; g -= 4, q_GP += 4 * stride, score_GT += 4 * kPageTokens) {
    if (g >= 4) ScoreHeads<Row, 4>(q_GP, rows, head_dim, n_tokens, score_GT);
    if (g == 3) ScoreHeads<Row, 3>(q_GP, rows, head_dim, n_tokens, score_GT);
    if (g == 2) ScoreHeads<Row, 2>(q_GP, rows, head_dim, n_tokens, score_GT);
    if (g == 1) ScoreHeads<Row, 1>(q_GP, rows, head_dim, n_tokens, score_GT);
  }
}

template <typename Row>
void Accumulate(const float* weight_GT, int g, const void* rows, int head_dim, int n_tokens,
                float* out_GD) {
  for (; g > 0; g -= 4, weight_GT += 4 * kPageTokens, out_GD += 4 * head_dim) {
    if (g >= 4) AccumulateHeads<Row, 4>(weight_GT, rows, head_dim, n_tokens, out_GD);
    if (g == 3) AccumulateHeads<Row, 3>(weight_GT, rows, head_dim, n_tokens, out_GD);
    if (g == 2) AccumulateHeads<Row, 2>(weight_GT, rows, head_dim, n_tokens, out_GD);
    if (g == 1) AccumulateHeads<Row, 1>(weight_GT, rows, head_dim, n_tokens, out_GD);
  }
}

template <typename Row>
constexpr RowKernels kSet = {Encode<Row>, Decode<Row>, Score<Row>, Accumulate<Row>};

}  // namespace

const RowKernels* RowKernelsNeon(RowType type) {
  if (type == RowType::kF32) return &kSet<F32Row>;
  return type == RowType::kF16 ? &kSet<F16Row> : &kSet<Bf16Row>;
}

}  // namespace phasor
#else
namespace phasor {
const RowKernels* RowKernelsNeon(RowType) { return nullptr; }
}  // namespace phasor
#endif
