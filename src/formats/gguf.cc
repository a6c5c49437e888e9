#include "formats/gguf.h"

#include <fmt/format.h>

#include <limits>
#include <new>
#include <optional>
#include <utility>

#include "formats/gguf_parser.h"
#include "formats/printable.h"

namespace phasor {
namespace {

// "stem-00002-of-00003.gguf" taken apart.
struct SplitName {
  std::string stem;
  int part = 0;  // from 1
  int n_parts = 0;
};

std::string PartName(const std::string& stem, int part, int n_parts) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, part, n_parts);
}

std::optional<SplitName> ParseSplitName(const std::string& path) {
  constexpr std::string_view kShape = "-00000-of-00000.gguf";  // 0 stands for any digit
  if (path.size() < kShape.size()) return std::nullopt;
  std::string_view tail = std::string_view(path).substr(path.size() - kShape.size());
  int numbers[2] = {0, 0};
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    if (kShape[i] != '0') {
      if (tail[i] != kShape[i]) return std::nullopt;
      continue;
    }
    if (tail[i] < '0' || tail[i] > '9') return std::nullopt;
    int& number = numbers[i > 6 ? 1 : 0];
    number = number * 10 + (tail[i] - '0');
  }
  return SplitName{path.substr(0, path.size() - kShape.size()), numbers[0], numbers[1]};
}

Status NotFirstPart(const std::string& path, int64_t part, const std::string& first) {
  return InvalidArgument(
      fmt::format("{}: gguf: expected the first part of a split model, found part {}; open {}",
                  path, part, first));
}

// The number behind a scalar integer or bool; null when there is none or it exceeds int64_t.
std::optional<int64_t> ToInt(const GgufValue& value, std::size_t i) {
  if (auto* s = std::get_if<std::vector<int64_t>>(&value.data)) return (*s)[i];
  if (auto* u = std::get_if<std::vector<uint64_t>>(&value.data)) {
    if ((*u)[i] <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return static_cast<int64_t>((*u)[i]);
    }
  }
  return std::nullopt;
}

std::optional<double> ToFloat(const GgufValue& value, std::size_t i) {
  if (auto* s = std::get_if<std::vector<int64_t>>(&value.data)) return static_cast<double>((*s)[i]);
  if (auto* u = std::get_if<std::vector<uint64_t>>(&value.data)) {
    return static_cast<double>((*u)[i]);
  }
  if (auto* d = std::get_if<std::vector<double>>(&value.data)) return (*d)[i];
  return std::nullopt;
}

Status WrongType(const std::string& key, const char* expected, const GgufValue& value) {
  std::string found = GgufValueTypeName(value.type);
  if (value.is_array) found = "array of " + found;
  if (value.type == GgufType::kU64 && !value.is_array) {
    found += fmt::format(" {}", std::get<std::vector<uint64_t>>(value.data).front());
  }
  return InvalidArgument(
      fmt::format("gguf: key {}: expected {}, found {}", Printable(key), expected, found));
}

Result<const GgufValue*> FindValue(const std::map<std::string, GgufValue>& metadata,
                                   const std::string& key, bool is_array, const char* expected) {
  auto it = metadata.find(key);
  if (it == metadata.end()) {
    return NotFound(
        fmt::format("gguf: key {}: expected {}, found no such key", Printable(key), expected));
  }
  if (it->second.is_array != is_array) return WrongType(key, expected, it->second);
  return &it->second;
}

// What a part says about the split; missing keys are an error in files of several parts.
Status CheckSplitKeys(const GgufPart& part, int index, int n_parts) {
  for (auto [key, expected] : {std::pair{"split.no", index}, std::pair{"split.count", n_parts}}) {
    auto it = part.metadata.find(key);
    std::optional<int64_t> found;
    if (it != part.metadata.end() && !it->second.is_array) found = ToInt(it->second, 0);
    if (n_parts == 1 && it == part.metadata.end()) continue;
    if (n_parts == 1 && found && *found > expected) {
      return InvalidArgument(
          fmt::format("gguf: key {} is {}: expected the parts of a split model to be named "
                      "x-00001-of-0000N.gguf and to be opened by the first",
                      key, *found));
    }
    if (!found || *found != expected) {
      return DataCorrupt(fmt::format("gguf: key {}: expected {}, found {}", key, expected,
                                     found ? std::to_string(*found) : "none"));
    }
  }
  return Status::Ok();
}

}  // namespace

std::size_t GgufValue::size() const {
  return std::visit([](const auto& v) { return v.size(); }, data);
}

Status GgufFile::ParsePart(std::span<const std::byte> bytes, int part_index) {
  PHASOR_ASSIGN_OR_RETURN(GgufPart part, ParseGgufPart(bytes));
  PHASOR_RETURN_IF_ERROR(CheckSplitKeys(part, part_index, n_parts_));
  if (part_index == 0) {
    version_ = part.version;
    metadata_ = std::move(part.metadata);
  }
  tensors_.reserve(tensors_.size() + part.tensors.size());
  for (TensorView& tensor : part.tensors) {
    if (!index_.emplace(tensor.name, tensors_.size()).second) {
      return DataCorrupt(fmt::format("gguf: tensor {}: expected in one part, found in two",
                                     Printable(tensor.name)));
    }
    tensors_.push_back(std::move(tensor));
  }
  size_bytes_ += bytes.size();
  return Status::Ok();
}

Status GgufFile::CheckTensorCount() const {
  auto it = metadata_.find("split.tensors.count");
  if (it == metadata_.end()) return Status::Ok();
  std::optional<int64_t> expected;
  if (!it->second.is_array) expected = ToInt(it->second, 0);
  if (expected != static_cast<int64_t>(tensors_.size())) {
    return DataCorrupt(
        fmt::format("gguf: key split.tensors.count: expected the {} tensors of all parts, found {}",
                    tensors_.size(), expected ? std::to_string(*expected) : "none"));
  }
  return Status::Ok();
}

Status GgufFile::OpenParts(const std::string& path) {
  path_ = path;
  std::string stem;
  if (std::optional<SplitName> split = ParseSplitName(path)) {
    if (split->part < 1 || split->part > split->n_parts) {
      return InvalidArgument(fmt::format("{}: gguf: expected a part from 1 to {}, found {}", path,
                                         split->n_parts, split->part));
    }
    if (split->part != 1) {
      return NotFirstPart(path, split->part, PartName(split->stem, 1, split->n_parts));
    }
    stem = split->stem;
    n_parts_ = split->n_parts;
  }
  for (int i = 0; i < n_parts_; ++i) {
    std::string name = i == 0 ? path : PartName(stem, i + 1, n_parts_);
    Result<MappedFile> map = MappedFile::Open(name);
    if (!map.ok() && i > 0) {
      return map.status().WithPrefix(
          fmt::format("gguf: part {} of {} of a split model is missing", i + 1, n_parts_));
    }
    if (!map.ok()) return map.status();
    maps_.push_back(std::move(map).value());
    PHASOR_RETURN_IF_ERROR(ParsePart(maps_.back().bytes(), i).WithPrefix(name));
  }
  return CheckTensorCount().WithPrefix(path);
}

Result<GgufFile> GgufFile::Open(const std::string& path) {
  try {
    GgufFile file;
    PHASOR_RETURN_IF_ERROR(file.OpenParts(path));
    return file;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(path + ": gguf: out of memory while reading the header");
  }
}

Result<GgufFile> GgufFile::Parse(std::span<const std::byte> bytes, const std::string& name) {
  try {
    GgufFile file;
    file.path_ = name;
    PHASOR_RETURN_IF_ERROR(file.ParsePart(bytes, 0).WithPrefix(name));
    PHASOR_RETURN_IF_ERROR(file.CheckTensorCount().WithPrefix(name));
    return file;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(name + ": gguf: out of memory while reading the header");
  }
}

const TensorView* GgufFile::FindTensor(std::string_view name) const {
  auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

Result<int64_t> GgufFile::GetInt(const std::string& key) const {
  constexpr const char* kExpected = "an integer below 2^63";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, false, kExpected));
  if (std::optional<int64_t> number = ToInt(*value, 0)) return *number;
  return WrongType(key, kExpected, *value);
}

Result<double> GgufFile::GetFloat(const std::string& key) const {
  constexpr const char* kExpected = "a number";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, false, kExpected));
  if (std::optional<double> number = ToFloat(*value, 0)) return *number;
  return WrongType(key, kExpected, *value);
}

Result<bool> GgufFile::GetBool(const std::string& key) const {
  constexpr const char* kExpected = "a bool";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, false, kExpected));
  std::optional<int64_t> number = ToInt(*value, 0);
  if (!number || *number < 0 || *number > 1) return WrongType(key, kExpected, *value);
  return *number == 1;
}

Result<std::string> GgufFile::GetString(const std::string& key) const {
  constexpr const char* kExpected = "a string";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, false, kExpected));
  if (auto* s = std::get_if<std::vector<std::string>>(&value->data)) return s->front();
  return WrongType(key, kExpected, *value);
}

Result<std::vector<int64_t>> GgufFile::GetIntArray(const std::string& key) const {
  constexpr const char* kExpected = "an array of integers below 2^63";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, true, kExpected));
  if (auto* s = std::get_if<std::vector<int64_t>>(&value->data)) return *s;
  if (value->type != GgufType::kU64) return WrongType(key, kExpected, *value);
  std::vector<int64_t> out;
  out.reserve(value->size());
  for (std::size_t i = 0; i < value->size(); ++i) {
    std::optional<int64_t> number = ToInt(*value, i);
    if (!number) return WrongType(key, kExpected, *value);
    out.push_back(*number);
  }
  return out;
}

Result<std::vector<double>> GgufFile::GetFloatArray(const std::string& key) const {
  constexpr const char* kExpected = "an array of numbers";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, true, kExpected));
  if (value->type == GgufType::kString) return WrongType(key, kExpected, *value);
  std::vector<double> out(value->size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = *ToFloat(*value, i);
  return out;
}

Result<const std::vector<std::string>*> GgufFile::GetStringArray(const std::string& key) const {
  constexpr const char* kExpected = "an array of strings";
  PHASOR_ASSIGN_OR_RETURN(const GgufValue* value, FindValue(metadata_, key, true, kExpected));
  if (auto* s = std::get_if<std::vector<std::string>>(&value->data)) return s;
  return WrongType(key, kExpected, *value);
}

}  // namespace phasor
