#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "registry/weight_codec_table.h"
#include "tensor/half.h"

namespace phasor {
namespace {

struct GoldenRow {
  const WeightCodecInfo* codec;
  std::string label;
  int64_t n;
  std::vector<std::byte> data;
  std::vector<float> expected;
};

// tests/golden/weights.*, written by scripts/make_golden_weights.py from the gguf package.
std::vector<GoldenRow> LoadGolden() {
  const std::string stem = std::string(PHASOR_SOURCE_DIR) + "/tests/golden/weights";
  auto index = ReadFile(stem + ".json");
  auto blob = ReadFile(stem + ".bin");
  std::vector<GoldenRow> rows;
  if (!index.ok() || !blob.ok()) return rows;
  for (const auto& e : nlohmann::json::parse(*index)) {
    GoldenRow row;
    row.label = e["type"].get<std::string>();
    row.codec = nullptr;
    for (const WeightCodecInfo* codec : WeightCodecs()) {
      if (GetDTypeInfo(codec->dtype).name == row.label) row.codec = codec;
    }
    row.n = e["n"].get<int64_t>();
    row.data.resize(e["data_bytes"].get<std::size_t>());
    row.expected.resize(static_cast<std::size_t>(row.n));
    std::memcpy(row.data.data(), blob->data() + e["data_offset"].get<std::size_t>(),
                row.data.size());
    std::memcpy(row.expected.data(), blob->data() + e["float_offset"].get<std::size_t>(),
                row.expected.size() * sizeof(float));
    rows.push_back(std::move(row));
  }
  return rows;
}

TEST(WeightCodec, DecodesEveryTypeToTheBitsOfTheReferencePackage) {
  std::vector<GoldenRow> rows = LoadGolden();
  ASSERT_EQ(rows.size(), 16u);
  for (const GoldenRow& row : rows) {
    ASSERT_NE(row.codec, nullptr) << row.label;
    ASSERT_EQ(static_cast<int64_t>(row.data.size()), RowBytes(row.codec->dtype, row.n));
    std::vector<float> got(static_cast<std::size_t>(row.n));
    row.codec->decode(row.data.data(), row.n, got.data());
    for (int64_t i = 0; i < row.n; ++i) {
      ASSERT_EQ(got[i], row.expected[i]) << row.label << " weight " << i;
    }
  }
}

TEST(WeightCodec, UnpackedCodesScalesAndOffsetsGiveTheDecodedWeights) {
  // scale * code + offset rounds twice more than the decoder, each time at most half a unit of the
  // largest intermediate, |scale| * 2^code_bits.
  constexpr float kUlps = 2.0f * 0x1.0p-24f;
  for (const GoldenRow& row : LoadGolden()) {
    if (row.codec->is_float) continue;
    CodeBlock block;
    for (int64_t i = 0; i < row.n; ++i) {
      if (i % kCodeBlock == 0) row.codec->unpack(row.data.data(), i / kCodeBlock, &block);
      int code = block.code[i % kCodeBlock], half = static_cast<int>(i % kCodeBlock / 16);
      ASSERT_LT(code, 1 << row.codec->code_bits) << row.label;
      float w = block.scale[half] * static_cast<float>(code) + block.offset[half];
      float largest = std::abs(block.scale[half]) * static_cast<float>(1 << row.codec->code_bits) +
                      std::abs(block.offset[half]);
      ASSERT_NEAR(w, row.expected[i], kUlps * largest) << row.label << " weight " << i;
    }
  }
}

TEST(WeightCodec, ScaleFormDescribesTheUnpackedFactors) {
  for (const GoldenRow& row : LoadGolden()) {
    const WeightCodecInfo& codec = *row.codec;
    ASSERT_EQ(codec.is_float, codec.scale_form == ScaleForm::kNone);
    if (codec.is_float) continue;
    const float zero_code = static_cast<float>(1 << (codec.code_bits - 1));
    for (int64_t b = 0; b < row.n / kCodeBlock; ++b) {
      CodeBlock block;
      codec.unpack(row.data.data(), b, &block);
      for (int half = 0; half < 2; ++half) {
        float scale = block.scale[half], offset = block.offset[half];
        switch (codec.scale_form) {
          case ScaleForm::kSymmetric:
            EXPECT_EQ(offset, -zero_code * scale);
            break;
          case ScaleForm::kSuperHalves:
            EXPECT_EQ(offset, -zero_code * scale);
            EXPECT_EQ(scale, block.super_scale * static_cast<float>(block.sub_scale[half]));
            EXPECT_EQ(F16ToF32(F32ToF16(block.super_scale)), block.super_scale);
            break;
          case ScaleForm::kSuperAffine:
            EXPECT_EQ(scale, block.super_scale * static_cast<float>(block.sub_scale[half]));
            EXPECT_EQ(offset, -block.super_offset * static_cast<float>(block.sub_offset[half]));
            EXPECT_EQ(F16ToF32(F32ToF16(block.super_offset)), block.super_offset);
            break;
          default:  // kAffine: both are f16 numbers
            EXPECT_EQ(F16ToF32(F32ToF16(scale)), scale);
            EXPECT_EQ(F16ToF32(F32ToF16(offset)), offset);
        }
      }
      if (!codec.halves_differ) {
        EXPECT_EQ(block.scale[0], block.scale[1]);
      }
    }
  }
}

TEST(WeightCodec, TableHasEveryReadableTypeOnceWithItsTrueSize) {
  EXPECT_EQ(WeightCodecs().size(), 11u);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    EXPECT_EQ(FindWeightCodec(codec->dtype), codec);
    const DTypeInfo& type = GetDTypeInfo(codec->dtype);
    EXPECT_EQ(codec->bits_per_weight, 8.0 * static_cast<double>(type.block_bytes) /
                                          static_cast<double>(type.block_elements))
        << codec->id;
  }
  EXPECT_EQ(FindWeightCodec(static_cast<DType>(999)), nullptr);
}

}  // namespace
}  // namespace phasor
