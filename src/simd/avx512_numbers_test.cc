// Numbers: products, conversions, arithmetic and comparisons of AVX-512 against plain loops. In a
// build that emulates AVX-512 this tests the emulation, so that a wrong one does not hide a wrong
// kernel; on a CPU with AVX-512 it tests the loops.
#if defined(__x86_64__)
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "simd/avx512_test_util.h"
#include "simd/dot_bytes_avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

int32_t Saturate(int64_t x, int64_t low, int64_t high) {
  return static_cast<int32_t>(std::clamp(x, low, high));
}

// Rounding modes of the current environment (to nearest even) and toward zero.
int32_t FloatToInt(double x, bool truncate) {
  const double whole = truncate ? std::trunc(x) : std::nearbyint(x);
  if (!(whole >= -0x1p31 && whole < 0x1p31)) return std::numeric_limits<int32_t>::min();
  return static_cast<int32_t>(whole);
}

float HalfToFloat(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return static_cast<float>(fraction == 0 ? sign * INFINITY : NAN);
  const int implicit = exponent == 0 ? 0 : 1024;
  return static_cast<float>(sign * std::ldexp(implicit + fraction, std::max(exponent, 1) - 25));
}

uint16_t FloatToHalf(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double size = std::fabs(static_cast<double>(x));
  if (size == 0) return sign;
  // Steps of 2^-24 below 2^-14, 2^-10 of the power of two above.
  const int exponent = std::isinf(x) ? 15 : std::max(std::ilogb(size), -14);
  const double steps = std::nearbyint(std::ldexp(size, 10 - exponent));
  const int code = std::isinf(x) ? 0x7c00 : (exponent + 14) * 1024 + static_cast<int>(steps);
  return static_cast<uint16_t>(sign | std::min(code, 0x7c00));
}

constexpr float kLargest = 3e38f;

// Within +-kLargest; NaN is kLargest too.
float Finite(float x) { return std::isnan(x) ? kLargest : std::clamp(x, -kLargest, kLargest); }

double Scaled(float a, float b) {
  return a * std::exp2(std::clamp(std::floor(static_cast<double>(b)), -500.0, 500.0));
}

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

PHASOR_INLINE __m512 Finite(__m512 x) {
  return _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(kLargest)), _mm512_set1_ps(-kLargest));
}

constexpr Case kProducts[] = {
    {"dpbusd", Equal::kBits, INSTRUCTION(Put(r, _mm512_dpbusd_epi32(Int(c), Int(a), Int(b)))),
     LOOP(16,
          {
            uint32_t sum = c.u32[i];  // wraps
            for (int j = 4 * i; j < 4 * i + 4; ++j) sum += static_cast<uint32_t>(a.u8[j] * b.i8[j]);
            r->u32[i] = sum;
          })},
    {"AddByteProducts", Equal::kBits, INSTRUCTION({
       __m512i sum = Int(c);
       AddByteProducts(sum, Int(a), Int(b));
       Put(r, sum);
     }),
     LOOP(16,
          {
            uint32_t sum = c.u32[i];
            for (int j = 4 * i; j < 4 * i + 4; ++j) sum += static_cast<uint32_t>(a.u8[j] * b.i8[j]);
            r->u32[i] = sum;
          })},
    {"AddByteProducts of four bytes", Equal::kBits, INSTRUCTION({
       __m512i sum = Int(c);
       AddByteProducts(sum, Int(a), b.i8 + 4);
       Put(r, sum);
     }),
     LOOP(16,
          {
            uint32_t sum = c.u32[i];
            for (int j = 0; j < 4; ++j) sum += static_cast<uint32_t>(a.u8[4 * i + j] * b.i8[4 + j]);
            r->u32[i] = sum;
          })},
    {"dpwssd", Equal::kBits, INSTRUCTION(Put(r, _mm512_dpwssd_epi32(Int(c), Int(a), Int(b)))),
     LOOP(16,
          {
            r->u32[i] = c.u32[i] + static_cast<uint32_t>(a.i16[2 * i] * b.i16[2 * i]) +
                        static_cast<uint32_t>(a.i16[2 * i + 1] * b.i16[2 * i + 1]);
          })},
    {"mulhi_epu16", Equal::kBits, INSTRUCTION(Put(r, _mm512_mulhi_epu16(Int(a), Int(b)))),
     LOOP(32, r->u16[i] = static_cast<uint16_t>(uint32_t{a.u16[i]} * b.u16[i] >> 16))},
    {"mulhrs", Equal::kBits, INSTRUCTION(Put(r, _mm512_mulhrs_epi16(Int(a), Int(b)))),
     LOOP(32, r->i16[i] = static_cast<int16_t>((a.i16[i] * b.i16[i] + 0x4000) >> 15))},
    {"fmadd", Equal::kFloats, INSTRUCTION(Put(r, _mm512_fmadd_ps(Float(a), Float(b), Float(c)))),
     LOOP(16, r->f32[i] = std::fma(a.f32[i], b.f32[i], c.f32[i]))},
    {"fmsub", Equal::kFloats, INSTRUCTION(Put(r, _mm512_fmsub_ps(Float(a), Float(b), Float(c)))),
     LOOP(16, r->f32[i] = std::fma(a.f32[i], b.f32[i], -c.f32[i]))},
    {"fnmadd", Equal::kFloats, INSTRUCTION(Put(r, _mm512_fnmadd_ps(Float(a), Float(b), Float(c)))),
     LOOP(16, r->f32[i] = std::fma(-a.f32[i], b.f32[i], c.f32[i]))},
};

constexpr Case kConversions[] = {
    {"cvtepi32_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtepi32_ps(Int(a)))),
     LOOP(16, r->f32[i] = static_cast<float>(static_cast<double>(a.i32[i])))},
    {"cvtps_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtps_epi32(Float(a)))),
     LOOP(16, r->i32[i] = FloatToInt(a.f32[i], false))},
    {"cvttps_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvttps_epi32(Float(a)))),
     LOOP(16, r->i32[i] = FloatToInt(a.f32[i], true))},
    {"cvtph_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_cvtph_ps(HalfInt(a)))),
     LOOP(16, r->f32[i] = HalfToFloat(a.u16[i]))},
    {"cvtps_ph", Equal::kBits, INSTRUCTION({
       // NaN: whatever payload.
       const __m512 x =
           _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(Float(a), Float(a), _CMP_ORD_Q), Float(a));
       Put(r, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
     }),
     LOOP(16, { r->u16[i] = std::isnan(a.f32[i]) ? 0 : FloatToHalf(a.f32[i]); })},
    {"cvtepi8_epi32", Equal::kBits, INSTRUCTION({ Put(r, _mm512_cvtepi8_epi32(QuarterInt(a))); }),
     LOOP(16, r->i32[i] = a.i8[i])},
    {"cvtepu16_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtepu16_epi32(HalfInt(a)))),
     LOOP(16, r->i32[i] = a.u16[i])},
    {"cvtepi32_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtepi32_epi16(Int(a)))),
     LOOP(16, r->u16[i] = a.u16[2 * i])},
    {"cvtsepi32_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtsepi32_epi16(Int(a)))),
     LOOP(16, r->i16[i] = static_cast<int16_t>(Saturate(a.i32[i], INT16_MIN, INT16_MAX)))},
    {"cvtepi32_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtepi32_epi8(Int(a)))),
     LOOP(16, r->u8[i] = a.u8[4 * i])},
    {"cvtepi16_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_cvtepi16_epi8(Int(a)))),
     LOOP(32, r->u8[i] = a.u8[2 * i])},
    // Groups of four 32-bit numbers: those of a, then those of b.
    {"packs_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_packs_epi32(Int(a), Int(b)))),
     LOOP(32, r->i16[i] = static_cast<int16_t>(
                  Saturate((i % 8 < 4 ? a : b).i32[i / 8 * 4 + i % 4], INT16_MIN, INT16_MAX)))},
    {"packus_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_packus_epi32(Int(a), Int(b)))),
     LOOP(32, r->u16[i] = static_cast<uint16_t>(
                  Saturate((i % 8 < 4 ? a : b).i32[i / 8 * 4 + i % 4], 0, UINT16_MAX)))},
    {"packs_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_packs_epi16(Int(a), Int(b)))),
     LOOP(64, r->i8[i] = static_cast<int8_t>(
                  Saturate((i % 16 < 8 ? a : b).i16[i / 16 * 8 + i % 8], INT8_MIN, INT8_MAX)))},
    {"packus_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_packus_epi16(Int(a), Int(b)))),
     LOOP(64, r->u8[i] = static_cast<uint8_t>(
                  Saturate((i % 16 < 8 ? a : b).i16[i / 16 * 8 + i % 8], 0, UINT8_MAX)))},
};

constexpr Case kArithmetic[] = {
    {"add_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_add_epi8(Int(a), Int(b)))),
     LOOP(64, r->u8[i] = static_cast<uint8_t>(a.u8[i] + b.u8[i]))},
    {"sub_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_sub_epi8(Int(a), Int(b)))),
     LOOP(64, r->u8[i] = static_cast<uint8_t>(a.u8[i] - b.u8[i]))},
    {"adds_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_adds_epi16(Int(a), Int(b)))),
     LOOP(32, r->i16[i] = static_cast<int16_t>(std::clamp(a.i16[i] + b.i16[i], -32768, 32767)))},
    {"max_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_max_epi16(Int(a), Int(b)))),
     LOOP(32, r->i16[i] = std::max(a.i16[i], b.i16[i]))},
    {"add_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_add_epi16(Int(a), Int(b)))),
     LOOP(32, r->u16[i] = static_cast<uint16_t>(a.u16[i] + b.u16[i]))},
    {"sub_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_sub_epi16(Int(a), Int(b)))),
     LOOP(32, r->u16[i] = static_cast<uint16_t>(a.u16[i] - b.u16[i]))},
    {"add_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_add_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = a.u32[i] + b.u32[i])},
    {"sub_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_sub_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = a.u32[i] - b.u32[i])},
    {"abs_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_abs_epi8(Int(a)))),
     LOOP(64, r->i8[i] = static_cast<int8_t>(a.i8[i] < 0 ? -a.i8[i] : a.i8[i]))},
    {"max_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_max_epi8(Int(a), Int(b)))),
     LOOP(64, r->i8[i] = std::max(a.i8[i], b.i8[i]))},
    {"min_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_min_epi8(Int(a), Int(b)))),
     LOOP(64, r->i8[i] = std::min(a.i8[i], b.i8[i]))},
    {"max_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_max_epi32(Int(a), Int(b)))),
     LOOP(16, r->i32[i] = std::max(a.i32[i], b.i32[i]))},
    {"min_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_min_epi32(Int(a), Int(b)))),
     LOOP(16, r->i32[i] = std::min(a.i32[i], b.i32[i]))},
    {"max_epu32", Equal::kBits, INSTRUCTION(Put(r, _mm512_max_epu32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = std::max(a.u32[i], b.u32[i]))},
    {"add_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_add_ps(Float(a), Float(b)))),
     LOOP(16, r->f32[i] = a.f32[i] + b.f32[i])},
    {"sub_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_sub_ps(Float(a), Float(b)))),
     LOOP(16, r->f32[i] = a.f32[i] - b.f32[i])},
    {"mul_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_mul_ps(Float(a), Float(b)))),
     LOOP(16, r->f32[i] = a.f32[i] * b.f32[i])},
    {"div_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_maskz_div_ps(0x7ffe, Float(a), Float(b)))),
     LOOP(16, r->f32[i] = i > 0 && i < 15 ? a.f32[i] / b.f32[i] : 0)},
    {"sqrt_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_sqrt_ps(Float(a)))),
     LOOP(16, r->f32[i] = std::sqrt(a.f32[i]))},
    // The second operand where one is NaN or both are zero.
    {"max_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_max_ps(Float(a), Float(b)))),
     LOOP(16, r->u32[i] = a.f32[i] > b.f32[i] ? a.u32[i] : b.u32[i])},
    {"min_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_min_ps(Float(a), Float(b)))),
     LOOP(16, r->u32[i] = a.f32[i] < b.f32[i] ? a.u32[i] : b.u32[i])},
    {"abs_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_abs_ps(Float(a)))),
     LOOP(16, r->u32[i] = a.u32[i] & 0x7fffffffu)},
    {"roundscale_ps", Equal::kFloats,
     INSTRUCTION(
         Put(r, _mm512_roundscale_ps(Float(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))),
     LOOP(16, r->f32[i] = std::nearbyint(a.f32[i]))},
    // Finite exponents, finite numbers: all that kernels give them.
    {"scalef_ps", Equal::kFloats, INSTRUCTION(Put(r, _mm512_scalef_ps(Float(a), Finite(Float(b))))),
     LOOP(16, r->f32[i] = static_cast<float>(Scaled(a.f32[i], Finite(b.f32[i]))))},
    {"reduce_ps", Equal::kFloats, INSTRUCTION({
       const __m512 left = _mm512_reduce_ps(Finite(Float(a)), _MM_FROUND_TO_NEG_INF);
       Put(r, _mm512_add_ps(left, _mm512_setzero_ps()));  // zero of either sign
     }),
     LOOP(16,
          {
            const double x = Finite(a.f32[i]), whole = std::floor(x);
            const float left = static_cast<float>(x - whole);  // rounded down, as on real CPUs
            r->f32[i] = (left + whole > x ? std::nextafter(left, -1.0f) : left) + 0.0f;
          })},
    {"maskz_mul_ps, 8 lanes", Equal::kFloats,
     INSTRUCTION(Put(r, _mm256_maskz_mul_ps(0x5a, HalfFloat(a), HalfFloat(b)))),
     LOOP(8, r->f32[i] = (0x5a >> i & 1) != 0 ? a.f32[i] * b.f32[i] : 0)},
    {"maskz_div_ps, 8 lanes", Equal::kFloats,
     INSTRUCTION(Put(r, _mm256_maskz_div_ps(0x5a, HalfFloat(a), HalfFloat(b)))),
     LOOP(8, r->f32[i] = (0x5a >> i & 1) != 0 ? a.f32[i] / b.f32[i] : 0)},
};

// Reductions: of floats small whole numbers, whose sum does not depend on the order.
constexpr Case kReductions[] = {
    {"reduce_add_ps", Equal::kBits, INSTRUCTION({
       const __m512 whole = _mm512_cvtepi32_ps(_mm512_srli_epi32(Int(a), 16));
       r->f32[0] = _mm512_reduce_add_ps(whole);
     }),
     LOOP(16, r->f32[0] += static_cast<float>(a.u32[i] >> 16))},
    {"reduce_max_ps", Equal::kBits,
     INSTRUCTION(r->f32[0] = _mm512_reduce_max_ps(_mm512_cvtepi32_ps(Int(a)))),
     LOOP(16, r->f32[0] = i == 0 ? a.i32[0] : std::max(r->f32[0], static_cast<float>(a.i32[i])))},
    {"reduce_min_ps", Equal::kBits,
     INSTRUCTION(r->f32[0] = _mm512_reduce_min_ps(_mm512_cvtepi32_ps(Int(a)))),
     LOOP(16, r->f32[0] = i == 0 ? a.i32[0] : std::min(r->f32[0], static_cast<float>(a.i32[i])))},
    {"reduce_add_epi32", Equal::kBits, INSTRUCTION(r->i32[0] = _mm512_reduce_add_epi32(Int(a))),
     LOOP(16, r->u32[0] += a.u32[i])},
    {"reduce_max_epi32", Equal::kBits, INSTRUCTION(r->i32[0] = _mm512_reduce_max_epi32(Int(a))),
     LOOP(16, r->i32[0] = i == 0 ? a.i32[0] : std::max(r->i32[0], a.i32[i]))},
    {"reduce_min_epi32", Equal::kBits, INSTRUCTION(r->i32[0] = _mm512_reduce_min_epi32(Int(a))),
     LOOP(16, r->i32[0] = i == 0 ? a.i32[0] : std::min(r->i32[0], a.i32[i]))},
    {"reduce_max_epu32", Equal::kBits, INSTRUCTION(r->u32[0] = _mm512_reduce_max_epu32(Int(a))),
     LOOP(16, r->u32[0] = std::max(r->u32[0], a.u32[i]))},
};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
namespace {

TEST(Avx512, ProductsAreThoseOfLoops) { CompareCases(kProducts, CpuLevel::kAvx512Vnni); }
TEST(Avx512, ConversionsAreThoseOfLoops) { CompareCases(kConversions, CpuLevel::kAvx512Vnni); }
TEST(Avx512, ArithmeticIsThatOfLoops) { CompareCases(kArithmetic, CpuLevel::kAvx512Vnni); }
TEST(Avx512, ReductionsAreThoseOfLoops) { CompareCases(kReductions, CpuLevel::kAvx512Vnni); }

}  // namespace
}  // namespace phasor
#endif  // __x86_64__
