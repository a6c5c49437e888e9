#include "formats/gguf_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>

#include "base/rng.h"
#include "tests/support/gguf_builder.h"

namespace phasor {
namespace {

std::string TempPath(const std::string& name) {
  return ::testing::TempDir() + "phasor_gguf_writer_" + name;
}

std::vector<std::byte> RandomBytes(std::size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<std::byte> out(n);
  for (std::byte& b : out) b = static_cast<std::byte>(rng.Below(256));
  return out;
}

template <typename T>
GgufValue Value(GgufType type, bool is_array, std::vector<T> data) {
  return {type, is_array, std::move(data)};
}

// One value and one array of every type, with the extremes of its range.
std::vector<std::pair<std::string, GgufValue>> EveryType() {
  using I = int64_t;
  std::vector<std::pair<std::string, GgufValue>> out;
  const struct {
    const char* name;
    GgufType type;
    I low, high;
  } integers[] = {
      {"u8", GgufType::kU8, 0, 255},
      {"i8", GgufType::kI8, -128, 127},
      {"u16", GgufType::kU16, 0, 65535},
      {"i16", GgufType::kI16, -32768, 32767},
      {"u32", GgufType::kU32, 0, 4294967295},
      {"i32", GgufType::kI32, -2147483647 - 1, 2147483647},
      {"i64", GgufType::kI64, std::numeric_limits<I>::min(), std::numeric_limits<I>::max()},
      {"bool", GgufType::kBool, 0, 1}};
  for (const auto& i : integers) {
    out.emplace_back(i.name, Value<I>(i.type, false, {i.high}));
    out.emplace_back(std::string(i.name) + "s", Value<I>(i.type, true, {i.low, i.high, 1}));
  }
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  out.emplace_back("u64", Value<uint64_t>(GgufType::kU64, false, {most}));
  out.emplace_back("u64s", Value<uint64_t>(GgufType::kU64, true, {0, most}));
  out.emplace_back("f32", Value<double>(GgufType::kF32, false, {-0.15625}));
  out.emplace_back("f32s", Value<double>(GgufType::kF32, true, {1.5, 0.0}));
  out.emplace_back("f64", Value<double>(GgufType::kF64, false, {1.0 / 3}));
  out.emplace_back("f64s", Value<double>(GgufType::kF64, true, {1e300, -1e-300}));
  out.emplace_back("string", GgufString("a b\n\xc3\xa9"));
  out.emplace_back("strings", GgufStrings({"", "x", std::string(1000, 'y')}));
  out.emplace_back("none", GgufStrings({}));
  return out;
}

TEST(GgufWriter, KeysOfEveryTypeComeBackAsTheyWere) {
  GgufHeader header;
  for (const auto& [key, value] : EveryType()) header.Add(key, value);
  const std::string image = header.Bytes();
  auto file = GgufFile::Parse(phasor::testing::AsBytes(image), "image");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata().size(), EveryType().size());
  for (const auto& [key, value] : EveryType()) {
    ASSERT_TRUE(file->Has(key)) << key;
    const GgufValue& read = file->metadata().at(key);
    EXPECT_EQ(read.type, value.type) << key;
    EXPECT_EQ(read.is_array, value.is_array) << key;
    if (value.size() > 0) {
      EXPECT_EQ(read.data, value.data) << key;
    }
    EXPECT_EQ(read.size(), value.size()) << key;
  }
}

TEST(GgufWriter, ShortFormsHaveTheTypesThatModelsUse) {
  GgufHeader header;
  header.Add("n", GgufU32(4000000000u));
  header.Add("x", GgufF32(0.5f));
  header.Add("yes", GgufBool(true));
  header.Add("ids", GgufI32s({1, -2}));
  const std::string image = header.Bytes();
  auto file = GgufFile::Parse(phasor::testing::AsBytes(image), "image");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(*file->GetInt("n"), 4000000000);
  EXPECT_EQ(*file->GetFloat("x"), 0.5);
  EXPECT_TRUE(*file->GetBool("yes"));
  EXPECT_EQ(*file->GetIntArray("ids"), (std::vector<int64_t>{1, -2}));
}

// Sizes that are no multiple of the alignment, data cut at random places.
TEST(GgufWriter, TensorDataComeBackHoweverTheyWereCut) {
  const struct {
    const char* name;
    DType dtype;
    std::vector<int64_t> dims;
  } tensors[] = {{"one", DType::kF32, {1}},         {"f16", DType::kF16, {7, 3}},
                 {"q4", DType::kQ4_0, {32, 5}},     {"q8", DType::kQ8_0, {64, 2, 3}},
                 {"q6", DType::kQ6_K, {256, 1}},    {"q4k", DType::kQ4_K, {512, 3}},
                 {"bf", DType::kBF16, {3, 2, 2, 2}}};
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    GgufHeader header;
    header.Add("general.architecture", GgufString("llama"));
    for (const auto& t : tensors) ASSERT_TRUE(header.AddTensor(t.name, t.dtype, t.dims).ok());
    const std::vector<std::byte> data = RandomBytes(header.data_bytes(), seed);
    const std::string path = TempPath("cut.gguf");
    auto writer = GgufWriter::Create(path, std::move(header));
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    Rng rng(seed);
    for (std::size_t at = 0; at < data.size();) {
      const std::size_t n = std::min<std::size_t>(data.size() - at, rng.Below(300));
      ASSERT_TRUE(writer->Write(std::span(data).subspan(at, n)).ok());
      at += n;
    }
    EXPECT_FALSE(std::filesystem::exists(path)) << "before Commit";
    ASSERT_TRUE(writer->Commit().ok());
    auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status().message();
    ASSERT_EQ(file->tensors().size(), std::size(tensors));
    std::size_t at = 0;
    for (const auto& t : tensors) {
      const TensorView* view = file->FindTensor(t.name);
      ASSERT_NE(view, nullptr) << t.name;
      EXPECT_EQ(view->dtype(), t.dtype);
      ASSERT_EQ(view->n_dims, static_cast<int>(t.dims.size()));
      for (int d = 0; d < view->n_dims; ++d) EXPECT_EQ(view->dims[d], t.dims[d]) << t.name;
      ASSERT_LE(at + view->bytes.size(), data.size());
      EXPECT_EQ(std::memcmp(view->bytes.data(), data.data() + at, view->bytes.size()), 0) << t.name;
      at += view->bytes.size();
    }
    EXPECT_EQ(at, data.size());
    std::filesystem::remove(path);
  }
}

TEST(GgufWriter, MissingDataLeaveNoFile) {
  const std::string path = TempPath("missing.gguf");
  {
    GgufHeader header;
    ASSERT_TRUE(header.AddTensor("a.weight", DType::kF32, {4}).ok());
    ASSERT_TRUE(header.AddTensor("b.weight", DType::kF32, {4}).ok());
    auto writer = GgufWriter::Create(path, std::move(header));
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->Write(RandomBytes(20, 1)).ok());
    const Status status = writer->Commit();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), "gguf: tensor b.weight: expected 16 bytes of data, found 4");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  for (const auto& entry : std::filesystem::directory_iterator(::testing::TempDir())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("phasor_gguf_writer_missing"));
  }
}

TEST(GgufWriter, TensorsThatNoFileCanHoldAreErrors) {
  GgufHeader header;
  EXPECT_EQ(header.AddTensor("a", DType::kQ4_0, {33}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(header.AddTensor("a", DType::kQ4_K, {576, 2}).message(),
            "gguf: tensor a: expected rows of a multiple of 256 elements for Q4_K, found 576");
  EXPECT_FALSE(header.AddTensor("a", DType::kF32, {}).ok());
  EXPECT_FALSE(header.AddTensor("a", DType::kF32, {1, 1, 1, 1, 1}).ok());
  EXPECT_FALSE(header.AddTensor("a", DType::kF32, {0}).ok());
  EXPECT_FALSE(header.AddTensor("a", DType::kF32, {-1}).ok());
  EXPECT_FALSE(header.AddTensor("a", DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}).ok());
  EXPECT_TRUE(header.AddTensor("a", DType::kF32, {1}).ok());
  EXPECT_FALSE(header.AddTensor("a", DType::kF32, {1}).ok());
  EXPECT_EQ(header.n_tensors(), 1);
}

TEST(GgufWriter, APlaceThatCannotBeWrittenIsAnError) {
  EXPECT_FALSE(GgufWriter::Create(TempPath("no_such_folder/x.gguf"), {}).ok());
  EXPECT_FALSE(GgufWriter::Create("/dev/null", {}).ok());
}

}  // namespace
}  // namespace phasor
