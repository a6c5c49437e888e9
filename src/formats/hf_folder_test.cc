#include "formats/hf_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "formats/json_check.h"
#include "tests/support/gguf_builder.h"

namespace phasor {
namespace {

using phasor::testing::WriteTestFile;

// A folder that is removed at the end; Put writes one of its files.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = ::testing::TempDir() + "phasor_hf_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  void Put(const std::string& name, const std::string& contents) const {
    ASSERT_TRUE(WriteTestFile(path_ + "/" + name, contents));
  }
  void Remove(const std::string& name) const { std::filesystem::remove(path_ + "/" + name); }

 private:
  std::string path_;
};

// A safetensors file with one F32 tensor of one element.
std::string OneTensor(const std::string& name, float value) {
  std::string header = R"({")" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  uint64_t length = header.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
  out += header;
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return out;
}

constexpr const char* kIndex = R"({"metadata":{"total_size":8,"more":[{"x":[1]}]},)"
                               R"("weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})";

void PutShards(const TempFolder& folder) {
  folder.Put("config.json", R"({"model_type":"llama"})");
  folder.Put("model.safetensors.index.json", kIndex);
  folder.Put("m-1.safetensors", OneTensor("a", 1.0f));
  folder.Put("m-2.safetensors", OneTensor("b", 2.0f));
}

void ExpectError(const TempFolder& folder, StatusCode code, const std::string& message) {
  Result<HfFolder> opened = HfFolder::Open(folder.path());
  ASSERT_FALSE(opened.ok()) << "expected: " << message;
  EXPECT_EQ(opened.status().code(), code);
  EXPECT_EQ(opened.status().message(), folder.path() + message);
}

float FirstFloat(const TensorView* tensor) {
  float value = 0;
  if (tensor != nullptr) std::memcpy(&value, tensor->bytes.data(), sizeof(value));
  return value;
}

TEST(HfFolder, ASingleFileIsOpened) {
  TempFolder folder;
  folder.Put("config.json", R"({"model_type":"llama"})");
  folder.Put("model.safetensors", OneTensor("w", 3.0f));
  Result<HfFolder> opened = HfFolder::Open(folder.path() + "/");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->path(), folder.path());
  EXPECT_EQ(opened->n_parts(), 1);
  EXPECT_EQ(opened->config_json(), R"({"model_type":"llama"})");
  EXPECT_EQ(opened->generation_config_json(), "");
  EXPECT_EQ(FirstFloat(opened->FindTensor("w")), 3.0f);
  EXPECT_EQ(opened->FindTensor("v"), nullptr);
}

TEST(HfFolder, ShardsOfTheIndexAreJoined) {
  TempFolder folder;
  PutShards(folder);
  folder.Put("generation_config.json", R"({"eos_token_id":2})");
  Result<HfFolder> opened = HfFolder::Open(folder.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  HfFolder moved = std::move(opened).value();  // views must survive the move
  EXPECT_EQ(moved.n_parts(), 2);
  EXPECT_EQ(moved.size_bytes(), OneTensor("a", 1.0f).size() * 2);
  EXPECT_EQ(moved.generation_config_json(), R"({"eos_token_id":2})");
  EXPECT_EQ(FirstFloat(moved.FindTensor("a")), 1.0f);
  EXPECT_EQ(FirstFloat(moved.FindTensor("b")), 2.0f);
}

TEST(HfFolder, MissingFilesAreNamed) {
  TempFolder folder;
  ExpectError(folder, StatusCode::kNotFound,
              "/config.json: cannot open: No such file or directory");
  folder.Put("config.json", "{}");
  ExpectError(folder, StatusCode::kNotFound,
              ": expected model.safetensors or model.safetensors.index.json, found neither");
  folder.Put("pytorch_model.bin", "x");
  ExpectError(folder, StatusCode::kNotFound,
              ": expected model.safetensors or model.safetensors.index.json, found only "
              "pytorch_model.bin, which phasor does not read");
  PutShards(folder);
  folder.Remove("m-2.safetensors");
  ExpectError(folder, StatusCode::kNotFound,
              "/model.safetensors.index.json: expected the file m-2.safetensors beside it, found "
              "none");
  EXPECT_EQ(HfFolder::Open(folder.path() + "/config.json").status().message(),
            folder.path() + "/config.json: expected a model folder, found a file");
  EXPECT_EQ(HfFolder::Open(folder.path() + "/none").status().code(), StatusCode::kNotFound);
}

TEST(HfFolder, ShardsThatDisagreeWithTheIndexAreErrors) {
  TempFolder folder;
  PutShards(folder);
  folder.Put("m-2.safetensors", OneTensor("c", 2.0f));
  ExpectError(folder, StatusCode::kDataCorrupt,
              "/model.safetensors.index.json: weight_map: expected tensor b in m-2.safetensors, "
              "found none");
  folder.Put("m-2.safetensors", OneTensor("a", 2.0f));
  ExpectError(folder, StatusCode::kDataCorrupt,
              "/m-2.safetensors: safetensors: tensor a: expected in one file, found in two");
}

TEST(HfFolder, ShardNamesMustStayInTheFolder) {
  TempFolder folder;
  PutShards(folder);
  for (std::string name :
       {"../m-1.safetensors", "sub/m.safetensors", "..safetensors", "m.bin", ".safetensors", ""}) {
    folder.Put("model.safetensors.index.json", R"({"weight_map":{"a":")" + name + R"("}})");
    ExpectError(folder, StatusCode::kDataCorrupt,
                "/model.safetensors.index.json: weight_map: tensor a: expected the name of a "
                ".safetensors file in this folder, found \"" +
                    name + "\"");
  }
}

TEST(HfFolder, BadIndexesAreErrors) {
  TempFolder folder;
  PutShards(folder);
  const std::string where = "/model.safetensors.index.json: ";
  folder.Put("model.safetensors.index.json", R"({"weight_map":{}})");
  ExpectError(folder, StatusCode::kDataCorrupt,
              where + "expected weight_map to name tensors, found none");
  folder.Put("model.safetensors.index.json", R"({"weight_map":{"a":3}})");
  ExpectError(folder, StatusCode::kDataCorrupt,
              where + "weight_map: tensor a: expected a file name, found another value");
  folder.Put("model.safetensors.index.json", R"({"weight_map":{"a":{"b":"m-1.safetensors"}}})");
  ExpectError(folder, StatusCode::kDataCorrupt,
              where + "weight_map: tensor a: expected a file name, found another value");
  folder.Put("model.safetensors.index.json", "[1]");
  ExpectError(folder, StatusCode::kDataCorrupt,
              where + "expected a JSON object, found another value");
}

TEST(HfFolder, ConfigsMustBeJsonObjects) {
  TempFolder folder;
  PutShards(folder);
  folder.Put("generation_config.json", "3");
  ExpectError(folder, StatusCode::kDataCorrupt,
              "/generation_config.json: expected a JSON object, found another value");
  folder.Put("config.json", "{\"a\":\xff}");
  ExpectError(folder, StatusCode::kDataCorrupt,
              "/config.json: expected valid JSON, found an error at byte 6 (syntax error while "
              "parsing value - invalid literal)");
}

TEST(JsonCheck, DepthIsBounded) {
  auto nested = [](int depth) {
    // The outer object is one level.
    auto n = static_cast<std::size_t>(depth - 1);
    return R"({"a":)" + std::string(n, '[') + std::string(n, ']') + "}";
  };
  EXPECT_TRUE(CheckJsonObject(nested(kMaxJsonDepth), "x").ok());
  EXPECT_EQ(CheckJsonObject(nested(kMaxJsonDepth + 1), "x").message(),
            "x: expected JSON nested at most 64 deep, found more");
  EXPECT_FALSE(CheckJsonObject(R"({"a":)" + std::string(2'000'000, '['), "x").ok());
}

}  // namespace
}  // namespace phasor
