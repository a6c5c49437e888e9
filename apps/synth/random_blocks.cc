#include "synth/random_blocks.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/half.h"

namespace phasor::synth {
namespace {

// Root mean squares of codes drawn uniformly, about the value that stands for zero.
constexpr float kRms4 = 4.636809f;        // {-8 .. 7}
constexpr float kRms4Middle = 4.609772f;  // {0 .. 15} about 7.5
constexpr float kRms5 = 9.246621f;        // {-16 .. 15}
constexpr float kRms5Middle = 9.233093f;  // {0 .. 31} about 15.5
constexpr float kRms6 = 18.479719f;       // {-32 .. 31}
constexpr float kRms8 = 73.902188f;       // {-128 .. 127}

// Uniform in [0.8, 1.2], so that scales differ as those of real models do. The mean square is
// 1 + 0.4^2 / 12, close enough to 1.
float Spread(uint64_t bits) { return 0.8f + 0.4f * static_cast<float>(bits >> 40) * 0x1.0p-24f; }

float SignedSpread(Rng& rng) {
  const uint64_t bits = rng.NextU64();
  return bits & 1 ? Spread(bits) : -Spread(bits);
}

void PutF16(std::byte* out, float value) {
  const uint16_t half = F32ToF16(value);
  std::memcpy(out, &half, sizeof(half));
}

// n is a multiple of 2.
void PutRandom(Rng& rng, std::byte* out, int n) {
  for (; n >= 8; n -= 8, out += 8) {
    const uint64_t bits = rng.NextU64();
    std::memcpy(out, &bits, 8);
  }
  if (n > 0) {
    const uint64_t bits = rng.NextU64();
    std::memcpy(out, &bits, n);
  }
}

// Formats of one f16 scale and random code bytes behind it.
template <int kCodeBytes>
void DrawSymmetric(float scale, Rng& rng, std::byte* out) {
  PutF16(out, scale * SignedSpread(rng));
  PutRandom(rng, out + 2, kCodeBytes);
}

// Formats of f16 scale, f16 offset and random code bytes; `middle` is the code that means zero.
template <int kCodeBytes>
void DrawAffine(float scale, float middle, Rng& rng, std::byte* out) {
  const float d = scale * SignedSpread(rng);
  PutF16(out, d);
  PutF16(out + 2, -middle * d);
  PutRandom(rng, out + 4, kCodeBytes);
}

// Q4_K, 144 bytes per 256: every sub-block's offset is 7.5 times its scale.
void DrawQ4K(float sigma, Rng& rng, std::byte* out) {
  // Sub-block scales lie in {32 .. 63}: their root mean square is 48.38.
  const float d = F16ToF32(F32ToF16(sigma / (kRms4Middle * 48.38f)));
  PutF16(out, d);
  PutF16(out + 2, 7.5f * d);
  uint8_t scale[8], packed[12];
  const uint64_t bits = rng.NextU64();
  for (int j = 0; j < 8; ++j) scale[j] = static_cast<uint8_t>(32 + (bits >> (8 * j) & 31));
  for (int j = 0; j < 4; ++j) {  // 6-bit scale and offset, both equal here, in 12 bytes
    const auto upper = static_cast<uint8_t>(scale[j + 4] >> 4 << 6);
    packed[j] = packed[j + 4] = static_cast<uint8_t>(scale[j] | upper);
    packed[j + 8] = static_cast<uint8_t>((scale[j + 4] & 15) | scale[j + 4] << 4);
  }
  std::memcpy(out + 4, packed, sizeof(packed));
  PutRandom(rng, out + 16, 128);
}

// Q6_K, 210 bytes per 256: signed 8-bit scale per 16 weights.
void DrawQ6K(float sigma, Rng& rng, std::byte* out) {
  PutRandom(rng, out, 192);
  for (int j = 0; j < 16; ++j) {
    const uint64_t bits = rng.NextU64();
    const auto magnitude = static_cast<int>(64 + (bits >> 1 & 63));  // root mean square 97.25
    out[192 + j] = static_cast<std::byte>(bits & 1 ? magnitude : -magnitude);
  }
  PutF16(out + 208, sigma / (kRms6 * 97.25f));
}

void DrawBlock(DType dtype, float sigma, Rng& rng, std::byte* out) {
  switch (dtype) {
    case DType::kQ4_0:
      return DrawSymmetric<16>(sigma / kRms4, rng, out);
    case DType::kQ5_0:
      return DrawSymmetric<20>(sigma / kRms5, rng, out);
    case DType::kQ8_0:
      return DrawSymmetric<32>(sigma / kRms8, rng, out);
    case DType::kQ4_1:
      return DrawAffine<16>(sigma / kRms4Middle, 7.5f, rng, out);
    case DType::kQ5_1:
      return DrawAffine<20>(sigma / kRms5Middle, 15.5f, rng, out);
    case DType::kQ4_K:
      return DrawQ4K(sigma, rng, out);
    case DType::kQ6_K:
      return DrawQ6K(sigma, rng, out);
    default:
      PHASOR_CHECK(false && "a type that DrawableTypes does not list");
  }
}

// Uniform in [-sqrt(3) sigma, sqrt(3) sigma): two weights per random word.
template <typename T, typename Convert>
void DrawFloats(float sigma, int64_t n, Rng& rng, std::byte* out, Convert convert) {
  const float scale = sigma * 1.7320508f * 0x1.0p-31f;
  for (int64_t i = 0; i < n;) {
    const uint64_t bits = rng.NextU64();
    for (int half = 0; half < 2 && i < n; ++half, ++i) {
      const auto code = static_cast<int32_t>(static_cast<uint32_t>(bits >> (32 * half)));
      const T value = convert(static_cast<float>(code) * scale);
      std::memcpy(out + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
    }
  }
}

}  // namespace

void DrawWeights(DType dtype, float sigma, int64_t n, Rng& rng, std::byte* out) {
  switch (dtype) {
    case DType::kF32:
      return DrawFloats<float>(sigma, n, rng, out, [](float x) { return x; });
    case DType::kF16:
      return DrawFloats<uint16_t>(sigma, n, rng, out, F32ToF16);
    case DType::kBF16:
      return DrawFloats<uint16_t>(sigma, n, rng, out, F32ToBf16);
    default:
      break;
  }
  const DTypeInfo& info = GetDTypeInfo(dtype);
  PHASOR_CHECK(n % info.block_elements == 0);
  for (int64_t i = 0; i < n; i += info.block_elements, out += info.block_bytes) {
    DrawBlock(dtype, sigma, rng, out);
  }
}

const std::vector<DrawableType>& DrawableTypes() {
  static const std::vector<DrawableType> types = {{"q4_0", DType::kQ4_0}, {"q4_1", DType::kQ4_1},
                                                  {"q5_0", DType::kQ5_0}, {"q5_1", DType::kQ5_1},
                                                  {"q8_0", DType::kQ8_0}, {"q4_k", DType::kQ4_K},
                                                  {"q6_k", DType::kQ6_K}, {"f16", DType::kF16},
                                                  {"bf16", DType::kBF16}, {"f32", DType::kF32}};
  return types;
}

}  // namespace phasor::synth
