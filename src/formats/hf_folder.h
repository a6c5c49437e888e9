// A Hugging Face model folder: config.json and one or more safetensors files.
//
// safetensors: u64 little-endian header length, JSON header {name: {dtype, shape, data_offsets}},
// then raw data. Shards are listed by model.safetensors.index.json. Offsets, overlaps, sizes and
// the header length (at most 100 MB) are checked; dtypes F32, F16 and BF16 can be used. Tensors of
// other dtypes, empty ones and those of more than four dimensions are listed with empty bytes and
// gguf_type 0xffffffff where GGUF has no number for them. The format does not align tensors: read
// their bytes with memcpy.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"  // TensorView
#include "phasor/status.h"

namespace phasor {

// One safetensors file. Tensor dims are reversed to TensorView's innermost-first order.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> Open(const std::string& path);
  static Result<SafetensorsFile> Parse(std::span<const std::byte> bytes, const std::string& name);
  const std::vector<TensorView>& tensors() const { return tensors_; }
  std::size_t size_bytes() const { return size_bytes_; }

 private:
  std::vector<TensorView> tensors_;
  std::size_t size_bytes_ = 0;
  MappedFile map_;
};

class HfFolder {
 public:
  // Requires config.json and either model.safetensors or model.safetensors.index.json.
  static Result<HfFolder> Open(const std::string& folder);

  const std::string& path() const { return path_; }
  std::size_t size_bytes() const { return size_bytes_; }  // of all safetensors files
  int n_parts() const { return static_cast<int>(files_.size()); }
  // The text of config.json (valid JSON object).
  const std::string& config_json() const { return config_json_; }
  // Text of generation_config.json, empty when there is none.
  const std::string& generation_config_json() const { return generation_config_json_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const TensorView* FindTensor(std::string_view name) const;

 private:
  Status OpenAll(const std::string& folder);
  Status AddFile(const std::string& name);
  Status AddShards(const std::string& index_path);

  std::string path_, config_json_, generation_config_json_;
  std::size_t size_bytes_ = 0;
  std::vector<SafetensorsFile> files_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace phasor
