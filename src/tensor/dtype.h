// Element types of stored tensors. Numbers equal GGUF's tensor type ids, so that a file's value can
// be checked and named even where phasor cannot use it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace phasor {

enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct DTypeInfo {
  DType dtype;
  const char* name;        // "Q4_1", as other tools print it
  int64_t block_elements;  // elements per block along a row
  int64_t block_bytes;     // bytes per block
};

// Null where phasor does not support the number.
const DTypeInfo* FindDTypeInfo(uint32_t gguf_type);
const DTypeInfo& GetDTypeInfo(DType dtype);
// The name of any known GGUF type number, also of those phasor cannot use; "unknown" otherwise.
const char* GgufTypeName(uint32_t gguf_type);

// Bytes of one row of n_elements; n_elements must be a multiple of block_elements.
inline int64_t RowBytes(DType dtype, int64_t n_elements) {
  const DTypeInfo& info = GetDTypeInfo(dtype);
  return n_elements / info.block_elements * info.block_bytes;
}

}  // namespace phasor
