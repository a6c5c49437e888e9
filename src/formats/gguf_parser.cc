#include "formats/gguf_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "formats/printable.h"

namespace phasor {
namespace {

static_assert(std::endian::native == std::endian::little, "the parser copies little-endian words");

constexpr uint64_t kDefaultAlignment = 32;
// The format asks for a multiple of 8, and kernels read tensors through typed pointers.
constexpr uint64_t kMinAlignment = 8;
// The format's limit for keys; names of tensors are shorter still.
constexpr uint64_t kMaxNameBytes = 65535;
// Smallest possible entries: length, one byte of name, type, one byte of value; and length, one
// byte of name, dimension count, type, offset.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorInfoBytes = 8 + 1 + 4 + 4 + 8;

// Takes values off the front of the file; every read is checked against what is left.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  Status Read(std::string_view what, T* out) {
    static_assert(std::is_arithmetic_v<T>);
    if (remaining() < sizeof(T)) return Short(what, sizeof(T));
    std::memcpy(out, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return Status::Ok();
  }

  Status ReadString(std::string_view what, std::string_view* out) {
    uint64_t length;
    PHASOR_RETURN_IF_ERROR(Read(what, &length));
    if (length > remaining()) return Short(what, length);
    *out = {reinterpret_cast<const char*>(bytes_.data()) + position_, length};
    position_ += length;
    return Status::Ok();
  }

  // A key or a tensor name.
  Status ReadName(std::string_view what, std::string_view* out) {
    PHASOR_RETURN_IF_ERROR(ReadString(what, out));
    if (out->empty() || out->size() > kMaxNameBytes) {
      return DataCorrupt(fmt::format("gguf: {}: expected a name of 1 to {} bytes, found {}", what,
                                     kMaxNameBytes, out->size()));
    }
    return Status::Ok();
  }

  // An error unless `count` items of at least `item_bytes` fit into what is left.
  Status CheckCount(std::string_view what, uint64_t count, uint64_t item_bytes) const {
    if (count <= remaining() / item_bytes) return Status::Ok();
    return DataCorrupt(fmt::format("gguf: {}: {} entries do not fit the {} bytes left of the file",
                                   what, count, remaining()));
  }

 private:
  Status Short(std::string_view what, uint64_t needed) const {
    return DataCorrupt(
        fmt::format("gguf: {}: expected {} bytes at offset {}, found {} (truncated?)", what, needed,
                    position_, remaining()));
  }

  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

// Reads `count` stored values of type Stored as Kept; the count was checked.
template <typename Stored, typename Kept>
Status ReadValues(ByteReader* reader, const std::string& what, uint64_t count, GgufValue* value) {
  PHASOR_RETURN_IF_ERROR(reader->CheckCount(what, count, sizeof(Stored)));
  std::vector<Kept> values(count);
  for (Kept& v : values) {
    Stored stored;
    PHASOR_RETURN_IF_ERROR(reader->Read(what, &stored));
    v = static_cast<Kept>(stored);  // NOLINT(bugprone-signed-char-misuse): i8 keeps its sign
  }
  value->data = std::move(values);
  return Status::Ok();
}

Status ReadBools(ByteReader* reader, const std::string& what, uint64_t count, GgufValue* value) {
  PHASOR_RETURN_IF_ERROR((ReadValues<uint8_t, int64_t>(reader, what, count, value)));
  for (int64_t v : std::get<std::vector<int64_t>>(value->data)) {
    if (v > 1) {
      return DataCorrupt(fmt::format("gguf: {}: expected a bool of 0 or 1, found {}", what, v));
    }
  }
  return Status::Ok();
}

Status ReadStrings(ByteReader* reader, const std::string& what, uint64_t count, GgufValue* value) {
  PHASOR_RETURN_IF_ERROR(reader->CheckCount(what, count, sizeof(uint64_t)));
  std::vector<std::string> values(count);
  for (std::string& v : values) {
    std::string_view text;
    PHASOR_RETURN_IF_ERROR(reader->ReadString(what, &text));
    v.assign(text);
  }
  value->data = std::move(values);
  return Status::Ok();
}

Status ReadTyped(ByteReader* reader, const std::string& what, uint64_t count, GgufValue* value) {
  switch (value->type) {
    case GgufType::kU8:
      return ReadValues<uint8_t, int64_t>(reader, what, count, value);
    case GgufType::kI8:
      return ReadValues<int8_t, int64_t>(reader, what, count, value);
    case GgufType::kU16:
      return ReadValues<uint16_t, int64_t>(reader, what, count, value);
    case GgufType::kI16:
      return ReadValues<int16_t, int64_t>(reader, what, count, value);
    case GgufType::kU32:
      return ReadValues<uint32_t, int64_t>(reader, what, count, value);
    case GgufType::kI32:
      return ReadValues<int32_t, int64_t>(reader, what, count, value);
    case GgufType::kF32:
      return ReadValues<float, double>(reader, what, count, value);
    case GgufType::kBool:
      return ReadBools(reader, what, count, value);
    case GgufType::kString:
      return ReadStrings(reader, what, count, value);
    case GgufType::kU64:
      return ReadValues<uint64_t, uint64_t>(reader, what, count, value);
    case GgufType::kI64:
      return ReadValues<int64_t, int64_t>(reader, what, count, value);
    case GgufType::kF64:
      return ReadValues<double, double>(reader, what, count, value);
    case GgufType::kArray:
      return Unsupported(
          fmt::format("gguf: {}: expected an array of plain values, found an array "
                      "of arrays",
                      what));
  }
  return DataCorrupt(fmt::format("gguf: {}: expected a value type of 0 to 12, found {}", what,
                                 static_cast<uint32_t>(value->type)));
}

Status ReadValue(ByteReader* reader, const std::string& what, GgufValue* value) {
  uint32_t type;
  PHASOR_RETURN_IF_ERROR(reader->Read(what, &type));
  uint64_t count = 1;
  if (type == static_cast<uint32_t>(GgufType::kArray)) {
    value->is_array = true;
    PHASOR_RETURN_IF_ERROR(reader->Read(what, &type));
    PHASOR_RETURN_IF_ERROR(reader->Read(what, &count));
  }
  value->type = static_cast<GgufType>(type);
  return ReadTyped(reader, what, count, value);
}

Status ReadMetadata(ByteReader* reader, uint64_t n_keys,
                    std::map<std::string, GgufValue>* metadata) {
  for (uint64_t i = 0; i < n_keys; ++i) {
    std::string_view key;
    PHASOR_RETURN_IF_ERROR(reader->ReadName(fmt::format("key {} of {}", i + 1, n_keys), &key));
    auto [entry, is_new] = metadata->try_emplace(std::string(key));
    std::string what = "key " + Printable(key);
    if (!is_new) return DataCorrupt(fmt::format("gguf: {}: expected once, found twice", what));
    PHASOR_RETURN_IF_ERROR(ReadValue(reader, what, &entry->second));
  }
  return Status::Ok();
}

Status ReadAlignment(const std::map<std::string, GgufValue>& metadata, uint64_t* alignment) {
  *alignment = kDefaultAlignment;
  auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return Status::Ok();
  const GgufValue& value = it->second;
  int64_t found = 0;
  if (!value.is_array) {
    if (auto* s = std::get_if<std::vector<int64_t>>(&value.data)) found = s->front();
    if (auto* u = std::get_if<std::vector<uint64_t>>(&value.data)) {
      found = static_cast<int64_t>(std::min<uint64_t>(u->front(), uint64_t{1} << 62));
    }
  }
  // 2^31 is far above any page size and keeps sums of offsets far from overflow.
  bool fits = found >= static_cast<int64_t>(kMinAlignment) && found <= (int64_t{1} << 31);
  if (!fits || !std::has_single_bit(static_cast<uint64_t>(found))) {
    return DataCorrupt(
        fmt::format("gguf: key general.alignment: expected a power of two of at "
                    "least {}, found {}",
                    kMinAlignment, found));
  }
  *alignment = static_cast<uint64_t>(found);
  return Status::Ok();
}

// A tensor as the header describes it, before its bytes are looked up.
struct TensorInfo {
  TensorView view;
  uint64_t offset = 0;      // from the start of the data
  uint64_t size_bytes = 0;  // 0: unknown type
};

// Dimensions, with a product that fits int64_t.
Status ReadDims(ByteReader* reader, const std::string& what, TensorView* view) {
  uint32_t n_dims;
  PHASOR_RETURN_IF_ERROR(reader->Read(what, &n_dims));
  if (n_dims > view->dims.size()) {
    return DataCorrupt(fmt::format("gguf: {}: expected at most {} dimensions, found {}", what,
                                   view->dims.size(), n_dims));
  }
  view->n_dims = std::max(1, static_cast<int>(n_dims));  // no dimensions: one element
  int64_t product = 1;
  for (uint32_t i = 0; i < n_dims; ++i) {
    uint64_t dim;
    PHASOR_RETURN_IF_ERROR(reader->Read(what, &dim));
    if (dim == 0) {
      return DataCorrupt(
          fmt::format("gguf: {}: expected dimension {} of at least 1, found 0", what, i));
    }
    if (dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max() / product)) {
      return DataCorrupt(fmt::format(
          "gguf: {}: expected fewer than 2^63 elements, found dimension {} = {}", what, i, dim));
    }
    view->dims[i] = static_cast<int64_t>(dim);
    product *= view->dims[i];
  }
  return Status::Ok();
}

// Bytes of a tensor of known type; 0 for other types.
Status TensorSize(const std::string& what, const TensorView& view, uint64_t* size_bytes) {
  *size_bytes = 0;
  const DTypeInfo* info = FindDTypeInfo(view.gguf_type);
  if (info == nullptr) return Status::Ok();
  if (view.dims[0] % info->block_elements != 0) {
    return DataCorrupt(
        fmt::format("gguf: {}: expected a row length that is a multiple of {} ({}), "
                    "found {}",
                    what, info->block_elements, info->name, view.dims[0]));
  }
  int64_t n_blocks = view.n_elements() / info->block_elements;
  int64_t size;
  if (__builtin_mul_overflow(n_blocks, info->block_bytes, &size)) {
    return DataCorrupt(
        fmt::format("gguf: {}: expected less than 2^63 bytes, found {} blocks of {} bytes", what,
                    n_blocks, info->block_bytes));
  }
  *size_bytes = static_cast<uint64_t>(size);
  return Status::Ok();
}

Status ReadTensorInfo(ByteReader* reader, const std::string& where, uint64_t alignment,
                      TensorInfo* info) {
  std::string_view name;
  PHASOR_RETURN_IF_ERROR(reader->ReadName(where, &name));
  info->view.name.assign(name);
  std::string what = "tensor " + Printable(name);
  PHASOR_RETURN_IF_ERROR(ReadDims(reader, what, &info->view));
  PHASOR_RETURN_IF_ERROR(reader->Read(what, &info->view.gguf_type));
  PHASOR_RETURN_IF_ERROR(reader->Read(what, &info->offset));
  if (info->offset % alignment != 0) {
    return DataCorrupt(
        fmt::format("gguf: {}: expected an offset that is a multiple of {}, found {}", what,
                    alignment, info->offset));
  }
  return TensorSize(what, info->view, &info->size_bytes);
}

// `data`: everything from the first tensor's alignment border to the end of the file.
Status BindBytes(std::span<const std::byte> data, uint64_t data_start,
                 std::vector<TensorInfo>* infos) {
  for (TensorInfo& info : *infos) {
    // A tensor of unknown type holds something as well.
    uint64_t needed = std::max<uint64_t>(info.size_bytes, 1);
    if (info.offset > data.size() || needed > data.size() - info.offset) {
      return DataCorrupt(fmt::format(
          "gguf: tensor {}: offset {} and size {} are past the end of the file ({} bytes of tensor "
          "data after byte {}; truncated?)",
          Printable(info.view.name), info.offset, info.size_bytes, data.size(), data_start));
    }
    if (info.size_bytes != 0) info.view.bytes = data.subspan(info.offset, info.size_bytes);
  }
  return Status::Ok();
}

Status CheckOverlaps(const std::vector<TensorInfo>& infos) {
  std::vector<const TensorInfo*> sorted;
  sorted.reserve(infos.size());
  for (const TensorInfo& info : infos) sorted.push_back(&info);
  std::sort(sorted.begin(), sorted.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const TensorInfo &a = *sorted[i - 1], &b = *sorted[i];
    // A tensor of unknown type has some size, so it may not start where another does.
    if (b.offset - a.offset < std::max<uint64_t>(a.size_bytes, 1)) {
      return DataCorrupt(fmt::format(
          "gguf: tensor {}: expected an offset of its own, found {}, "
          "inside tensor {} (offset {}, {} bytes)",
          Printable(b.view.name), b.offset, Printable(a.view.name), a.offset, a.size_bytes));
    }
  }
  return Status::Ok();
}

Status ReadTensors(ByteReader* reader, std::span<const std::byte> bytes, uint64_t n_tensors,
                   uint64_t alignment, std::vector<TensorView>* tensors) {
  PHASOR_RETURN_IF_ERROR(reader->CheckCount("tensor count", n_tensors, kMinTensorInfoBytes));
  std::vector<TensorInfo> infos(n_tensors);
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < n_tensors; ++i) {
    std::string where = fmt::format("tensor {} of {}", i + 1, n_tensors);
    PHASOR_RETURN_IF_ERROR(ReadTensorInfo(reader, where, alignment, &infos[i]));
    if (!names.insert(infos[i].view.name).second) {
      return DataCorrupt(fmt::format("gguf: tensor {}: expected once, found twice",
                                     Printable(infos[i].view.name)));
    }
  }
  uint64_t data_start = (reader->position() + alignment - 1) / alignment * alignment;
  std::span<const std::byte> data;
  // A file of metadata only may end before the border.
  if (data_start <= bytes.size()) data = bytes.subspan(data_start);
  PHASOR_RETURN_IF_ERROR(BindBytes(data, data_start, &infos));
  PHASOR_RETURN_IF_ERROR(CheckOverlaps(infos));
  tensors->reserve(infos.size());
  for (TensorInfo& info : infos) tensors->push_back(std::move(info.view));
  return Status::Ok();
}

Status CheckMagicAndVersion(ByteReader* reader, uint32_t* version) {
  uint32_t magic;
  PHASOR_RETURN_IF_ERROR(reader->Read("magic", &magic));
  char text[4];
  std::memcpy(text, &magic, 4);
  std::string_view found(text, 4);
  if (found != "GGUF" && found != "FUGG") {
    return DataCorrupt(
        fmt::format("gguf: magic: expected \"GGUF\", found \"{}\"", Printable(found)));
  }
  PHASOR_RETURN_IF_ERROR(reader->Read("version", version));
  // Small version numbers leave the upper half empty, swapped ones the lower half.
  if (found == "FUGG" || (*version != 0 && (*version & 0xffff) == 0)) {
    return Unsupported("gguf: byte order: expected a little-endian file, found a big-endian one");
  }
  if (*version != 2 && *version != 3) {
    return Unsupported(fmt::format("gguf: version: expected 2 or 3, found {}", *version));
  }
  return Status::Ok();
}

}  // namespace

const char* GgufValueTypeName(GgufType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  auto index = static_cast<std::size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

Result<GgufPart> ParseGgufPart(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  GgufPart part;
  PHASOR_RETURN_IF_ERROR(CheckMagicAndVersion(&reader, &part.version));
  uint64_t n_tensors, n_keys;
  PHASOR_RETURN_IF_ERROR(reader.Read("tensor count", &n_tensors));
  PHASOR_RETURN_IF_ERROR(reader.Read("key count", &n_keys));
  PHASOR_RETURN_IF_ERROR(reader.CheckCount("key count", n_keys, kMinKeyBytes));
  PHASOR_RETURN_IF_ERROR(reader.CheckCount("tensor count", n_tensors, kMinTensorInfoBytes));
  PHASOR_RETURN_IF_ERROR(ReadMetadata(&reader, n_keys, &part.metadata));
  uint64_t alignment;
  PHASOR_RETURN_IF_ERROR(ReadAlignment(part.metadata, &alignment));
  PHASOR_RETURN_IF_ERROR(ReadTensors(&reader, bytes, n_tensors, alignment, &part.tensors));
  return part;
}

}  // namespace phasor
