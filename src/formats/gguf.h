// GGUF files, versions 2 and 3, little endian, memory-mapped, single or split.
//
// Layout: magic "GGUF", u32 version, u64 tensor count, u64 key count, key/value pairs (string key,
// u32 type, value), tensor infos (string name, u32 n_dims, u64 dims[n_dims] innermost first,
// u32 type, u64 offset), padding to general.alignment (default 32), tensor data. Every count, size
// and offset is checked against the file before use; a hostile file gives an error, never a crash
// or a large allocation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/file.h"
#include "phasor/status.h"
#include "tensor/dtype.h"

namespace phasor {

// One stored tensor: a view into the mapped file. dims[0] is the row length (innermost).
struct TensorView {
  std::string name;
  uint32_t gguf_type = 0;  // may be a number FindDTypeInfo does not know
  std::array<int64_t, 4> dims{1, 1, 1, 1};
  int n_dims = 1;
  std::span<const std::byte> bytes;  // empty when the type is unknown (size cannot be known)

  bool supported() const { return FindDTypeInfo(gguf_type) != nullptr; }
  DType dtype() const { return static_cast<DType>(gguf_type); }
  int64_t n_elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  int64_t n_cols() const { return dims[0]; }
  int64_t n_rows() const { return dims[1] * dims[2] * dims[3]; }
};

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// A value, or an array of values of one type. Integers of every width are widened.
struct GgufValue {
  GgufType type = GgufType::kU32;  // for arrays: the element type
  bool is_array = false;
  // Scalars hold one element. Bools are integers 0/1.
  std::variant<std::vector<int64_t>, std::vector<uint64_t>, std::vector<double>,
               std::vector<std::string>>
      data;
  std::size_t size() const;
};

class GgufFile {
 public:
  GgufFile(GgufFile&&) noexcept = default;
  GgufFile& operator=(GgufFile&&) noexcept = default;

  // Opens a file; for "x-00001-of-00003.gguf" also its siblings.
  static Result<GgufFile> Open(const std::string& path);
  // Parses bytes that outlive the object (tests and fuzzing); no split files.
  static Result<GgufFile> Parse(std::span<const std::byte> bytes, const std::string& name);

  uint32_t version() const { return version_; }
  const std::string& path() const { return path_; }
  std::size_t size_bytes() const { return size_bytes_; }  // of all parts
  int n_parts() const { return n_parts_; }

  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const TensorView* FindTensor(std::string_view name) const;

  bool Has(const std::string& key) const { return metadata_.count(key) != 0; }
  // Typed access: any integer or bool type converts to int64 (range checked), any number to double.
  // kNotFound when the key is missing, kInvalidArgument when the type does not fit.
  Result<int64_t> GetInt(const std::string& key) const;
  Result<double> GetFloat(const std::string& key) const;
  Result<bool> GetBool(const std::string& key) const;
  Result<std::string> GetString(const std::string& key) const;
  Result<std::vector<int64_t>> GetIntArray(const std::string& key) const;
  Result<std::vector<double>> GetFloatArray(const std::string& key) const;
  // Borrowed; valid while the file lives.
  Result<const std::vector<std::string>*> GetStringArray(const std::string& key) const;

 private:
  GgufFile() = default;
  // Maps and parses `path` and its siblings.
  Status OpenParts(const std::string& path);
  // Adds the tensors of one part (from 0), and the metadata of part 0.
  Status ParsePart(std::span<const std::byte> bytes, int part_index);
  // Compares split.tensors.count, where there is one, with what all parts held.
  Status CheckTensorCount() const;

  std::string path_;
  uint32_t version_ = 0;
  std::size_t size_bytes_ = 0;
  int n_parts_ = 1;
  std::map<std::string, GgufValue> metadata_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
  std::vector<MappedFile> maps_;
};

}  // namespace phasor
