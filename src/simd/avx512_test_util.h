// For tests of the AVX-512 intrinsics: a case is an instruction and a plain loop that does the
// same. Only for test files; includes come before PHASOR_BEGIN_AVX512 as in kernel files.
#pragma once

#if !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an error of ours (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/rng.h"
#include "simd/avx512.h"
#include "simd/cpu.h"
#include "simd/target.h"

namespace phasor {

// One vector, read as numbers of any kind.
union Block {
  int8_t i8[64];
  uint8_t u8[64];
  int16_t i16[32];
  uint16_t u16[32];
  int32_t i32[16];
  uint32_t u32[16];
  uint64_t u64[8];
  float f32[16];
};

using Operation = void (*)(const Block& a, const Block& b, const Block& c, Block* r);

enum class Equal { kBits, kFloats };  // kFloats: any NaN is equal to any other

struct Case {
  const char* name;
  Equal equal;
  Operation instruction, loop;
};

// A loop over i that sets what one instruction sets, and the instruction.
#define LOOP(n, ...)                                             \
  [](const Block& a, const Block& b, const Block& c, Block* r) { \
    (void)a, (void)b, (void)c;                                   \
    for (int i = 0; i < (n); ++i) __VA_ARGS__;                   \
  }
#define INSTRUCTION(...)                                         \
  [](const Block& a, const Block& b, const Block& c, Block* r) { \
    (void)a, (void)b, (void)c;                                   \
    __VA_ARGS__;                                                 \
  }

// Four kinds of numbers: any bits, floats of everyday size, floats at the edges, small integers.
inline Block RandomBlock(int kind, Rng* rng) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kEdges[] = {0.0f,     -0.0f,         1.0f,      -1.0f,      0.5f,     -0.5f,
                              1.5f,     -2.5f,         kInfinity, -kInfinity, NAN,      -NAN,
                              1e-45f,   -1e-40f,       0x1p-126f, 3.4e38f,    -3.4e38f, 65504.0f,
                              65519.9f, 65520.0f,      6.1e-5f,   -5.9e-8f,   0x1p31f,  -0x1p31f,
                              0x1p-25f, 2147483520.0f, -1e30f,    127.0f,     -149.5f,  1e9f};
  Block x;
  for (uint64_t& word : x.u64) word = rng->NextU64();
  for (int i = 0; i < 16 && kind > 0; ++i) {
    if (kind == 1) x.f32[i] = static_cast<float>(100 * rng->Normal());
    if (kind == 2) x.f32[i] = kEdges[rng->Below(std::size(kEdges))];
    if (kind == 3) x.i32[i] = static_cast<int32_t>(rng->Below(81)) - 40;
  }
  return x;
}

inline bool SameResults(const Block& x, const Block& y, Equal equal) {
  for (int i = 0; i < 16; ++i) {
    const bool both_nan = std::isnan(x.f32[i]) && std::isnan(y.f32[i]);
    if (x.u32[i] != y.u32[i] && !(equal == Equal::kFloats && both_nan)) return false;
  }
  return true;
}

// Random operands of every kind in every combination. least: what the region of the cases needs.
template <std::size_t kCount>
void CompareCases(const Case (&cases)[kCount], CpuLevel least) {
#if !defined(PHASOR_EMULATE_AVX512)
  const char* wish = std::getenv("PHASOR_TEST_INSTRUCTIONS");
  if (wish == nullptr || std::string_view(wish) != "1" || DetectedCpuLevel() < least) {
    GTEST_SKIP() << "needs an emulating build, or PHASOR_TEST_INSTRUCTIONS=1 on a CPU with "
                 << CpuLevelName(least);
  }
#endif
  constexpr int kKinds = 4, kRounds = 20;
  Rng rng(512);
  for (const Case& test : cases) {
    int wrong = 0;
    for (int round = 0; round < kRounds * kKinds * kKinds * kKinds; ++round) {
      const Block a = RandomBlock(round % kKinds, &rng);
      const Block b = RandomBlock(round / kKinds % kKinds, &rng);
      const Block c = RandomBlock(round / (kKinds * kKinds) % kKinds, &rng);
      Block by_instruction = {}, by_loop = {};
      test.instruction(a, b, c, &by_instruction);
      test.loop(a, b, c, &by_loop);
      if (!SameResults(by_instruction, by_loop, test.equal)) ++wrong;
    }
    EXPECT_EQ(wrong, 0) << test.name;
  }
}

}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

PHASOR_INLINE __m512i Int(const Block& x) { return _mm512_loadu_si512(&x); }
PHASOR_INLINE __m512 Float(const Block& x) { return _mm512_loadu_ps(x.f32); }
PHASOR_INLINE __m256i HalfInt(const Block& x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&x));
}
PHASOR_INLINE __m256 HalfFloat(const Block& x) { return _mm256_loadu_ps(x.f32); }
PHASOR_INLINE __m128i QuarterInt(const Block& x) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(&x));
}
PHASOR_INLINE void Put(Block* r, __m512i x) { _mm512_storeu_si512(r, x); }
PHASOR_INLINE void Put(Block* r, __m512 x) { _mm512_storeu_ps(r->f32, x); }
PHASOR_INLINE void Put(Block* r, __m256i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(r), x);
}
PHASOR_INLINE void Put(Block* r, __m256 x) { _mm256_storeu_ps(r->f32, x); }
PHASOR_INLINE void Put(Block* r, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(r), x); }

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
