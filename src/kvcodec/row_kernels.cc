// The plain C++ set and the choice between the sets.
#include "kvcodec/row_kernels.h"

#include <cmath>

#include "tensor/half.h"

namespace phasor {
namespace {

constexpr float kMaxF16 = 65504.0f;
constexpr float kMaxBf16 = 0x1.fep127f;

// NaN -> 0, infinity -> +-65504.
inline float MakeFinite(float x) {
  if (std::isnan(x)) return 0.0f;
  if (std::isinf(x)) return x > 0 ? kMaxF16 : -kMaxF16;
  return x;
}

inline float Clamp(float x, float limit) { return x > limit ? limit : (x < -limit ? -limit : x); }

struct F32Row {
  using Stored = float;
  static float Load(float x) { return x; }
  static float Store(float x) { return MakeFinite(x); }
};

struct F16Row {
  using Stored = uint16_t;
  static float Load(uint16_t x) { return F16ToF32(x); }
  static uint16_t Store(float x) { return F32ToF16(Clamp(MakeFinite(x), kMaxF16)); }
};

struct Bf16Row {
  using Stored = uint16_t;
  static float Load(uint16_t x) { return Bf16ToF32(x); }
  static uint16_t Store(float x) { return F32ToBf16(Clamp(MakeFinite(x), kMaxBf16)); }
};

template <typename Row>
void Encode(const float* x, std::size_t n, void* out) {
  auto* stored = static_cast<typename Row::Stored*>(out);
  for (std::size_t i = 0; i < n; ++i) stored[i] = Row::Store(x[i]);
}

template <typename Row>
void Decode(const void* in, std::size_t n, float* out) {
  const auto* stored = static_cast<const typename Row::Stored*>(in);
  for (std::size_t i = 0; i < n; ++i) out[i] = Row::Load(stored[i]);
}

template <typename Row>
void Score(const float* q_GP, int g, const void* in, int head_dim, int n_tokens, float* score_GT) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  const int stride = PaddedHeadDim(head_dim);
  for (int t = 0; t < n_tokens; ++t) {
    for (int i = 0; i < g; ++i) {
      float sum = 0;
      for (int d = 0; d < head_dim; ++d) {
        sum += q_GP[i * stride + d] * Row::Load(rows[t * head_dim + d]);
      }
      score_GT[i * kPageTokens + t] = sum;
    }
  }
}

template <typename Row>
void Accumulate(const float* weight_GT, int g, const void* in, int head_dim, int n_tokens,
                float* out_GD) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  for (int t = 0; t < n_tokens; ++t) {
    for (int i = 0; i < g; ++i) {
      const float w = weight_GT[i * kPageTokens + t];
      for (int d = 0; d < head_dim; ++d) {
        out_GD[i * head_dim + d] += w * Row::Load(rows[t * head_dim + d]);
      }
    }
  }
}

template <typename Row>
constexpr RowKernels kScalarSet = {Encode<Row>, Decode<Row>, Score<Row>, Accumulate<Row>};

const RowKernels& Scalar(RowType type) {
  if (type == RowType::kF32) return kScalarSet<F32Row>;
  if (type == RowType::kF16) return kScalarSet<F16Row>;
  return kScalarSet<Bf16Row>;
}

}  // namespace

const RowKernels& GetRowKernels(RowType type, CpuLevel level) {
  const RowKernels* set = nullptr;
  if (IsAvx512(level)) set = RowKernelsAvx512(type);
  if (level == CpuLevel::kAvx2) set = RowKernelsAvx2(type);
  if (level == CpuLevel::kNeon || level == CpuLevel::kNeonDot) set = RowKernelsNeon(type);
  return set != nullptr ? *set : Scalar(type);
}

}  // namespace phasor
