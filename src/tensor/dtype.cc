#include "tensor/dtype.h"

#include "base/check.h"

namespace phasor {
namespace {

constexpr DTypeInfo kInfos[] = {
    {DType::kF32, "F32", 1, 4},       {DType::kF16, "F16", 1, 2},
    {DType::kBF16, "BF16", 1, 2},     {DType::kQ4_0, "Q4_0", 32, 18},
    {DType::kQ4_1, "Q4_1", 32, 20},   {DType::kQ5_0, "Q5_0", 32, 22},
    {DType::kQ5_1, "Q5_1", 32, 24},   {DType::kQ8_0, "Q8_0", 32, 34},
    {DType::kQ4_K, "Q4_K", 256, 144}, {DType::kQ5_K, "Q5_K", 256, 176},
    {DType::kQ6_K, "Q6_K", 256, 210},
};

}  // namespace

const DTypeInfo* FindDTypeInfo(uint32_t gguf_type) {
  for (const DTypeInfo& info : kInfos) {
    if (static_cast<uint32_t>(info.dtype) == gguf_type) return &info;
  }
  return nullptr;
}

const DTypeInfo& GetDTypeInfo(DType dtype) {
  const DTypeInfo* info = FindDTypeInfo(static_cast<uint32_t>(dtype));
  PHASOR_CHECK(info != nullptr);
  return *info;
}

const char* GgufTypeName(uint32_t gguf_type) {
  if (const DTypeInfo* info = FindDTypeInfo(gguf_type)) return info->name;
  switch (gguf_type) {
    case 9:
      return "Q8_1";
    case 10:
      return "Q2_K";
    case 11:
      return "Q3_K";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 20:
      return "IQ4_NL";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 23:
      return "IQ4_XS";
    case 24:
      return "I8";
    case 25:
      return "I16";
    case 26:
      return "I32";
    case 27:
      return "I64";
    case 28:
      return "F64";
    case 29:
      return "IQ1_M";
    case 34:
      return "TQ1_0";
    case 35:
      return "TQ2_0";
    case 39:
      return "MXFP4";
    default:
      return "unknown";
  }
}

}  // namespace phasor
