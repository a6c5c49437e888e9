// Bits and places: shifts, logic, permutations and masks of AVX-512 against plain loops, for the
// same two purposes as avx512_numbers_test.cc.
#if defined(__x86_64__)
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "simd/avx512_test_util.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

constexpr Case kPlaces[] = {
    {"permutexvar_epi16", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_permutexvar_epi16(Int(a), Int(b)))),
     LOOP(32, r->u16[i] = b.u16[a.u16[i] & 31])},
    {"permutex2var_epi16", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_permutex2var_epi16(Int(a), Int(b), Int(c)))),
     LOOP(32, r->u16[i] = ((b.u16[i] & 32) != 0 ? c : a).u16[b.u16[i] & 31])},
    {"permutexvar_epi32", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_permutexvar_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = b.u32[a.u32[i] & 15])},
    {"permutexvar_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_permutexvar_ps(Int(a), Float(b)))),
     LOOP(16, r->u32[i] = b.u32[a.u32[i] & 15])},
    {"permutexvar_pd", Equal::kBits,
     INSTRUCTION(
         Put(r, _mm512_castpd_ps(_mm512_permutexvar_pd(Int(a), _mm512_castps_pd(Float(b)))))),
     LOOP(8, r->u64[i] = b.u64[a.u64[i] & 7])},
    {"permutex2var_ps", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_permutex2var_ps(Float(a), Int(b), Float(c)))),
     LOOP(16, r->u32[i] = ((b.u32[i] & 16) != 0 ? c : a).u32[b.u32[i] & 15])},
    {"permute_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_permute_ps(Float(a), 0x4e))),
     LOOP(16, r->u32[i] = a.u32[i ^ 2])},
    {"shuffle_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_shuffle_epi8(Int(a), Int(b)))),
     LOOP(64, r->u8[i] = (b.u8[i] & 128) != 0 ? 0 : a.u8[i / 16 * 16 + (b.u8[i] & 15)])},
    {"shuffle_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_shuffle_ps(Float(a), Float(b), 0xe4))),
     LOOP(16, r->u32[i] = (i % 4 < 2 ? a : b).u32[i])},
    {"shuffle_i32x4", Equal::kBits, INSTRUCTION(Put(r, _mm512_shuffle_i32x4(Int(a), Int(b), 0xd8))),
     LOOP(16, r->u32[i] = (i < 8 ? a : b).u32[(0xd8 >> i / 4 * 2 & 3) * 4 + i % 4])},
    {"shuffle_f32x4", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_shuffle_f32x4(Float(a), Float(b), 0xd8))),
     LOOP(16, r->u32[i] = (i < 8 ? a : b).u32[(0xd8 >> i / 4 * 2 & 3) * 4 + i % 4])},
    {"unpacklo_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_unpacklo_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = (i % 2 == 0 ? a : b).u32[i / 4 * 4 + i % 4 / 2])},
    {"unpackhi_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_unpackhi_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = (i % 2 == 0 ? a : b).u32[i / 4 * 4 + 2 + i % 4 / 2])},
    {"unpacklo_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_unpacklo_ps(Float(a), Float(b)))),
     LOOP(16, r->u32[i] = (i % 2 == 0 ? a : b).u32[i / 4 * 4 + i % 4 / 2])},
    {"unpackhi_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_unpackhi_ps(Float(a), Float(b)))),
     LOOP(16, r->u32[i] = (i % 2 == 0 ? a : b).u32[i / 4 * 4 + 2 + i % 4 / 2])},
    {"unpacklo_epi64", Equal::kBits, INSTRUCTION(Put(r, _mm512_unpacklo_epi64(Int(a), Int(b)))),
     LOOP(8, r->u64[i] = (i % 2 == 0 ? a : b).u64[i / 2 * 2])},
    {"unpackhi_epi64", Equal::kBits, INSTRUCTION(Put(r, _mm512_unpackhi_epi64(Int(a), Int(b)))),
     LOOP(8, r->u64[i] = (i % 2 == 0 ? a : b).u64[i / 2 * 2 + 1])},
    {"unpacklo_pd, unpackhi_pd", Equal::kBits, INSTRUCTION({
       const __m512d x = _mm512_castps_pd(Float(a));
       const __m512d y = _mm512_castps_pd(Float(b));
       Put(r, _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_unpackhi_pd(x, y), y)));
     }),
     LOOP(8, r->u64[i] = i % 2 == 0 ? a.u64[i + 1] : b.u64[i - 1])},
    {"broadcast_i32x4", Equal::kBits,
     INSTRUCTION({ Put(r, _mm512_broadcast_i32x4(QuarterInt(a))); }),
     LOOP(16, r->u32[i] = a.u32[i % 4])},
    {"broadcast_i32x8", Equal::kBits, INSTRUCTION(Put(r, _mm512_broadcast_i32x8(HalfInt(a)))),
     LOOP(16, r->u32[i] = a.u32[i % 8])},
    {"broadcast_i64x4", Equal::kBits, INSTRUCTION(Put(r, _mm512_broadcast_i64x4(HalfInt(a)))),
     LOOP(8, r->u64[i] = a.u64[i % 4])},
    {"inserti64x4", Equal::kBits,
     INSTRUCTION({ Put(r, _mm512_inserti64x4(Int(a), _mm512_extracti64x4_epi64(Int(b), 1), 1)); }),
     LOOP(8, r->u64[i] = (i < 4 ? a : b).u64[i])},
    {"extracti32x4_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_extracti32x4_epi32(Int(a), 2))),
     LOOP(4, r->u32[i] = a.u32[8 + i])},
    {"extracti32x8_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_extracti32x8_epi32(Int(a), 1))),
     LOOP(8, r->u32[i] = a.u32[8 + i])},
    {"extractf32x8_ps", Equal::kBits,
     INSTRUCTION(Put(r, _mm256_castps_si256(_mm512_extractf32x8_ps(Float(a), 1)))),
     LOOP(8, r->u32[i] = a.u32[8 + i])},
    {"set4_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_set4_epi32(4, 3, 2, 1))),
     LOOP(16, r->u32[i] = static_cast<uint32_t>(i % 4 + 1))},
    {"setr_epi32", Equal::kBits, INSTRUCTION({
       Put(r, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
     }),
     LOOP(16, r->i32[i] = i)},
    {"setr_epi64", Equal::kBits, INSTRUCTION(Put(r, _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7))),
     LOOP(8, r->u64[i] = static_cast<uint64_t>(i))},
};

PHASOR_INLINE __m128i Count(const Block& x) { return _mm_cvtsi32_si128(x.u8[0] & 63); }

constexpr Case kBits[] = {
    {"and, or, xor", Equal::kBits, INSTRUCTION({
       Put(r, _mm512_xor_si512(_mm512_and_si512(Int(a), Int(b)), _mm512_or_si512(Int(b), Int(c))));
     }),
     LOOP(16, r->u32[i] = (a.u32[i] & b.u32[i]) ^ (b.u32[i] | c.u32[i]))},
    // The immediates that kernels use: a ? b : c, (a & b) | c, a | (b & c).
    {"ternarylogic 0xca", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_ternarylogic_epi32(Int(a), Int(b), Int(c), 0xca))),
     LOOP(16, r->u32[i] = (a.u32[i] & b.u32[i]) | (~a.u32[i] & c.u32[i]))},
    {"ternarylogic 0xea", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_ternarylogic_epi32(Int(a), Int(b), Int(c), 0xea))),
     LOOP(16, r->u32[i] = (a.u32[i] & b.u32[i]) | c.u32[i])},
    {"ternarylogic 0xf8", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_ternarylogic_epi32(Int(a), Int(b), Int(c), 0xf8))),
     LOOP(16, r->u32[i] = a.u32[i] | (b.u32[i] & c.u32[i]))},
    {"slli_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_slli_epi32(Int(a), 7))),
     LOOP(16, r->u32[i] = a.u32[i] << 7)},
    {"srli_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_srli_epi32(Int(a), 7))),
     LOOP(16, r->u32[i] = a.u32[i] >> 7)},
    {"srai_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_srai_epi32(Int(a), 7))),
     LOOP(16, r->i32[i] = a.i32[i] >> 7)},
    {"slli_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_slli_epi16(Int(a), 4))),
     LOOP(32, r->u16[i] = static_cast<uint16_t>(a.u16[i] << 4))},
    {"srli_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_srli_epi16(Int(a), 4))),
     LOOP(32, r->u16[i] = static_cast<uint16_t>(a.u16[i] >> 4))},
    {"srai_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_srai_epi16(Int(a), 4))),
     LOOP(32, r->i16[i] = static_cast<int16_t>(a.i16[i] >> 4))},
    // Counts at and above the width leave nothing.
    {"sll_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_sll_epi32(Int(a), Count(b)))),
     LOOP(16, r->u32[i] = (b.u8[0] & 63) < 32 ? a.u32[i] << (b.u8[0] & 63) : 0)},
    {"srl_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_srl_epi32(Int(a), Count(b)))),
     LOOP(16, r->u32[i] = (b.u8[0] & 63) < 32 ? a.u32[i] >> (b.u8[0] & 63) : 0)},
    {"sll_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_sll_epi16(Int(a), Count(b)))),
     LOOP(32,
          r->u16[i] = static_cast<uint16_t>((b.u8[0] & 63) < 16 ? a.u16[i] << (b.u8[0] & 63) : 0))},
    {"srlv_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_srlv_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = b.u32[i] < 32 ? a.u32[i] >> b.u32[i] : 0)},
    {"srl_epi16", Equal::kBits, INSTRUCTION(Put(r, _mm512_srl_epi16(Int(a), Count(b)))),
     LOOP(32,
          r->u16[i] = static_cast<uint16_t>((b.u8[0] & 63) < 16 ? a.u16[i] >> (b.u8[0] & 63) : 0))},
    {"ror_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_ror_epi32(Int(a), 4))),
     LOOP(16, r->u32[i] = std::rotr(a.u32[i], 4))},
    {"rol_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_rol_epi32(Int(a), 5))),
     LOOP(16, r->u32[i] = a.u32[i] << 5 | a.u32[i] >> 27)},
    // Counts wrap.
    {"rorv_epi32", Equal::kBits, INSTRUCTION(Put(r, _mm512_rorv_epi32(Int(a), Int(b)))),
     LOOP(16, r->u32[i] = a.u32[i] >> (b.u32[i] & 31) | a.u32[i] << (-b.u32[i] & 31))},
    {"rorv_epi64", Equal::kBits, INSTRUCTION(Put(r, _mm512_rorv_epi64(Int(a), Int(b)))),
     LOOP(8, r->u64[i] = a.u64[i] >> (b.u64[i] & 63) | a.u64[i] << (-b.u64[i] & 63))},
};

constexpr Case kMasks[] = {
    {"cmp_ps_mask > < = ordered", Equal::kBits, INSTRUCTION({
       r->u32[0] = _mm512_cmp_ps_mask(Float(a), Float(b), _CMP_GT_OQ);
       r->u32[1] = _mm512_cmp_ps_mask(Float(a), Float(b), _CMP_LT_OQ);
       r->u32[2] = _mm512_cmp_ps_mask(Float(a), Float(b), _CMP_EQ_OQ);
       r->u32[3] = _mm512_cmp_ps_mask(Float(a), Float(b), _CMP_ORD_Q);
       r->u32[4] = _mm256_cmp_ps_mask(HalfFloat(a), HalfFloat(b), _CMP_GT_OQ);
       r->u32[5] = _mm256_cmp_ps_mask(HalfFloat(a), HalfFloat(b), _CMP_LT_OQ);
     }),
     LOOP(16,
          {
            const float x = a.f32[i], y = b.f32[i];
            r->u32[0] |= static_cast<uint32_t>(x > y) << i;
            r->u32[1] |= static_cast<uint32_t>(x < y) << i;
            r->u32[2] |= static_cast<uint32_t>(x == y) << i;
            r->u32[3] |= static_cast<uint32_t>(!std::isnan(x) && !std::isnan(y)) << i;
            if (i < 8) r->u32[4] |= static_cast<uint32_t>(x > y) << i;
            if (i < 8) r->u32[5] |= static_cast<uint32_t>(x < y) << i;
          })},
    {"test_epi32_mask", Equal::kBits,
     INSTRUCTION(r->u32[0] = _mm512_test_epi32_mask(Int(a), Int(b))),
     LOOP(16, r->u32[0] |= static_cast<uint32_t>((a.u32[i] & b.u32[i]) != 0) << i)},
    {"test_epi8_mask", Equal::kBits, INSTRUCTION(r->u64[0] = _mm512_test_epi8_mask(Int(a), Int(b))),
     LOOP(64, r->u64[0] |= static_cast<uint64_t>((a.u8[i] & b.u8[i]) != 0) << i)},
    {"cmple_epi8_mask", Equal::kBits,
     INSTRUCTION(r->u64[0] = _mm512_cmple_epi8_mask(Int(a), Int(b))),
     LOOP(64,
          {
            const bool less = static_cast<int8_t>(a.u8[i]) <= static_cast<int8_t>(b.u8[i]);
            r->u64[0] |= static_cast<uint64_t>(less) << i;
          })},
    // NaN, infinity of either sign, zero of either sign with subnormal numbers, below zero.
    {"fpclass_ps_mask", Equal::kBits, INSTRUCTION({
       r->u32[0] = _mm512_fpclass_ps_mask(Float(a), 0x81);
       r->u32[1] = _mm512_fpclass_ps_mask(Float(a), 0x08);
       r->u32[2] = _mm512_fpclass_ps_mask(Float(a), 0x10);
       r->u32[3] = _mm512_fpclass_ps_mask(Float(a), 0x26);
       r->u32[4] = _mm512_fpclass_ps_mask(Float(a), 0x40);
     }),
     LOOP(16,
          {
            const float x = a.f32[i];
            const int kind = std::fpclassify(x);
            r->u32[0] |= static_cast<uint32_t>(std::isnan(x)) << i;
            r->u32[1] |= static_cast<uint32_t>(std::isinf(x) && x > 0) << i;
            r->u32[2] |= static_cast<uint32_t>(std::isinf(x) && x < 0) << i;
            r->u32[3] |= static_cast<uint32_t>(kind == FP_ZERO || kind == FP_SUBNORMAL) << i;
            r->u32[4] |= static_cast<uint32_t>(std::isfinite(x) && x < 0) << i;
          })},
    {"mask_mov_ps", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_mask_mov_ps(Float(a), c.u16[0], Float(b)))),
     LOOP(16, r->u32[i] = ((c.u16[0] >> i & 1) != 0 ? b : a).u32[i])},
    {"maskz_mov_ps", Equal::kBits, INSTRUCTION(Put(r, _mm512_maskz_mov_ps(c.u16[0], Float(a)))),
     LOOP(16, r->u32[i] = (c.u16[0] >> i & 1) != 0 ? a.u32[i] : 0)},
    {"mask_sub_ps", Equal::kFloats,
     INSTRUCTION(Put(r, _mm512_mask_sub_ps(Float(a), c.u16[0], Float(b), Float(a)))),
     LOOP(16, r->f32[i] = (c.u16[0] >> i & 1) != 0 ? b.f32[i] - a.f32[i] : a.f32[i])},
    {"maskz_max_ps", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_maskz_max_ps(c.u16[0], Float(a), Float(b)))),
     LOOP(16,
          {
            const bool first = a.f32[i] > b.f32[i];
            r->u32[i] = (c.u16[0] >> i & 1) == 0 ? 0 : (first ? a : b).u32[i];
          })},
    {"mask_shuffle_epi8", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_mask_shuffle_epi8(Int(c), c.u64[0], Int(a), Int(b)))),
     LOOP(64,
          {
            const uint8_t found = (b.u8[i] & 128) != 0 ? 0 : a.u8[(i & ~15) + (b.u8[i] & 15)];
            r->u8[i] = (c.u64[0] >> i & 1) != 0 ? found : c.u8[i];
          })},
    {"mask_sub_epi8", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_mask_sub_epi8(Int(c), c.u64[1], Int(a), Int(b)))),
     LOOP(64,
          r->u8[i] = (c.u64[1] >> i & 1) != 0 ? static_cast<uint8_t>(a.u8[i] - b.u8[i]) : c.u8[i])},
    {"mask_blend_epi16", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_mask_blend_epi16(c.u32[0], Int(a), Int(b)))),
     LOOP(32, r->u16[i] = ((c.u32[0] >> i & 1) != 0 ? b : a).u16[i])},
    {"loads under a mask", Equal::kBits,
     INSTRUCTION(
         Put(r, _mm512_mask_loadu_ps(_mm512_maskz_loadu_ps(c.u16[0], a.f32), c.u16[1], b.f32))),
     LOOP(16,
          {
            const uint32_t otherwise = (c.u16[0] >> i & 1) != 0 ? a.u32[i] : 0;
            r->u32[i] = (c.u16[1] >> i & 1) != 0 ? b.u32[i] : otherwise;
          })},
    {"stores under a mask", Equal::kBits, INSTRUCTION({
       Put(r, Int(c));
       _mm512_mask_storeu_ps(r, c.u16[0], Float(a));
       _mm512_mask_storeu_epi32(r, c.u16[1], Int(b));
     }),
     LOOP(16,
          {
            r->u32[i] = c.u32[i];
            if ((c.u16[0] >> i & 1) != 0) r->u32[i] = a.u32[i];
            if ((c.u16[1] >> i & 1) != 0) r->u32[i] = b.u32[i];
          })},
    {"loads and stores of 16 bits under a mask", Equal::kBits, INSTRUCTION({
       Put(r, Int(c));
       _mm256_mask_storeu_epi16(r, c.u16[0], _mm256_maskz_loadu_epi16(c.u16[1], &a));
     }),
     LOOP(32,
          {
            const uint16_t loaded = (c.u16[1] >> (i & 15) & 1) != 0 ? a.u16[i] : 0;
            r->u16[i] = i < 16 && (c.u16[0] >> i & 1) != 0 ? loaded : c.u16[i];
          })},
};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

PHASOR_BEGIN_AVX512_VBMI
namespace phasor {
namespace {

constexpr Case kVbmi[] = {
    {"permutexvar_epi8", Equal::kBits, INSTRUCTION(Put(r, _mm512_permutexvar_epi8(Int(a), Int(b)))),
     LOOP(64, r->u8[i] = b.u8[a.u8[i] & 63])},
    {"permutex2var_epi8", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_permutex2var_epi8(Int(a), Int(b), Int(c)))),
     LOOP(64, r->u8[i] = ((b.u8[i] & 64) != 0 ? c : a).u8[b.u8[i] & 63])},
    {"multishift_epi64_epi8", Equal::kBits,
     INSTRUCTION(Put(r, _mm512_multishift_epi64_epi8(Int(a), Int(b)))),
     LOOP(64, r->u8[i] = static_cast<uint8_t>(std::rotr(b.u64[i / 8], a.u8[i] & 63)))},
};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
namespace {

TEST(Avx512, PermutationsAreThoseOfLoops) { CompareCases(kPlaces, CpuLevel::kAvx512Vnni); }
TEST(Avx512, ShiftsAndLogicAreThoseOfLoops) { CompareCases(kBits, CpuLevel::kAvx512Vnni); }
TEST(Avx512, VbmiIsThatOfLoops) { CompareCases(kVbmi, CpuLevel::kAvx512); }
TEST(Avx512, MasksAreThoseOfLoops) { CompareCases(kMasks, CpuLevel::kAvx512Vnni); }

}  // namespace
}  // namespace phasor
#endif  // __x86_64__
