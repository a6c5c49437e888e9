#include "bench/memory_kernels.h"

#include <cstring>

#include "simd/target.h"

#if defined(__x86_64__)
#include "simd/avx512.h"
#define PHASOR_MEMORY_X86 1
#endif

namespace phasor::bench {
namespace {

uint64_t ReadScalar(const std::byte* data, std::size_t size_bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (std::size_t i = 0; i < size_bytes / sizeof(uint64_t); i += 4) {
    a ^= words[i];
    b ^= words[i + 1];
    c ^= words[i + 2];
    d ^= words[i + 3];
  }
  return a ^ b ^ c ^ d;
}

}  // namespace
}  // namespace phasor::bench

#ifdef PHASOR_MEMORY_X86

namespace phasor::bench {
namespace {
constexpr std::size_t kStepBytes = 512;
}
}  // namespace phasor::bench

PHASOR_BEGIN_AVX2
namespace phasor::bench {
namespace {

uint64_t ReadAvx2(const std::byte* data, std::size_t size_bytes, std::size_t prefetch_bytes) {
  __m256i sum[8];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (std::size_t at = 0; at < size_bytes; at += kStepBytes) {
    if (prefetch_bytes > 0) {
      for (std::size_t line = 0; line < kStepBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(data + at + line + prefetch_bytes), _MM_HINT_T0);
      }
    }
    for (std::size_t i = 0; i < kStepBytes / 32; ++i) {
      const auto* p = reinterpret_cast<const __m256i*>(data + at + 32 * i);
      sum[i % 8] = _mm256_xor_si256(sum[i % 8], _mm256_load_si256(p));
    }
  }
  for (int i = 1; i < 8; ++i) sum[0] = _mm256_xor_si256(sum[0], sum[i]);
  uint64_t words[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), sum[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}

void CopyAvx2(const std::byte* from, std::byte* to, std::size_t size_bytes) {
  for (std::size_t at = 0; at < size_bytes; at += 128) {
    __m256i x[4];
    for (int i = 0; i < 4; ++i) {
      x[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(from + at) + i);
    }
    for (int i = 0; i < 4; ++i) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at) + i, x[i]);
    }
  }
  _mm_sfence();
}

}  // namespace
}  // namespace phasor::bench
PHASOR_END_TARGET

PHASOR_BEGIN_AVX512
namespace phasor::bench {
namespace {

uint64_t ReadAvx512(const std::byte* data, std::size_t size_bytes, std::size_t prefetch_bytes) {
  __m512i sum[8];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (std::size_t at = 0; at < size_bytes; at += kStepBytes) {
    if (prefetch_bytes > 0) {
      for (std::size_t line = 0; line < kStepBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(data + at + line + prefetch_bytes), _MM_HINT_T0);
      }
    }
    for (std::size_t i = 0; i < kStepBytes / 64; ++i) {
      sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(data + at + 64 * i));
    }
  }
  for (int i = 1; i < 8; ++i) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  uint64_t words[8];
  _mm512_storeu_si512(words, sum[0]);
  for (int i = 1; i < 8; ++i) words[0] ^= words[i];
  return words[0];
}

void CopyAvx512(const std::byte* from, std::byte* to, std::size_t size_bytes) {
  for (std::size_t at = 0; at < size_bytes; at += 256) {
    __m512i x[4];
    for (int i = 0; i < 4; ++i) x[i] = _mm512_load_si512(from + at + 64 * i);
    for (int i = 0; i < 4; ++i) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at) + i, x[i]);
    }
  }
  _mm_sfence();
}

}  // namespace
}  // namespace phasor::bench
PHASOR_END_TARGET

#endif  // PHASOR_MEMORY_X86

namespace phasor::bench {

uint64_t ReadMemory(CpuLevel level, const std::byte* data, std::size_t size_bytes,
                    std::size_t prefetch_bytes) {
#ifdef PHASOR_MEMORY_X86
  if (IsAvx512(level)) return ReadAvx512(data, size_bytes, prefetch_bytes);
  if (level == CpuLevel::kAvx2) return ReadAvx2(data, size_bytes, prefetch_bytes);
#endif
  return ReadScalar(data, size_bytes);
}

void CopyMemory(CpuLevel level, const std::byte* from, std::byte* to, std::size_t size_bytes) {
#ifdef PHASOR_MEMORY_X86
  if (IsAvx512(level)) return CopyAvx512(from, to, size_bytes);
  if (level == CpuLevel::kAvx2) return CopyAvx2(from, to, size_bytes);
#endif
  std::memcpy(to, from, size_bytes);
}

}  // namespace phasor::bench
