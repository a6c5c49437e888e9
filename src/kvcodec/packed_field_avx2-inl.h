// AVX2 pieces that kernels of packed codes (packed_field.h) share. Include only from kernel files.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "simd/target.h"

namespace phasor {
namespace {

// Codes of a run: pointers to the parts of its first slot, order of kFieldParts.
struct Codes {
  const std::byte* part[4];
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// One part of the codes of tokens 8 e .. 8 e + 7 at its place in the code. Counts that all lanes
// share take the plain shift: one by lanes is several times as long on some CPUs (Zen 1).
template <int kPart, int kAt>
inline __m256i Part8(const std::byte* part, int s, int e) {
  const int i = e / 2, half = e % 2;
  __m256i word;
  if constexpr (kPart == 8) {
    word = _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(part + 128 * s + 64 * (i / 4) + 32 * half));
    word = _mm256_srl_epi32(word, _mm_cvtsi32_si128(8 * (i % 4)));
  } else if constexpr (kPart == 4) {
    word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part + 64 * s + 32 * half));
    word = _mm256_srl_epi32(word, _mm_cvtsi32_si128(4 * i));
  } else if constexpr (kPart == 2) {
    word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part + 32 * s));
    word = _mm256_srl_epi32(word, _mm_cvtsi32_si128(4 * i + 2 * half));
  } else {
    word = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(part + 16 * s)));
    const __m256i lane = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    word = _mm256_srlv_epi32(word, _mm256_add_epi32(lane, _mm256_set1_epi32(4 * i + 2 * half)));
  }
  const __m256i bits = _mm256_and_si256(word, _mm256_set1_epi32((1 << kPart) - 1));
  return kAt == 0 ? bits : _mm256_slli_epi32(bits, kAt);
}

template <int kBits>
inline __m256i Code8(const Codes& codes, int s, int e) {
  constexpr int at4 = (kBits & 8) ? 8 : 0, at2 = at4 + (kBits & 4), at1 = at2 + (kBits & 2);
  __m256i code = _mm256_setzero_si256();
  if constexpr ((kBits & 8) != 0) code = Part8<8, 0>(codes.part[0], s, e);
  if constexpr ((kBits & 4) != 0) {
    code = _mm256_or_si256(code, Part8<4, at4>(codes.part[1], s, e));
  }
  if constexpr ((kBits & 2) != 0) {
    code = _mm256_or_si256(code, Part8<2, at2>(codes.part[2], s, e));
  }
  if constexpr ((kBits & 1) != 0) {
    code = _mm256_or_si256(code, Part8<1, at1>(codes.part[3], s, e));
  }
  return code;
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
