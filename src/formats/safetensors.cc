#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <unordered_set>
#include <utility>

#include "formats/hf_folder.h"
#include "formats/json_sax.h"
#include "formats/printable.h"

namespace phasor {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference reader
constexpr std::size_t kMaxDims = 16;
constexpr uint32_t kNoGgufType = 0xffffffff;

struct StoredType {
  const char* name;
  uint32_t gguf_type;
  int bits;
};

// Types without a GGUF number are listed, never used.
constexpr StoredType kStoredTypes[] = {
    {"F32", 0, 32},
    {"F16", 1, 16},
    {"BF16", 30, 16},
    {"I8", 24, 8},
    {"I16", 25, 16},
    {"I32", 26, 32},
    {"I64", 27, 64},
    {"F64", 28, 64},
    {"BOOL", kNoGgufType, 8},
    {"U8", kNoGgufType, 8},
    {"U16", kNoGgufType, 16},
    {"U32", kNoGgufType, 32},
    {"U64", kNoGgufType, 64},
    {"C64", kNoGgufType, 64},
    {"F8_E5M2", kNoGgufType, 8},
    {"F8_E4M3", kNoGgufType, 8},
    {"F8_E8M0", kNoGgufType, 8},
    {"F6_E2M3", kNoGgufType, 6},
    {"F6_E3M2", kNoGgufType, 6},
    {"F4", kNoGgufType, 4},
};

const StoredType* FindStoredType(std::string_view name) {
  for (const StoredType& type : kStoredTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

// One entry of the header as it is written.
struct Entry {
  std::string name, dtype;
  std::vector<uint64_t> shape, offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Collects {name: {dtype, shape, data_offsets}, "__metadata__": {string: string}}; any other form
// stops the parse, so nothing grows beyond a small multiple of the text.
class HeaderSax : public JsonSax {
 public:
  std::vector<Entry> entries;

  bool start_object(std::size_t) override {
    if (depth_ > 1 || in_array_) return Unexpected("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    if (--depth_ != 1 || in_metadata_) return true;
    Entry& e = entries.back();
    if (e.has_dtype && e.has_shape && e.has_offsets && e.offsets.size() == 2) return true;
    return FailEntry("expected dtype, shape and two data_offsets, found less");
  }
  bool key(std::string& key) override {
    if (depth_ == 1) return BeginEntry(key);
    if (in_metadata_) return true;
    Entry& e = entries.back();
    bool* seen = key == "dtype"          ? &e.has_dtype
                 : key == "shape"        ? &e.has_shape
                 : key == "data_offsets" ? &e.has_offsets
                                         : nullptr;
    if (seen == nullptr || *seen) {
      return FailEntry("expected dtype, shape and data_offsets once each, found key \"" +
                       Printable(key) + "\"");
    }
    *seen = true;
    field_ = key;
    return true;
  }
  bool string(std::string& text) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ != 2 || in_array_ || field_ != "dtype") return Unexpected("a string");
    entries.back().dtype = text;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || field_ == "dtype") {
      return Unexpected("an array");
    }
    in_array_ = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool number_unsigned(uint64_t value) override {
    if (!in_array_) return Unexpected("a number");
    bool is_shape = field_ == "shape";
    std::vector<uint64_t>& list = is_shape ? entries.back().shape : entries.back().offsets;
    if (list.size() == (is_shape ? kMaxDims : 2)) {
      return FailEntry(
          fmt::format("{}: expected at most {} numbers, found more", field_, list.size()));
    }
    list.push_back(value);
    return true;
  }

 protected:
  bool Scalar() override { return Unexpected("a value of another type"); }

 private:
  bool BeginEntry(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) return true;
    if (!names_.insert(name).second) {
      return Fail(fmt::format("tensor {}: expected once, found twice", Printable(name)));
    }
    entries.emplace_back().name = name;
    return true;
  }
  bool FailEntry(const std::string& error) {
    return Fail(fmt::format("tensor {}: {}", Printable(entries.back().name), error));
  }
  bool Unexpected(const char* found) {
    if (in_metadata_) return Fail(fmt::format("__metadata__: expected strings, found {}", found));
    if (depth_ == 0) return Fail(fmt::format("header: expected a JSON object, found {}", found));
    return FailEntry(fmt::format(
        "expected dtype: text, shape and data_offsets: whole numbers, found {}", found));
  }

  int depth_ = 0;  // of objects
  bool in_array_ = false, in_metadata_ = false;
  std::string field_;
  std::unordered_set<std::string> names_;
};

// Fills name, dims and type; `n_elements` is the checked product of the shape.
Status Describe(const Entry& entry, TensorView* view, uint64_t* n_elements) {
  view->name = entry.name;
  std::size_t n = entry.shape.size();
  bool has_zero = std::count(entry.shape.begin(), entry.shape.end(), 0u) != 0;
  *n_elements = has_zero ? 0 : 1;
  for (uint64_t dim : entry.shape) {
    constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
    if (dim > kMax || (*n_elements != 0 && dim > kMax / *n_elements)) {
      return DataCorrupt(fmt::format(
          "safetensors: tensor {}: expected fewer than 2^63 elements, found dimension {}",
          Printable(entry.name), dim));
    }
    *n_elements *= dim;
  }
  view->n_dims = static_cast<int>(std::clamp<std::size_t>(n, 1, view->dims.size()));
  // Outer dimensions beyond the fourth are folded into it.
  std::fill(view->dims.begin(), view->dims.end(), has_zero ? 0 : 1);
  if (!has_zero) {
    for (std::size_t i = 0; i < n; ++i) {
      view->dims[std::min<std::size_t>(i, 3)] *= static_cast<int64_t>(entry.shape[n - 1 - i]);
    }
  }
  const StoredType* type = FindStoredType(entry.dtype);
  // Empty tensors, and those of more than four dimensions, have no place in a model phasor runs.
  bool usable = type != nullptr && !has_zero && n <= view->dims.size();
  view->gguf_type = usable ? type->gguf_type : kNoGgufType;
  return Status::Ok();
}

Status CheckSize(const Entry& entry, uint64_t n_elements) {
  uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end) {
    return DataCorrupt(
        fmt::format("safetensors: tensor {}: expected rising data_offsets, found "
                    "{} and {}",
                    Printable(entry.name), begin, end));
  }
  const StoredType* type = FindStoredType(entry.dtype);
  if (type == nullptr) return Status::Ok();  // its size cannot be known
  auto bits = static_cast<unsigned __int128>(n_elements) * static_cast<unsigned>(type->bits);
  if (bits % 8 != 0 || bits / 8 != end - begin) {
    return DataCorrupt(fmt::format(
        "safetensors: tensor {}: expected the bytes of {} elements of type {}, found {} bytes",
        Printable(entry.name), n_elements, type->name, end - begin));
  }
  return Status::Ok();
}

// The data is covered without gaps or overlaps, as the format asks; so a file that was cut short
// or joined wrongly cannot pass.
Status CheckCoverage(const std::vector<Entry>& entries, uint64_t data_bytes) {
  std::vector<const Entry*> sorted;
  sorted.reserve(entries.size());
  for (const Entry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const Entry* a, const Entry* b) { return a->offsets < b->offsets; });
  uint64_t covered = 0;
  for (const Entry* entry : sorted) {
    if (entry->offsets[1] > data_bytes) {
      return DataCorrupt(fmt::format(
          "safetensors: tensor {}: data_offsets end {} is past the end of the file ({} bytes of "
          "tensor data; truncated?)",
          Printable(entry->name), entry->offsets[1], data_bytes));
    }
    if (entry->offsets[0] != covered) {
      return DataCorrupt(fmt::format(
          "safetensors: tensor {}: expected data_offsets to begin at {} (no gaps, no overlaps), "
          "found {}",
          Printable(entry->name), covered, entry->offsets[0]));
    }
    covered = entry->offsets[1];
  }
  if (covered != data_bytes) {
    return DataCorrupt(fmt::format("safetensors: expected {} bytes of tensor data, found {}",
                                   covered, data_bytes));
  }
  return Status::Ok();
}

Status ParseHeader(std::span<const std::byte> bytes, std::vector<TensorView>* tensors) {
  uint64_t header_bytes;
  if (bytes.size() < sizeof(header_bytes)) {
    return DataCorrupt(
        fmt::format("safetensors: expected a header length of 8 bytes, found {}", bytes.size()));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  bytes = bytes.subspan(sizeof(header_bytes));
  if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, bytes.size())) {
    return DataCorrupt(fmt::format(
        "safetensors: header length: expected at most {} bytes (limit) and {} (file), found {}",
        kMaxHeaderBytes, bytes.size(), header_bytes));
  }
  std::string_view header(reinterpret_cast<const char*>(bytes.data()), header_bytes);
  std::span<const std::byte> data = bytes.subspan(header_bytes);
  HeaderSax sax;
  if (!nlohmann::json::sax_parse(header, &sax)) {
    return DataCorrupt("safetensors: " + sax.error());
  }
  tensors->resize(sax.entries.size());
  for (std::size_t i = 0; i < tensors->size(); ++i) {
    uint64_t n_elements;
    PHASOR_RETURN_IF_ERROR(Describe(sax.entries[i], &(*tensors)[i], &n_elements));
    PHASOR_RETURN_IF_ERROR(CheckSize(sax.entries[i], n_elements));
  }
  PHASOR_RETURN_IF_ERROR(CheckCoverage(sax.entries, data.size()));
  for (std::size_t i = 0; i < tensors->size(); ++i) {
    const std::vector<uint64_t>& offsets = sax.entries[i].offsets;
    TensorView& view = (*tensors)[i];
    if (view.supported()) view.bytes = data.subspan(offsets[0], offsets[1] - offsets[0]);
  }
  return Status::Ok();
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::Parse(std::span<const std::byte> bytes,
                                               const std::string& name) {
  try {
    SafetensorsFile file;
    file.size_bytes_ = bytes.size();
    PHASOR_RETURN_IF_ERROR(ParseHeader(bytes, &file.tensors_).WithPrefix(name));
    return file;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(name + ": safetensors: out of memory while reading the header");
  }
}

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(MappedFile map, MappedFile::Open(path));
  PHASOR_ASSIGN_OR_RETURN(SafetensorsFile file, Parse(map.bytes(), path));
  file.map_ = std::move(map);  // the bytes stay where they are
  return file;
}

}  // namespace phasor
