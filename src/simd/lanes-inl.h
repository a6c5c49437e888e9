// Vectors of PHASOR_LANES floats: 16, 8 or 4, what a register of the CPU level holds. The compilers
// split longer ones, but keep the parts in memory.
//
// No include guard: included once per CPU level by simd/each_level-inl.h, which sets PHASOR_LANES;
// undefined here. 8 stands for AVX2.

constexpr int kLanes = PHASOR_LANES;
constexpr int kParts = 16 / kLanes;  // vectors of 16 numbers
typedef float VF __attribute__((vector_size(4 * PHASOR_LANES), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(4 * PHASOR_LANES), aligned(4), may_alias));
typedef uint8_t B16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int8_t S16 __attribute__((vector_size(16), aligned(1), may_alias));

PHASOR_INLINE VF Load(const float* x) { return *reinterpret_cast<const VF*>(x); }
PHASOR_INLINE void Store(VF v, float* x) { *reinterpret_cast<VF*>(x) = v; }
PHASOR_INLINE B16 LoadBytes(const void* x) { return *static_cast<const B16*>(x); }

typedef float V4 __attribute__((vector_size(16), aligned(4), may_alias));

// Sums of lanes i, i + 4, i + 8 ...
PHASOR_INLINE V4 SumOfQuarters(VF v) {
#if PHASOR_LANES == 16
  return ((__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7)) +
          __builtin_shufflevector(v, v, 8, 9, 10, 11)) +
         __builtin_shufflevector(v, v, 12, 13, 14, 15);
#elif PHASOR_LANES == 8
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  return reinterpret_cast<V4>(v);
#endif
}
PHASOR_INLINE float SumOfLanes(VF v) {
  const V4 sum = SumOfQuarters(v);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
// The sums of four vectors: half the steps of four times one.
PHASOR_INLINE V4 SumsOfLanes(const VF (&v)[4]) {
  V4 low[2], high[2];
  PHASOR_UNROLL for (int i = 0; i < 2; ++i) {
    const V4 a = SumOfQuarters(v[2 * i]), b = SumOfQuarters(v[2 * i + 1]);
    low[i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    high[i] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  }
  return (__builtin_shufflevector(low[0], low[1], 0, 1, 4, 5) +
          __builtin_shufflevector(low[0], low[1], 2, 3, 6, 7)) +
         (__builtin_shufflevector(high[0], high[1], 0, 1, 4, 5) +
          __builtin_shufflevector(high[0], high[1], 2, 3, 6, 7));
}

// Element i becomes element from[i]. Bytes: from 0 .. 15.
#if defined(__clang__)
PHASOR_INLINE VF Rearrange(VF v, VI from) {
  VF out;
  for (int i = 0; i < kLanes; ++i) out[i] = v[from[i]];
  return out;
}
PHASOR_INLINE B16 Rearrange(B16 v, B16 from) {
#if PHASOR_LANES > 4
  return reinterpret_cast<B16>(
      _mm_shuffle_epi8(reinterpret_cast<__m128i>(v), reinterpret_cast<__m128i>(from)));
#else
  B16 out;
  for (int i = 0; i < 16; ++i) out[i] = v[from[i]];
  return out;
#endif
}
#else
PHASOR_INLINE VF Rearrange(VF v, VI from) { return __builtin_shuffle(v, from); }
PHASOR_INLINE B16 Rearrange(B16 v, B16 from) { return __builtin_shuffle(v, from); }
#endif

// Sixteen numbers of 0 .. 255 as bytes, and sixteen signed bytes as floats.
#if PHASOR_LANES == 8
PHASOR_INLINE B16 ToBytes(const VI (&x)[kParts]) {
  // Packing works within halves of a register: 0 .. 3, 8 .. 11, 4 .. 7, 12 .. 15.
  const __m256i words =
      _mm256_packus_epi32(reinterpret_cast<__m256i>(x[0]), reinterpret_cast<__m256i>(x[1]));
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  return reinterpret_cast<B16>(_mm_shuffle_epi32(bytes, 0xd8));
}
PHASOR_INLINE void ToFloats(B16 signed_bytes, VF (&out)[kParts]) {
  const auto bytes = reinterpret_cast<__m128i>(signed_bytes);
  out[0] = reinterpret_cast<VF>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
  out[1] = reinterpret_cast<VF>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))));
}
#else
PHASOR_INLINE B16 ToBytes(const VI (&x)[kParts]) {
  typedef uint8_t Part __attribute__((vector_size(kLanes), aligned(1), may_alias));
  B16 bytes;
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    reinterpret_cast<Part*>(&bytes)[p] = __builtin_convertvector(x[p], Part);
  }
  return bytes;
}
#if PHASOR_LANES == 16 && !defined(PHASOR_EMULATE_AVX512)
PHASOR_INLINE void ToFloats(B16 signed_bytes, VF (&out)[kParts]) {
  // g++ 12 takes bytes apart one by one for the conversion below.
  out[0] = reinterpret_cast<VF>(
      _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(signed_bytes))));
}
#else
PHASOR_INLINE void ToFloats(B16 signed_bytes, VF (&out)[kParts]) {
  typedef int8_t Part __attribute__((vector_size(kLanes), aligned(1), may_alias));
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    out[p] = __builtin_convertvector(
        __builtin_convertvector(reinterpret_cast<const Part*>(&signed_bytes)[p], VI), VF);
  }
}
#endif
#endif
#undef PHASOR_LANES
