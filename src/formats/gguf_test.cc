#include "formats/gguf.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/gguf_builder.h"

namespace phasor {
namespace {

using phasor::testing::AsBytes;
using phasor::testing::GgufBuilder;

// Owns the image: GgufFile::Parse only borrows it.
struct Parsed {
  std::string image;
  Result<GgufFile> file;
  explicit Parsed(const GgufBuilder& b) : image(b.Build()), file(Parse(image)) {}
  static Result<GgufFile> Parse(const std::string& image) {
    return GgufFile::Parse(AsBytes(image), "test.gguf");
  }
};

void ExpectError(const GgufBuilder& builder, StatusCode code, const std::string& message) {
  Parsed p(builder);
  ASSERT_FALSE(p.file.ok()) << "expected: " << message;
  EXPECT_EQ(p.file.status().code(), code) << p.file.status().message();
  EXPECT_EQ(p.file.status().message(), "test.gguf: gguf: " + message);
}

// A tensor of 32 F32 values: 128 bytes.
std::string Ones(std::size_t n = 32) {
  std::vector<float> v(n, 1.0f);
  return {reinterpret_cast<const char*>(v.data()), n * sizeof(float)};
}
constexpr uint32_t kF32 = 0;

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = ::testing::TempDir() + "phasor_gguf_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

TEST(Gguf, ScalarsOfEveryTypeAreRead) {
  Parsed p(GgufBuilder()
               .Add("u8", uint8_t{255})
               .Add("i8", int8_t{-128})
               .Add("u16", uint16_t{65535})
               .Add("i16", int16_t{-32768})
               .Add("u32", uint32_t{4294967295u})
               .Add("i32", int32_t{-2147483647 - 1})
               .Add("f32", 0.5f)
               .Add("yes", true)
               .Add("no", false)
               .Add("text", "caf\xc3\xa9")
               .Add("u64", uint64_t{1} << 40)
               .Add("i64", int64_t{-1} - (int64_t{1} << 40))
               .Add("f64", 1e-300));
  ASSERT_TRUE(p.file.ok()) << p.file.status().message();
  const GgufFile& f = *p.file;
  EXPECT_EQ(f.version(), 3u);
  EXPECT_EQ(f.metadata().size(), 13u);
  EXPECT_EQ(f.GetInt("u8").value(), 255);
  EXPECT_EQ(f.GetInt("i8").value(), -128);
  EXPECT_EQ(f.GetInt("u16").value(), 65535);
  EXPECT_EQ(f.GetInt("i16").value(), -32768);
  EXPECT_EQ(f.GetInt("u32").value(), 4294967295);
  EXPECT_EQ(f.GetInt("i32").value(), -2147483648);
  EXPECT_EQ(f.GetFloat("f32").value(), 0.5);
  EXPECT_TRUE(f.GetBool("yes").value());
  EXPECT_FALSE(f.GetBool("no").value());
  EXPECT_EQ(f.GetString("text").value(), "caf\xc3\xa9");
  EXPECT_EQ(f.GetInt("u64").value(), int64_t{1} << 40);
  EXPECT_EQ(f.GetInt("i64").value(), -1 - (int64_t{1} << 40));
  EXPECT_EQ(f.GetFloat("f64").value(), 1e-300);
}

TEST(Gguf, ArraysOfEveryTypeAreRead) {
  Parsed p(GgufBuilder()
               .Add("u8", std::vector<uint8_t>{0, 255})
               .Add("i8", std::vector<int8_t>{-1, 1})
               .Add("u16", std::vector<uint16_t>{9})
               .Add("i16", std::vector<int16_t>{-9})
               .Add("u32", std::vector<uint32_t>{})
               .Add("i32", std::vector<int32_t>{1, -2, 3})
               .Add("f32", std::vector<float>{0.5f, -2.0f})
               .Add("b", std::vector<bool>{true, false})
               .Add("s", std::vector<std::string>{"", "ab", "c"})
               .Add("u64", std::vector<uint64_t>{7, 8})
               .Add("i64", std::vector<int64_t>{-7})
               .Add("f64", std::vector<double>{1e300}));
  ASSERT_TRUE(p.file.ok()) << p.file.status().message();
  const GgufFile& f = *p.file;
  EXPECT_EQ(f.GetIntArray("u8").value(), (std::vector<int64_t>{0, 255}));
  EXPECT_EQ(f.GetIntArray("i8").value(), (std::vector<int64_t>{-1, 1}));
  EXPECT_EQ(f.GetIntArray("u16").value(), (std::vector<int64_t>{9}));
  EXPECT_EQ(f.GetIntArray("i16").value(), (std::vector<int64_t>{-9}));
  EXPECT_EQ(f.GetIntArray("u32").value(), (std::vector<int64_t>{}));
  EXPECT_EQ(f.GetIntArray("i32").value(), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(f.GetFloatArray("f32").value(), (std::vector<double>{0.5, -2.0}));
  EXPECT_EQ(f.GetFloatArray("i32").value(), (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(f.GetIntArray("b").value(), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(*f.GetStringArray("s").value(), (std::vector<std::string>{"", "ab", "c"}));
  EXPECT_EQ(f.GetIntArray("u64").value(), (std::vector<int64_t>{7, 8}));
  EXPECT_EQ(f.GetIntArray("i64").value(), (std::vector<int64_t>{-7}));
  EXPECT_EQ(f.GetFloatArray("f64").value(), (std::vector<double>{1e300}));
}

TEST(Gguf, GettersSayWhatWasExpectedAndFound) {
  uint64_t big = std::numeric_limits<uint64_t>::max();
  Parsed p(GgufBuilder()
               .Add("n", uint32_t{2})
               .Add("s", "x")
               .Add("big", big)
               .Add("a", std::vector<uint64_t>{1, big})
               .Add("f", 1.5f));
  const GgufFile& f = p.file.value();
  auto expect = [](const Status& s, StatusCode code, const char* message) {
    EXPECT_EQ(s.code(), code);
    EXPECT_EQ(s.message(), message);
  };
  expect(f.GetInt("none").status(), StatusCode::kNotFound,
         "gguf: key none: expected an integer below 2^63, found no such key");
  expect(f.GetInt("s").status(), StatusCode::kInvalidArgument,
         "gguf: key s: expected an integer below 2^63, found string");
  expect(f.GetInt("f").status(), StatusCode::kInvalidArgument,
         "gguf: key f: expected an integer below 2^63, found f32");
  expect(f.GetInt("big").status(), StatusCode::kInvalidArgument,
         "gguf: key big: expected an integer below 2^63, found u64 18446744073709551615");
  expect(f.GetString("n").status(), StatusCode::kInvalidArgument,
         "gguf: key n: expected a string, found u32");
  expect(f.GetString("a").status(), StatusCode::kInvalidArgument,
         "gguf: key a: expected a string, found array of u64");
  expect(f.GetBool("n").status(), StatusCode::kInvalidArgument,
         "gguf: key n: expected a bool, found u32");
  expect(f.GetFloat("s").status(), StatusCode::kInvalidArgument,
         "gguf: key s: expected a number, found string");
  expect(f.GetIntArray("a").status(), StatusCode::kInvalidArgument,
         "gguf: key a: expected an array of integers below 2^63, found array of u64");
  expect(f.GetIntArray("n").status(), StatusCode::kInvalidArgument,
         "gguf: key n: expected an array of integers below 2^63, found u32");
  expect(f.GetStringArray("s").status(), StatusCode::kInvalidArgument,
         "gguf: key s: expected an array of strings, found string");
}

TEST(Gguf, TensorsAreViewsOfTheirBytes) {
  std::string quants(20 * 6, 'q');
  for (uint32_t version : {2u, 3u}) {
    Parsed p(GgufBuilder()
                 .Version(version)
                 .AddF32("norm", {2}, {1.5f, -2.0f})
                 .AddTensor("w", DType::kQ4_1, {64, 3}, quants)
                 .AddF32("cube", {1, 2, 1, 2}, {1, 2, 3, 4}));
    ASSERT_TRUE(p.file.ok()) << p.file.status().message();
    EXPECT_EQ(p.file->version(), version);
    EXPECT_EQ(p.file->size_bytes(), p.image.size());
    ASSERT_EQ(p.file->tensors().size(), 3u);
    const TensorView* w = p.file->FindTensor("w");
    ASSERT_NE(w, nullptr);
    EXPECT_EQ(w->dtype(), DType::kQ4_1);
    EXPECT_EQ(w->n_dims, 2);
    EXPECT_EQ(w->n_cols(), 64);
    EXPECT_EQ(w->n_rows(), 3);
    ASSERT_EQ(w->bytes.size(), quants.size());
    EXPECT_EQ(std::memcmp(w->bytes.data(), quants.data(), quants.size()), 0);
    const TensorView* norm = p.file->FindTensor("norm");
    float value;
    std::memcpy(&value, norm->bytes.data() + 4, 4);
    EXPECT_EQ(value, -2.0f);
    EXPECT_EQ(p.file->FindTensor("cube")->n_elements(), 4);
    EXPECT_EQ(p.file->FindTensor("nothing"), nullptr);
  }
}

TEST(Gguf, AlignmentComesFromTheFile) {
  for (uint32_t alignment : {8u, 64u, 4096u}) {
    Parsed p(GgufBuilder().Alignment(alignment).AddF32("a", {1}, {1}).AddF32("b", {1}, {2}));
    ASSERT_TRUE(p.file.ok()) << p.file.status().message();
    const TensorView *a = p.file->FindTensor("a"), *b = p.file->FindTensor("b");
    EXPECT_EQ(b->bytes.data() - a->bytes.data(), alignment);
    auto* base = reinterpret_cast<const std::byte*>(p.image.data());
    EXPECT_EQ((a->bytes.data() - base) % alignment, 0);
  }
  for (uint32_t alignment : {0u, 4u, 24u}) {
    ExpectError(GgufBuilder().Alignment(alignment).AddF32("a", {1}, {1}), StatusCode::kDataCorrupt,
                "key general.alignment: expected a power of two of at least 8, found " +
                    std::to_string(alignment));
  }
}

TEST(Gguf, UnknownTensorTypesAreListedWithoutBytes) {
  Parsed p(GgufBuilder()
               .AddTensor("new", 99, {7}, std::string(64, 'x'))
               .AddTensor("ints", 26, {4}, std::string(16, 'y'))
               .AddF32("a", {1}, {1}));
  ASSERT_TRUE(p.file.ok()) << p.file.status().message();
  const TensorView* t = p.file->FindTensor("new");
  EXPECT_FALSE(t->supported());
  EXPECT_EQ(t->gguf_type, 99u);
  EXPECT_EQ(t->dims[0], 7);
  EXPECT_TRUE(t->bytes.empty());
  EXPECT_TRUE(p.file->FindTensor("ints")->bytes.empty());
  EXPECT_EQ(p.file->FindTensor("a")->bytes.size(), 4u);
}

TEST(Gguf, WrongMagicVersionAndByteOrderAreNamed) {
  ExpectError(GgufBuilder().Magic("GGML"), StatusCode::kDataCorrupt,
              "magic: expected \"GGUF\", found \"GGML\"");
  ExpectError(GgufBuilder().Version(1), StatusCode::kUnsupported,
              "version: expected 2 or 3, found 1");
  ExpectError(GgufBuilder().Version(4), StatusCode::kUnsupported,
              "version: expected 2 or 3, found 4");
  const char* big = "byte order: expected a little-endian file, found a big-endian one";
  ExpectError(GgufBuilder().BigEndian().Add("a", 1), StatusCode::kUnsupported, big);
  ExpectError(GgufBuilder().BigEndian().Magic("FUGG"), StatusCode::kUnsupported, big);
}

TEST(Gguf, HostileCountsFailWithoutAllocating) {
  uint64_t huge = uint64_t{1} << 62;
  ExpectError(GgufBuilder().ClaimKeyCount(huge), StatusCode::kDataCorrupt,
              "key count: 4611686018427387904 entries do not fit the 0 bytes left of the file");
  ExpectError(GgufBuilder().ClaimTensorCount(~uint64_t{0}), StatusCode::kDataCorrupt,
              "tensor count: 18446744073709551615 entries do not fit the 0 bytes left of the file");
  std::string array = GgufBuilder::Bytes(uint32_t{8}) + GgufBuilder::Bytes(huge);
  ExpectError(GgufBuilder().AddRaw("k", 9, array), StatusCode::kDataCorrupt,
              "key k: 4611686018427387904 entries do not fit the 0 bytes left of the file");
  ExpectError(GgufBuilder().AddRaw("k", 8, GgufBuilder::Bytes(~uint64_t{0})),
              StatusCode::kDataCorrupt,
              "key k: expected 18446744073709551615 bytes at offset 45, found 0 (truncated?)");
}

TEST(Gguf, BadValuesAreNamed) {
  ExpectError(GgufBuilder().AddRaw("k", 13, "xxxx"), StatusCode::kDataCorrupt,
              "key k: expected a value type of 0 to 12, found 13");
  ExpectError(GgufBuilder().AddRaw("k", 7, "\x02"), StatusCode::kDataCorrupt,
              "key k: expected a bool of 0 or 1, found 2");
  std::string nested = GgufBuilder::Bytes(uint32_t{9}) + GgufBuilder::Bytes(uint64_t{1});
  ExpectError(GgufBuilder().AddRaw("k", 9, nested + std::string(16, '\0')),
              StatusCode::kUnsupported,
              "key k: expected an array of plain values, found an array of arrays");
  ExpectError(GgufBuilder().Add("k", 1).Add("k", 2), StatusCode::kDataCorrupt,
              "key k: expected once, found twice");
  ExpectError(GgufBuilder().Add("", 1), StatusCode::kDataCorrupt,
              "key 1 of 1: expected a name of 1 to 65535 bytes, found 0");
  ExpectError(GgufBuilder().Add("a\x1b[31m", 1).Add("a\x1b[31m", 1), StatusCode::kDataCorrupt,
              "key a\\x1b[31m: expected once, found twice");
}

TEST(Gguf, BadShapesAreNamed) {
  auto tensor = [](std::vector<uint64_t> dims, uint32_t type = kF32) {
    return GgufBuilder().AddTensor("w", type, std::move(dims), Ones());
  };
  ExpectError(tensor({32, 0}), StatusCode::kDataCorrupt,
              "tensor w: expected dimension 1 of at least 1, found 0");
  ExpectError(tensor({1, 1, 1, 1, 1}), StatusCode::kDataCorrupt,
              "tensor w: expected at most 4 dimensions, found 5");
  ExpectError(tensor({uint64_t{1} << 32, uint64_t{1} << 31}), StatusCode::kDataCorrupt,
              "tensor w: expected fewer than 2^63 elements, found dimension 1 = 2147483648");
  ExpectError(tensor({~uint64_t{0}}, 99), StatusCode::kDataCorrupt,
              "tensor w: expected fewer than 2^63 elements, found dimension 0 = "
              "18446744073709551615");
  ExpectError(
      tensor({uint64_t{1} << 62}), StatusCode::kDataCorrupt,
      "tensor w: expected less than 2^63 bytes, found 4611686018427387904 blocks of 4 bytes");
  ExpectError(tensor({48}, 3), StatusCode::kDataCorrupt,
              "tensor w: expected a row length that is a multiple of 32 (Q4_1), found 48");
  ExpectError(tensor({128}, 12), StatusCode::kDataCorrupt,
              "tensor w: expected a row length that is a multiple of 256 (Q4_K), found 128");
}

TEST(Gguf, BadOffsetsAreNamed) {
  auto second = [](uint64_t offset, uint32_t type = kF32) {
    return GgufBuilder()
        .AddTensor("a", kF32, {32}, Ones())
        .AddTensor("b", type, {32}, Ones(), offset);
  };
  ExpectError(second(130), StatusCode::kDataCorrupt,
              "tensor b: expected an offset that is a multiple of 32, found 130");
  ExpectError(second(160), StatusCode::kDataCorrupt,
              "tensor b: offset 160 and size 128 are past the end of the file (256 bytes of tensor "
              "data after byte 96; truncated?)");
  ExpectError(
      second(~uint64_t{31}), StatusCode::kDataCorrupt,
      "tensor b: offset 18446744073709551584 and size 128 are past the end of the file (256 "
      "bytes of tensor data after byte 96; truncated?)");
  ExpectError(second(96), StatusCode::kDataCorrupt,
              "tensor b: expected an offset of its own, found 96, inside tensor a (offset 0, 128 "
              "bytes)");
  ExpectError(second(96, 99), StatusCode::kDataCorrupt,
              "tensor b: expected an offset of its own, found 96, inside tensor a (offset 0, 128 "
              "bytes)");
  ExpectError(GgufBuilder().AddF32("a", {1}, {1}).AddF32("a", {1}, {1}), StatusCode::kDataCorrupt,
              "tensor a: expected once, found twice");
}

// Three parts with one tensor each; part `bad_part` (from 0) states a wrong split.no.
void WriteParts(const TempFolder& folder, int total_tensors = 3, int bad_part = -1) {
  for (int i = 0; i < 3; ++i) {
    GgufBuilder b;
    if (i == 0) b.Add("general.architecture", "llama");
    b.Add("split.no", static_cast<uint16_t>(i == bad_part ? i + 5 : i));
    b.Add("split.count", uint16_t{3});
    b.Add("split.tensors.count", int32_t{total_tensors});
    b.AddF32("t" + std::to_string(i), {1}, {static_cast<float>(i)});
    ASSERT_TRUE(b.WriteFile(folder / ("m-0000" + std::to_string(i + 1) + "-of-00003.gguf")));
  }
}

TEST(GgufSplit, TheFirstPartFindsTheOthers) {
  TempFolder folder;
  WriteParts(folder);
  Result<GgufFile> opened = GgufFile::Open(folder / "m-00001-of-00003.gguf");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  GgufFile file = std::move(opened).value();  // views must survive the move
  EXPECT_EQ(file.n_parts(), 3);
  EXPECT_EQ(file.GetString("general.architecture").value(), "llama");
  ASSERT_EQ(file.tensors().size(), 3u);
  std::size_t size_bytes = 0;
  for (int i = 0; i < 3; ++i) {
    float value;
    std::memcpy(&value, file.FindTensor("t" + std::to_string(i))->bytes.data(), 4);
    EXPECT_EQ(value, static_cast<float>(i));
    size_bytes +=
        std::filesystem::file_size(folder / ("m-0000" + std::to_string(i + 1) + "-of-00003.gguf"));
  }
  EXPECT_EQ(file.size_bytes(), size_bytes);
}

TEST(GgufSplit, AMissingPartIsNamed) {
  TempFolder folder;
  WriteParts(folder);
  std::filesystem::remove(folder / "m-00002-of-00003.gguf");
  Status s = GgufFile::Open(folder / "m-00001-of-00003.gguf").status();
  EXPECT_EQ(s.code(), StatusCode::kNotFound);
  EXPECT_EQ(s.message(),
            "gguf: part 2 of 3 of a split model is missing: " + (folder / "m-00002-of-00003.gguf") +
                ": cannot open: No such file or directory");
}

TEST(GgufSplit, OpeningAnotherPartNamesTheFirst) {
  TempFolder folder;
  WriteParts(folder);
  std::string path = folder / "m-00003-of-00003.gguf";
  Status s = GgufFile::Open(path).status();
  EXPECT_EQ(s.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.message(), path +
                             ": gguf: expected the first part of a split model, found part 3; "
                             "open " +
                             (folder / "m-00001-of-00003.gguf"));
  EXPECT_EQ(GgufFile::Open(folder / "m-00004-of-00003.gguf").status().code(),
            StatusCode::kInvalidArgument);
}

TEST(GgufSplit, KeysThatDisagreeWithTheNamesAreErrors) {
  TempFolder folder;
  std::string first = folder / "m-00001-of-00003.gguf";
  WriteParts(folder, 3, 1);
  EXPECT_EQ(GgufFile::Open(first).status().message(),
            (folder / "m-00002-of-00003.gguf") + ": gguf: key split.no: expected 1, found 6");
  WriteParts(folder, 4);
  EXPECT_EQ(
      GgufFile::Open(first).status().message(),
      first + ": gguf: key split.tensors.count: expected the 3 tensors of all parts, found 4");
  ASSERT_TRUE(GgufBuilder().Add("a", 1).WriteFile(first));
  EXPECT_EQ(GgufFile::Open(first).status().message(),
            first + ": gguf: key split.no: expected 0, found none");
}

TEST(GgufSplit, ATensorInTwoPartsIsAnError) {
  TempFolder folder;
  for (int i = 0; i < 2; ++i) {
    GgufBuilder b;
    b.Add("split.no", uint16_t(i)).Add("split.count", uint16_t{2}).AddF32("same", {1}, {0});
    ASSERT_TRUE(b.WriteFile(folder / ("m-0000" + std::to_string(i + 1) + "-of-00002.gguf")));
  }
  EXPECT_EQ(GgufFile::Open(folder / "m-00001-of-00002.gguf").status().message(),
            (folder / "m-00002-of-00002.gguf") +
                ": gguf: tensor same: expected in one part, found in two");
}

TEST(GgufSplit, ARenamedPartIsRefused) {
  TempFolder folder;
  GgufBuilder b;
  b.Add("split.no", uint16_t{0}).Add("split.count", uint16_t{3}).AddF32("t", {1}, {0});
  ASSERT_TRUE(b.WriteFile(folder / "model.gguf"));
  Status s = GgufFile::Open(folder / "model.gguf").status();
  EXPECT_EQ(s.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(s.message().find("key split.count is 3: expected the parts"), std::string::npos)
      << s.message();
}

}  // namespace
}  // namespace phasor
