// What a CPU level gives to the matmul driver: functions that multiply one panel of weights with
// one group of tokens. Internal to src/ops.
//
// Activations are prepared once per call. Tokens are split into groups of at most max_tokens, so
// that a kernel finds what it needs for one block in one run of memory:
//   int8   per block of 32 columns, for the nt tokens of the group: int8 codes [nt][32], then
//          f32 scale [nt], f32 scale * sum [nt], s32 -128 * sum [nt], s32 -128 * (sum of columns
//          0-15) [nt], where sum is over the codes: kActivationBytes per token and block
//   float  per column, the nt values: f32 [n_cols][nt]
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/panel_layout.h"
#include "simd/cpu.h"
#include "simd/target.h"
#include "tensor/dtype.h"

namespace phasor {

inline constexpr int kActivationBytes = 48;

// Kernels for few tokens on x86-64 ask for weights this far ahead, into the L2 cache and across the
// borders of panels. Measured with one thread on Zen 4, where a plain loop reads 38 GB/s: with 1
// KiB Q4_0 37, Q6_K 37, Q8_0 31; with 8 KiB into L1 31, 32 and 28; without prefetch 23, 23 and 18
// (then also on pages of 4 KiB). On Emerald Rapids, two threads, Llama-1B shape, tokens per
// second, a plain loop reading 26 GB/s: 1 KiB 22 to 24, 2 KiB 25 to 28, 4, 8 and 16 KiB 28 to 34.
extern const int kPrefetchBytes;

// One panel times one group of tokens.
struct PanelTask {
  const std::byte* w = nullptr;  // one panel
  int64_t n = 0;                 // blocks of 32 columns; columns for float kernels
  const std::byte* x = nullptr;  // the group's activations
  float* y = nullptr;            // [n_tokens, ldy], first row of the panel
  int64_t ldy = 0;
  const float* bias = nullptr;  // of the panel's first row, or null
  int n_tokens = 1;             // size of the group
  int n_rows = 16;              // rows to write, 1-16
  bool accumulate = false;
};

using PanelKernel = void (*)(const PanelTask&);

struct MatMulKernels {
  int max_tokens;  // largest group of tokens
  // Kernels for a group of n_tokens, 1 to max_tokens.
  PanelKernel (*packed)(PanelLayout layout, int n_tokens);
  PanelKernel (*floats)(DType dtype, int n_tokens);
  // Token t of a group of nt: n_blocks * 32 floats to int8 blocks. Scale = max|x| / 127, codes
  // rounded to nearest even; the same bits at every level. A block with a NaN or an infinity gets
  // the scale NaN, one below kTinyActivation the scale 0.
  void (*quantize)(const float* x, int64_t n_blocks, int t, int nt, std::byte* group);
};

// Products of many tokens with packed panels that are decoded first: for hardware whose products
// are so fast that scaling the sums of every block would take longer than they do.
struct ManyTokensTask {
  PanelLayout layout;
  const std::byte* w = nullptr;  // first panel
  int64_t panel_bytes = 0;
  int64_t n_rows = 0;            // of all panels together; the last may have less than 16
  int64_t n_blocks = 0;          // of 32 columns
  const std::byte* x = nullptr;  // groups of tokens as `pack` leaves them
  int n_tokens = 0;
  float* y = nullptr;  // [n_tokens, ldy], first row of the first panel
  int64_t ldy = 0;
  const float* bias = nullptr;  // of the first panel's first row, or null
  bool accumulate = false;

  int64_t n_panels() const { return (n_rows + 15) / 16; }
};

struct ManyTokensKernels {
  int min_tokens;  // for fewer the kernels for panels are faster
  int group_tokens;
  int64_t
      token_block_bytes;  // room for a token's 32 columns; missing tokens of a group take it too
  int64_t room_bytes;     // that `multiply` needs for decoded weights
  // Up to group_tokens tokens of n_blocks * 32 floats to the form that `multiply` reads.
  void (*pack)(const float* x, int64_t ldx, int n_tokens, int64_t n_blocks, std::byte* group);
  void (*multiply)(const ManyTokensTask& task, std::byte* room);
};

// Blocks whose largest magnitude is below this count as zero: 127 / max must stay finite.
inline constexpr float kTinyActivation = 1e-36f;

const MatMulKernels& ScalarMatMulKernels();
#if defined(__x86_64__)
const MatMulKernels& Avx2MatMulKernels();
const MatMulKernels& Avx512MatMulKernels();
const ManyTokensKernels& AmxManyTokensKernels();
#elif defined(__aarch64__)
const MatMulKernels& NeonMatMulKernels();
const MatMulKernels& NeonDotMatMulKernels();
#endif
// Those of a level this CPU can run.
const MatMulKernels& MatMulKernelsFor(CpuLevel level);
// What the level in force has for n_tokens tokens, or null: tile registers where they are switched
// on (simd/cpu.h).
const ManyTokensKernels* FindManyTokensKernels(int n_tokens);

// c = (accumulate ? c : 0) + a * b; arguments as GemmF32 (ops/matmul.h).
struct GemmArgs {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  int m, n, k;
  bool accumulate;
};
#if defined(__x86_64__)
void GemmF32Avx2(const GemmArgs& args);
void GemmF32Avx512(const GemmArgs& args);
#elif defined(__aarch64__)
void GemmF32Neon(const GemmArgs& args);  // for both NEON levels
#endif

}  // namespace phasor
