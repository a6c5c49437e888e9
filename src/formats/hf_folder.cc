#include "formats/hf_folder.h"

#include <fmt/format.h>

#include <map>
#include <new>
#include <set>
#include <utility>

#include "formats/json_check.h"
#include "formats/json_sax.h"
#include "formats/printable.h"

namespace phasor {
namespace {

constexpr std::size_t kMaxConfigBytes = 16u << 20;
constexpr std::size_t kMaxIndexBytes = 100u << 20;
constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Takes {"weight_map": {tensor: file}} out of the index and skips the rest.
class IndexSax : public JsonSax {
 public:
  std::map<std::string, std::string> weight_map;

  bool start_object(std::size_t) override {
    if (depth_ == 0 || (depth_ == 1 && key_ == "weight_map"))
      in_map_ = depth_ == 1;
    else if (in_map_)
      return Scalar();
    ++depth_;
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }
  bool start_array(std::size_t) override {
    if (in_map_) return Scalar();
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(std::string& key) override {
    if (depth_ == 1 || in_map_) key_ = key;
    return true;
  }
  bool string(std::string& text) override {
    if (!in_map_) return Scalar();
    if (weight_map.emplace(key_, text).second) return true;
    return Fail(fmt::format("weight_map: tensor {}: expected once, found twice", Printable(key_)));
  }

 protected:
  bool Scalar() override {
    if (!in_map_) return true;
    return Fail(fmt::format("weight_map: tensor {}: expected a file name, found another value",
                            Printable(key_)));
  }

 private:
  int depth_ = 0;
  bool in_map_ = false;
  std::string key_;
};

// A shard stands beside its index: a name must not lead out of the folder.
bool IsShardName(std::string_view name) {
  constexpr std::string_view kSuffix = ".safetensors";
  return name.size() > kSuffix.size() && name.ends_with(kSuffix) && name.find('/') == name.npos &&
         name.find('\\') == name.npos && name.find("..") == name.npos &&
         name.find('\0') == name.npos;
}

Result<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxIndexBytes));
  PHASOR_RETURN_IF_ERROR(CheckJsonObject(text, path));
  IndexSax sax;
  if (!nlohmann::json::sax_parse(text, &sax)) return DataCorrupt(path + ": " + sax.error());
  if (sax.weight_map.empty()) {
    return DataCorrupt(path + ": expected weight_map to name tensors, found none");
  }
  for (const auto& [tensor, file] : sax.weight_map) {
    if (!IsShardName(file)) {
      return DataCorrupt(
          fmt::format("{}: weight_map: tensor {}: expected the name of a .safetensors file in this "
                      "folder, found \"{}\"",
                      path, Printable(tensor), Printable(file)));
    }
  }
  return std::move(sax.weight_map);
}

// A JSON file that must or may be there; empty when it may be absent and is.
Result<std::string> ReadConfig(const std::string& path, bool required) {
  if (!required && !FileExists(path)) return std::string();
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxConfigBytes));
  PHASOR_RETURN_IF_ERROR(CheckJsonObject(text, path));
  return text;
}

}  // namespace

Status HfFolder::AddFile(const std::string& name) {
  std::string path = path_ + "/" + name;
  PHASOR_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  for (const TensorView& tensor : file.tensors()) {
    if (!index_.emplace(tensor.name, tensors_.size()).second) {
      return DataCorrupt(
          fmt::format("{}: safetensors: tensor {}: expected in one file, found in "
                      "two",
                      path, Printable(tensor.name)));
    }
    tensors_.push_back(tensor);
  }
  size_bytes_ += file.size_bytes();
  files_.push_back(std::move(file));
  return Status::Ok();
}

Status HfFolder::AddShards(const std::string& index_path) {
  PHASOR_ASSIGN_OR_RETURN(auto weight_map, ReadIndex(index_path));
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map) names.insert(file);
  for (const std::string& name : names) {
    if (!FileExists(path_ + "/" + name)) {
      return NotFound(fmt::format("{}: expected the file {} beside it, found none", index_path,
                                  Printable(name)));
    }
    std::size_t first = tensors_.size();
    PHASOR_RETURN_IF_ERROR(AddFile(name));
    for (const auto& [tensor, file] : weight_map) {
      if (file != name) continue;
      auto it = index_.find(tensor);
      if (it == index_.end() || it->second < first) {
        return DataCorrupt(fmt::format("{}: weight_map: expected tensor {} in {}, found none",
                                       index_path, Printable(tensor), Printable(name)));
      }
    }
  }
  return Status::Ok();
}

Status HfFolder::OpenAll(const std::string& folder) {
  path_ = folder;
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  if (!IsDirectory(path_)) {
    return NotFound(fmt::format("{}: expected a model folder, found {}", path_,
                                FileExists(path_) ? "a file" : "nothing"));
  }
  PHASOR_ASSIGN_OR_RETURN(config_json_, ReadConfig(path_ + "/config.json", true));
  PHASOR_ASSIGN_OR_RETURN(generation_config_json_,
                          ReadConfig(path_ + "/generation_config.json", false));
  // A folder with both holds the same weights twice.
  if (FileExists(path_ + "/" + kSingle)) return AddFile(kSingle);
  if (FileExists(path_ + "/" + kIndex)) return AddShards(path_ + "/" + kIndex);
  bool has_pickle = FileExists(path_ + "/pytorch_model.bin") ||
                    FileExists(path_ + "/pytorch_model.bin.index.json");
  return NotFound(
      fmt::format("{}: expected {} or {}, found {}", path_, kSingle, kIndex,
                  has_pickle ? "only pytorch_model.bin, which phasor does not read" : "neither"));
}

Result<HfFolder> HfFolder::Open(const std::string& folder) {
  try {
    HfFolder result;
    PHASOR_RETURN_IF_ERROR(result.OpenAll(folder));
    return result;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(folder + ": out of memory while reading the headers");
  }
}

const TensorView* HfFolder::FindTensor(std::string_view name) const {
  auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace phasor
