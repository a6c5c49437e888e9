#include "formats/gguf_writer.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "base/check.h"

namespace phasor {
namespace {

constexpr uint32_t kVersion = 3;
constexpr int64_t kFileAlignment = 32;  // GGUF's default, so no general.alignment is written

template <typename T>
void Put(std::string* out, T value) {
  static_assert(std::is_arithmetic_v<T>);
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(std::string* out, const std::string& text) {
  Put(out, static_cast<uint64_t>(text.size()));
  *out += text;
}

int64_t Padding(int64_t n_bytes) {
  return (kFileAlignment - n_bytes % kFileAlignment) % kFileAlignment;
}

// Integers are stored wide (gguf.h) and must fit the type they are written as.
template <typename To, typename From>
void PutNarrow(std::string* out, From value) {
  PHASOR_CHECK(std::in_range<To>(value));
  Put(out, static_cast<To>(value));
}

template <typename T>
void PutNumber(std::string* out, GgufType type, T value) {
  if constexpr (std::is_floating_point_v<T>) {
    PHASOR_CHECK(type == GgufType::kF32 || type == GgufType::kF64);
    if (type == GgufType::kF32) {
      Put(out, static_cast<float>(value));
    } else {
      Put(out, value);
    }
  } else {
    switch (type) {
      case GgufType::kU8:
        return PutNarrow<uint8_t>(out, value);
      case GgufType::kI8:
        return PutNarrow<int8_t>(out, value);
      case GgufType::kU16:
        return PutNarrow<uint16_t>(out, value);
      case GgufType::kI16:
        return PutNarrow<int16_t>(out, value);
      case GgufType::kU32:
        return PutNarrow<uint32_t>(out, value);
      case GgufType::kI32:
        return PutNarrow<int32_t>(out, value);
      case GgufType::kU64:
        return PutNarrow<uint64_t>(out, value);
      case GgufType::kI64:
        return PutNarrow<int64_t>(out, value);
      case GgufType::kBool:
        PHASOR_CHECK(value == 0 || value == 1);
        return Put(out, static_cast<uint8_t>(value));
      default:
        PHASOR_CHECK(false && "an integer value with a type that is none");
    }
  }
}

void PutValue(std::string* out, const GgufValue& value) {
  if (value.is_array) {
    Put(out, static_cast<uint32_t>(GgufType::kArray));
    Put(out, static_cast<uint32_t>(value.type));
    Put(out, static_cast<uint64_t>(value.size()));
  } else {
    PHASOR_CHECK(value.size() == 1);
    Put(out, static_cast<uint32_t>(value.type));
  }
  std::visit(
      [&](const auto& data) {
        using E = typename std::decay_t<decltype(data)>::value_type;
        for (const E& element : data) {
          if constexpr (std::is_same_v<E, std::string>) {
            PHASOR_CHECK(value.type == GgufType::kString);
            PutString(out, element);
          } else {
            PutNumber(out, value.type, element);
          }
        }
      },
      value.data);
}

}  // namespace

GgufValue GgufU32(uint32_t value) {
  return {GgufType::kU32, false, std::vector<int64_t>{int64_t{value}}};
}
GgufValue GgufF32(float value) {
  return {GgufType::kF32, false, std::vector<double>{double{value}}};
}
GgufValue GgufBool(bool value) {
  return {GgufType::kBool, false, std::vector<int64_t>{value ? 1 : 0}};
}
GgufValue GgufString(std::string value) {
  return {GgufType::kString, false, std::vector<std::string>{std::move(value)}};
}
GgufValue GgufStrings(std::vector<std::string> values) {
  return {GgufType::kString, true, std::move(values)};
}
GgufValue GgufI32s(const std::vector<int32_t>& values) {
  return {GgufType::kI32, true, std::vector<int64_t>(values.begin(), values.end())};
}

void GgufHeader::Add(const std::string& key, GgufValue value) {
  for (const auto& [name, unused] : keys_) PHASOR_CHECK(name != key);
  keys_.emplace_back(key, std::move(value));
}

Status GgufHeader::AddTensor(const std::string& name, DType dtype,
                             const std::vector<int64_t>& dims) {
  const std::string where = "gguf: tensor " + name + ": ";
  for (const Tensor& t : tensors_) {
    if (t.name == name) return InvalidArgument(where + "expected a new name, found it twice");
  }
  if (dims.empty() || dims.size() > 4) {
    return InvalidArgument(where + "expected 1 to 4 dimensions, found " +
                           std::to_string(dims.size()));
  }
  int64_t n_elements = 1;
  constexpr int64_t kMostElements = int64_t{1} << 48;
  for (int64_t d : dims) {
    if (d < 1 || d > kMostElements / n_elements) {
      return InvalidArgument(where + "expected dimensions from 1 up and less than 2^48 elements, " +
                             "found a dimension of " + std::to_string(d));
    }
    n_elements *= d;
  }
  const DTypeInfo& info = GetDTypeInfo(dtype);
  if (dims[0] % info.block_elements != 0) {
    return InvalidArgument(where + "expected rows of a multiple of " +
                           std::to_string(info.block_elements) + " elements for " + info.name +
                           ", found " + std::to_string(dims[0]));
  }
  tensors_.push_back({name, dtype, dims, RowBytes(dtype, n_elements)});
  return Status::Ok();
}

int64_t GgufHeader::data_bytes() const {
  int64_t sum = 0;
  for (const Tensor& t : tensors_) sum += t.size_bytes;
  return sum;
}

std::string GgufHeader::Bytes() const {
  std::string out = "GGUF";
  Put(&out, kVersion);
  Put(&out, static_cast<uint64_t>(tensors_.size()));
  Put(&out, static_cast<uint64_t>(keys_.size()));
  for (const auto& [key, value] : keys_) {
    PutString(&out, key);
    PutValue(&out, value);
  }
  int64_t offset = 0;
  for (const Tensor& t : tensors_) {
    PutString(&out, t.name);
    Put(&out, static_cast<uint32_t>(t.dims.size()));
    for (int64_t d : t.dims) Put(&out, static_cast<uint64_t>(d));
    Put(&out, static_cast<uint32_t>(t.dtype));
    Put(&out, static_cast<uint64_t>(offset));
    offset += t.size_bytes + Padding(t.size_bytes);
  }
  out.append(Padding(static_cast<int64_t>(out.size())), '\0');
  return out;
}

Result<GgufWriter> GgufWriter::Create(const std::string& path, GgufHeader header) {
  PHASOR_ASSIGN_OR_RETURN(AtomicFileWriter file, AtomicFileWriter::Create(path));
  PHASOR_RETURN_IF_ERROR(file.Write(header.Bytes()));
  return GgufWriter(std::move(file), std::move(header));
}

Status GgufWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    PHASOR_CHECK(tensor_ < header_.tensors_.size());
    const int64_t size = header_.tensors_[tensor_].size_bytes;
    const auto n = std::min<std::size_t>(bytes.size(), size - tensor_offset_);
    PHASOR_RETURN_IF_ERROR(file_.Write(bytes.data(), n));
    bytes = bytes.subspan(n);
    tensor_offset_ += static_cast<int64_t>(n);
    if (tensor_offset_ < size) continue;
    const char zeros[kFileAlignment] = {};
    PHASOR_RETURN_IF_ERROR(file_.Write(zeros, Padding(size)));
    ++tensor_;
    tensor_offset_ = 0;
  }
  return Status::Ok();
}

Status GgufWriter::Commit() {
  if (tensor_ < header_.tensors_.size()) {
    const GgufHeader::Tensor& t = header_.tensors_[tensor_];
    return InvalidArgument("gguf: tensor " + t.name + ": expected " + std::to_string(t.size_bytes) +
                           " bytes of data, found " + std::to_string(tensor_offset_));
  }
  return file_.Commit();
}

}  // namespace phasor
