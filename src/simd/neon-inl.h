// Byte products and the other pieces that NEON kernels share. Kernels exist twice: a file named
// *_neon.cc (ARMv8.0) and one named *_neon_dot.cc define PHASOR_NEON_DOT as 0 or 1 and include the
// same source. Include only from those, after everything else: opens no region by itself.
//
//   #define PHASOR_NEON_DOT 1
//   #include "foo_neon-inl.h"   // includes headers, then this one, then PHASOR_BEGIN_NEON ...
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "simd/target.h"

#if PHASOR_NEON_DOT
#define PHASOR_BEGIN_NEON PHASOR_BEGIN_NEON_DOT
#define PHASOR_END_NEON PHASOR_END_TARGET
#else
#define PHASOR_BEGIN_NEON
#define PHASOR_END_NEON
#endif

#undef PHASOR_INLINE
#define PHASOR_INLINE inline __attribute__((always_inline))
#undef PHASOR_UNROLL
#if defined(__clang__)
#define PHASOR_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PHASOR_UNROLL _Pragma("GCC unroll 16")
#endif

PHASOR_BEGIN_NEON
namespace phasor {
namespace {

// sum[l] += the four products of bytes 4 l .. 4 l + 3 of a and b.
//
// Without sdot and udot pairs of products are added in 16 bits, so two neighbouring ones must fit:
// always, but for bytes of -128 on both sides. As assembly because clang's intrinsics for them are
// there only when the whole file is built for ARMv8.2.
PHASOR_INLINE int32x4_t AddByteProducts(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if PHASOR_NEON_DOT
  asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
#else
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  return vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(a, b)));
#endif
}

// Unsigned; without udot two neighbouring products may come to 65535 together.
PHASOR_INLINE uint32x4_t AddByteProducts(uint32x4_t sum, uint8x16_t a, uint8x16_t b) {
#if PHASOR_NEON_DOT
  asm("udot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  return sum;
#else
  const uint16x8_t low = vmull_u8(vget_low_u8(a), vget_low_u8(b));
  return vpadalq_u16(sum, vpaddq_u16(low, vmull_high_u8(a, b)));
#endif
}

// Four bytes, four times.
PHASOR_INLINE int8x16_t Repeat4(const void* four) {
  int32_t x;
  std::memcpy(&x, four, sizeof(x));
  return vreinterpretq_s8_s32(vdupq_n_s32(x));
}
PHASOR_INLINE uint8x16_t Repeat4Unsigned(const void* four) {
  return vreinterpretq_u8_s8(Repeat4(four));
}

PHASOR_INLINE uint8x16_t LoadBytes(const void* at) {
  return vld1q_u8(static_cast<const uint8_t*>(at));
}

// Moves bits of bytes up, or down where `by` is negative; -7 to 7. One instruction without a
// register for the count once the callers' loops are unrolled.
PHASOR_INLINE uint8x16_t ShiftBytes(uint8x16_t x, int by) {
  switch (by) {
    case 7:
      return vshlq_n_u8(x, 7);
    case 6:
      return vshlq_n_u8(x, 6);
    case 5:
      return vshlq_n_u8(x, 5);
    case 4:
      return vshlq_n_u8(x, 4);
    case 3:
      return vshlq_n_u8(x, 3);
    case 2:
      return vshlq_n_u8(x, 2);
    case 1:
      return vshlq_n_u8(x, 1);
    case -1:
      return vshrq_n_u8(x, 1);
    case -2:
      return vshrq_n_u8(x, 2);
    case -3:
      return vshrq_n_u8(x, 3);
    case -4:
      return vshrq_n_u8(x, 4);
    case -5:
      return vshrq_n_u8(x, 5);
    case -6:
      return vshrq_n_u8(x, 6);
    case -7:
      return vshrq_n_u8(x, 7);
    default:
      return x;
  }
}

// Keeps loads of the next unrolled step behind it: GCC 12 would load for all steps first, and spill
// sums.
PHASOR_INLINE void EndStep() { asm volatile("" : : : "memory"); }

// Four f16 numbers.
PHASOR_INLINE float32x4_t LoadF16x4(const void* at) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(at))));
}

}  // namespace
}  // namespace phasor
PHASOR_END_NEON
