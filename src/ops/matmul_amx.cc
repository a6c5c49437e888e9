// AMX: products of up to 16 tokens with the codes of a block in one tile instruction.
//
// A panel's block of 32 columns, unpacked to bytes, is eight code vectors of 64 bytes: the eight
// rows of a tile as tdpbsud wants its second operand. The first are the 8-bit activations of the
// group's tokens as they lie, 32 bytes each. The products of a block leave the tile for memory,
// since every block has scales of its own, and are added to float sums there. The two halves of a
// kSuperHalves block are two products of half the depth.
//
// Weights in float and groups of few tokens take the kernels for AVX-512. Not measured on a CPU
// with AMX yet: see EnableAmx (simd/cpu.h).
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an error of ours (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "ops/matmul.h"
#include "ops/matmul_avx512-inl.h"
#include "ops/matmul_kernels.h"
#include "simd/amx.h"
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AMX
namespace phasor {
namespace {

constexpr int kMaxTokens = 16;
// Up to here a tile would be mostly empty.
constexpr int kFewTokens = 4;

// Tiles 0 sums, 1 activations, 2 codes of `depth` columns.
TileConfig MakeConfig(int n_tokens, int depth) {
  TileConfig config;
  config.n_rows[0] = config.n_rows[1] = static_cast<uint8_t>(n_tokens);
  config.n_rows[2] = static_cast<uint8_t>(depth / 4);
  config.row_bytes[0] = config.row_bytes[2] = kCodeVectorBytes;
  config.row_bytes[1] = static_cast<uint16_t>(depth);
  return config;
}

struct Products {
  alignas(64) int32_t sum[kMaxTokens][kPanelRows];
};

// [n_tokens][columns] times [columns / 4][16 rows][4 columns], columns as configured.
PHASOR_INLINE void Multiply(const std::byte* activations, const std::byte* codes, Products* out) {
  StoreBeforeTileLoad(codes);
  _tile_zero(0);
  _tile_loadd(1, activations, kCodeBlock);
  _tile_loadd(2, codes, kCodeVectorBytes);
  _tile_dpbsud(0, 1, 2);
  _tile_stored(0, out->sum, kCodeVectorBytes);
}

// Products of one block and what is taken off them, scaled and added to the sums of every token.
// `numbers`: scale, scale * sum, -128 sum, -128 first of n_tokens each (matmul_kernels.h).
template <ScaleForm kForm, int kZeroShift>
PHASOR_INLINE void AddProducts(const Products& products, const Products& upper, __m512 scale,
                               __m512 second, const std::byte* numbers, int n_tokens,
                               float (*y)[kPanelRows]) {
  constexpr bool kHalves = kForm == ScaleForm::kSuperHalves;
  constexpr bool kHasOffset = kForm == ScaleForm::kAffine || kForm == ScaleForm::kSuperAffine;
  for (int t = 0; t < n_tokens; ++t, numbers += 4) {
    const __m512 x_scale = BroadcastFloat(numbers);
    __m512i acc = _mm512_load_si512(products.sum[t]);
    __m512 sum = _mm512_load_ps(y[t]);
    if constexpr (!kHasOffset) {
      __m512i zero = BroadcastInt(numbers + (kHalves ? 12 : 8) * n_tokens);
      if constexpr (kHalves) {
        __m512i zero_upper = _mm512_sub_epi32(BroadcastInt(numbers + 8 * n_tokens), zero);
        if constexpr (kZeroShift != 0) zero_upper = _mm512_srai_epi32(zero_upper, kZeroShift);
        const __m512i up = _mm512_add_epi32(_mm512_load_si512(upper.sum[t]), zero_upper);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(up), _mm512_mul_ps(second, x_scale), sum);
      }
      if constexpr (kZeroShift != 0) zero = _mm512_srai_epi32(zero, kZeroShift);
      acc = _mm512_add_epi32(acc, zero);
    }
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_mul_ps(scale, x_scale), sum);
    if constexpr (kHasOffset) {
      sum = _mm512_fmadd_ps(second, BroadcastFloat(numbers + 4 * n_tokens), sum);
    }
    _mm512_store_ps(y[t], sum);
  }
}

void WriteTokens(const PanelTask& task, const float (*sums)[kPanelRows]) {
  const __mmask16 rows = static_cast<__mmask16>((1u << task.n_rows) - 1);
  const __m512 bias =
      task.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, task.bias);
  for (int t = 0; t < task.n_tokens; ++t) {
    float* y = task.y + t * task.ldy;
    __m512 value = _mm512_add_ps(_mm512_load_ps(sums[t]), bias);
    if (task.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), value);
    _mm512_mask_storeu_ps(y, rows, value);
  }
}

template <int kBits, ScaleForm kForm>
void TileKernel(const PanelTask& task) {
  constexpr PanelLayout kLayout = {kBits, kForm};
  constexpr bool kHalves = kForm == ScaleForm::kSuperHalves;
  const TileConfig config = MakeConfig(task.n_tokens, kHalves ? kCodeBlock / 2 : kCodeBlock);
  StoreBeforeTileLoad(&config);
  _tile_loadconfig(&config);
  alignas(64) float y[kMaxTokens][kPanelRows] = {};
  alignas(64) std::byte bytes[8 * kCodeVectorBytes];
  Products products, upper;
  __m512 super_scale = _mm512_setzero_ps(), super_offset = super_scale;
  const std::byte *w = task.w, *x = task.x;
  for (int64_t b = 0; b < task.n; ++b) {
    if constexpr (kLayout.is_super()) {
      if (b % kBlocksPerSuper == 0) {
        LoadSuper<kForm>(w, &super_scale, &super_offset);
        w += kLayout.super_bytes();
      }
    }
    const std::byte* codes = w;
    if constexpr (kBits != 8) {
      __m512i c[8];
      LoadCodes<kBits>(w, c);
      PHASOR_UNROLL
      for (int v = 0; v < 8; ++v) _mm512_store_si512(bytes + v * kCodeVectorBytes, c[v]);
      codes = bytes;
    }
    __m512 scale, second = _mm512_setzero_ps();
    LoadScales<kBits, kForm>(w, super_scale, super_offset, &scale, &second);
    Multiply(x, codes, &products);
    if constexpr (kHalves) Multiply(x + kCodeBlock / 2, codes + 4 * kCodeVectorBytes, &upper);
    AddProducts<kForm, 8 - kBits>(products, upper, scale, second, x + kCodeBlock * task.n_tokens,
                                  task.n_tokens, y);
    w += kLayout.block_bytes();
    x += task.n_tokens * kActivationBytes;
  }
  _tile_release();
  WriteTokens(task, y);
}

template <DType kType>
constexpr PanelKernel kManyTokens[] = {FloatKernel<kType, 13>, FloatKernel<kType, 14>,
                                       FloatKernel<kType, 15>, FloatKernel<kType, 16>};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
namespace {

PanelKernel FindPacked(PanelLayout layout, int n_tokens) {
  if (n_tokens <= kFewTokens) return Avx512MatMulKernels().packed(layout, n_tokens);
  return VisitLayout(
      layout, []<int kBits, ScaleForm kForm>() -> PanelKernel { return TileKernel<kBits, kForm>; });
}

PanelKernel FindFloat(DType dtype, int n_tokens) {
  const int n_more = n_tokens - Avx512MatMulKernels().max_tokens;
  if (n_more <= 0) return Avx512MatMulKernels().floats(dtype, n_tokens);
  if (dtype == DType::kF32) return kManyTokens<DType::kF32>[n_more - 1];
  if (dtype == DType::kF16) return kManyTokens<DType::kF16>[n_more - 1];
  return kManyTokens<DType::kBF16>[n_more - 1];
}

}  // namespace

const MatMulKernels& AmxMatMulKernels() {
  static const MatMulKernels kernels = {kMaxTokens, FindPacked, FindFloat,
                                        Avx512MatMulKernels().quantize};
  return kernels;
}

}  // namespace phasor
#endif  // __x86_64__
