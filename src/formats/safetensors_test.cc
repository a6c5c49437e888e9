#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>

#include "base/rng.h"
#include "formats/hf_folder.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/touch_tensors.h"

namespace phasor {
namespace {

using phasor::testing::AsBytes;

std::string Image(const std::string& header, std::size_t data_bytes) {
  uint64_t length = header.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
  out += header;
  for (std::size_t i = 0; i < data_bytes; ++i) out += static_cast<char>(i);
  return out;
}

void ExpectError(const std::string& header, std::size_t data_bytes, const std::string& message) {
  std::string image = Image(header, data_bytes);
  Result<SafetensorsFile> file = SafetensorsFile::Parse(AsBytes(image), "x");
  ASSERT_FALSE(file.ok()) << "expected: " << message;
  EXPECT_EQ(file.status().code(), StatusCode::kDataCorrupt);
  EXPECT_EQ(file.status().message(), "x: safetensors: " + message);
}

constexpr const char* kSmall = R"({"__metadata__":{"format":"pt"},)"
                               R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                               R"("b":{"shape":[4],"data_offsets":[32,40],"dtype":"BF16"},)"
                               R"("n":{"dtype":"I64","shape":[],"data_offsets":[24,32]}} )";

TEST(Safetensors, TensorsAreViewsWithInnermostDimensionFirst) {
  std::string image = Image(kSmall, 40);
  Result<SafetensorsFile> file = SafetensorsFile::Parse(AsBytes(image), "x");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->size_bytes(), image.size());
  ASSERT_EQ(file->tensors().size(), 3u);
  const TensorView &a = file->tensors()[0], &b = file->tensors()[1], &n = file->tensors()[2];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype(), DType::kF32);
  EXPECT_EQ(a.n_dims, 2);
  EXPECT_EQ(a.n_cols(), 3);
  EXPECT_EQ(a.n_rows(), 2);
  EXPECT_EQ(a.bytes.size(), 24u);
  EXPECT_EQ(static_cast<int>(a.bytes[5]), 5);
  EXPECT_EQ(b.dtype(), DType::kBF16);
  EXPECT_EQ(b.bytes.size(), 8u);
  EXPECT_EQ(static_cast<int>(b.bytes[0]), 32);
  EXPECT_EQ(n.gguf_type, 27u);
  EXPECT_EQ(n.n_elements(), 1);
  EXPECT_FALSE(n.supported());
  EXPECT_TRUE(n.bytes.empty());
}

TEST(Safetensors, WhatCannotBeUsedIsListed) {
  auto parse_one = [](const char* dtype, const char* shape, int bytes) {
    std::string image = Image(std::string(R"({"t":{"dtype":")") + dtype + R"(","shape":)" + shape +
                                  R"(,"data_offsets":[0,)" + std::to_string(bytes) + "]}}",
                              static_cast<std::size_t>(bytes));
    Result<SafetensorsFile> file = SafetensorsFile::Parse(AsBytes(image), "x");
    EXPECT_TRUE(file.ok()) << file.status().message();
    TensorView t = file->tensors().at(0);
    EXPECT_FALSE(t.supported());
    EXPECT_TRUE(t.bytes.empty());
    return t;
  };
  EXPECT_EQ(parse_one("I8", "[3]", 3).gguf_type, 24u);
  EXPECT_EQ(parse_one("I16", "[3]", 6).gguf_type, 25u);
  EXPECT_EQ(parse_one("I32", "[3]", 12).gguf_type, 26u);
  EXPECT_EQ(parse_one("F64", "[3]", 24).gguf_type, 28u);
  EXPECT_EQ(parse_one("F8_E4M3", "[3]", 3).gguf_type, 0xffffffffu);
  EXPECT_EQ(parse_one("BOOL", "[3]", 3).gguf_type, 0xffffffffu);
  EXPECT_EQ(parse_one("F4", "[4]", 2).gguf_type, 0xffffffffu);
  EXPECT_EQ(parse_one("NEW", "[3]", 17).gguf_type, 0xffffffffu);
  EXPECT_EQ(parse_one("F32", "[3,0]", 0).n_elements(), 0);
  TensorView five = parse_one("F16", "[5,4,3,2,1]", 240);
  EXPECT_EQ(five.n_elements(), 120);
  EXPECT_EQ(five.dims[3], 20);
}

TEST(Safetensors, BadHeadersAreNamed) {
  ExpectError("{", 0,
              "expected valid JSON, found an error at byte 2 (syntax error while parsing object "
              "key - unexpected end of input)");
  ExpectError("[]", 0, "header: expected a JSON object, found an array");
  ExpectError(R"({"a":1})", 0,
              "tensor a: expected dtype: text, shape and data_offsets: whole numbers, found a "
              "number");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1]}})", 4,
              "tensor a: expected dtype, shape and two data_offsets, found less");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}})", 4,
              "tensor a: expected dtype, shape and two data_offsets, found less");
  ExpectError(
      R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
      "tensor a: expected dtype: text, shape and data_offsets: whole numbers, found a value "
      "of another type");
  ExpectError(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4,
              "tensor a: expected dtype: text, shape and data_offsets: whole numbers, found an "
              "array");
  ExpectError(R"({"a":{"dtype":"F32","dtype":"F16"}})", 4,
              "tensor a: expected dtype, shape and data_offsets once each, found key \"dtype\"");
  ExpectError(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{}})", 4,
              "tensor a: expected once, found twice");
  ExpectError(R"({"__metadata__":{"a":{}}})", 0, "__metadata__: expected strings, found an object");
  std::string deep = R"({"a":{"shape":)" + std::string(1'000'000, '[');
  ExpectError(deep, 0,
              "tensor a: expected dtype: text, shape and data_offsets: whole numbers, found an "
              "array");
}

TEST(Safetensors, HeaderLengthIsCheckedAgainstTheFile) {
  for (uint64_t length : {uint64_t{3}, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::string image(reinterpret_cast<const char*>(&length), sizeof(length));
    image += "{}";
    Result<SafetensorsFile> file = SafetensorsFile::Parse(AsBytes(image), "x");
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().message(),
              "x: safetensors: header length: expected at most 100000000 bytes (limit) and 2 "
              "(file), found " +
                  std::to_string(length));
  }
  EXPECT_FALSE(SafetensorsFile::Parse(AsBytes("1234567"), "x").ok());
}

TEST(Safetensors, SizesOffsetsAndCoverageAreChecked) {
  ExpectError(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
              "tensor a: expected the bytes of 2 elements of type F32, found 4 bytes");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
              "tensor a: expected rising data_offsets, found 4 and 0");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3,
              "tensor a: data_offsets end 4 is past the end of the file (3 bytes of tensor data; "
              "truncated?)");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5,
              "expected 4 bytes of tensor data, found 5");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
              R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
              6, "tensor b: expected data_offsets to begin at 4 (no gaps, no overlaps), found 2");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
              R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
              12, "tensor b: expected data_offsets to begin at 4 (no gaps, no overlaps), found 8");
  ExpectError(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4,
              "tensor a: expected fewer than 2^63 elements, found dimension 4294967296");
  ExpectError(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
              "tensor a: expected the bytes of 4611686018427387904 elements of type F32, found 0 "
              "bytes");
}

bool ParseAndTouch(const char* data, std::size_t size) {
  auto copy = std::make_unique<std::byte[]>(size);
  std::memcpy(copy.get(), data, size);
  Result<SafetensorsFile> file = SafetensorsFile::Parse({copy.get(), size}, "damaged");
  if (file.ok()) phasor::testing::TouchTensors(file->tensors());
  return file.ok();
}

TEST(Safetensors, EveryTruncationIsAnError) {
  std::string image = Image(kSmall, 40);
  for (std::size_t size = 0; size < image.size(); ++size) {
    EXPECT_FALSE(ParseAndTouch(image.data(), size)) << size << " of " << image.size() << " bytes";
  }
  EXPECT_TRUE(ParseAndTouch(image.data(), image.size()));
}

TEST(Safetensors, FlippedBytesNeverCrash) {
  constexpr int kRounds = 10000;
  const std::string image = Image(kSmall, 40);
  Rng rng(2);
  int n_valid = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::string damaged = image;
    for (uint64_t n = 1 + rng.Below(3); n > 0; --n) {
      damaged[rng.Below(damaged.size())] ^= static_cast<char>(1 + rng.Below(255));
    }
    n_valid += ParseAndTouch(damaged.data(), damaged.size());
  }
  EXPECT_GT(n_valid, kRounds / 50);
  EXPECT_LT(n_valid, kRounds);
}

}  // namespace
}  // namespace phasor
