// A small GGUF writer for tests: builds a file in memory, right or wrong on purpose.
//
//   GgufBuilder b;
//   b.Add("general.architecture", "llama").Add("llama.block_count", uint32_t{2});
//   b.AddF32("output_norm.weight", {64}, std::vector<float>(64, 1.0f));
//   auto file = GgufFile::Parse(AsBytes(image = b.Build()), "test");
//
// Include it as "tests/support/gguf_builder.h". Inside namespace phasor write ::testing::X for
// GoogleTest's names, because this namespace is called testing as well.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "formats/gguf.h"

namespace phasor::testing {

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline bool WriteTestFile(const std::string& path, std::string_view contents) {
  std::FILE* f = std::fopen(path.c_str(), "wb");
  if (f == nullptr) return false;
  bool ok = std::fwrite(contents.data(), 1, contents.size(), f) == contents.size();
  return std::fclose(f) == 0 && ok;
}

class GgufBuilder {
 public:
  // Set these before the first Add. A big-endian image swaps everything but the magic and the
  // tensor data, as converters for big-endian machines do.
  GgufBuilder& Version(uint32_t version) { return Set(&version_, version); }
  GgufBuilder& BigEndian() { return Set(&big_endian_, true); }
  GgufBuilder& Magic(std::string_view magic) { return Set(&magic_, std::string(magic)); }
  // Lays tensors out by this alignment and adds the key general.alignment.
  GgufBuilder& Alignment(uint32_t alignment) {
    alignment_ = alignment;
    return Add("general.alignment", alignment);
  }
  // What the header says instead of the true counts.
  GgufBuilder& ClaimTensorCount(uint64_t n) { return Set(&claimed_tensors_, n); }
  GgufBuilder& ClaimKeyCount(uint64_t n) { return Set(&claimed_keys_, n); }
  // Pads the last tensor's data as most writers do; without it the file ends with its last byte.
  GgufBuilder& PadEnd() { return Set(&pad_end_, true); }

  // One key. The GGUF type follows from the C++ type: (u)int8_t ... (u)int64_t, float, double,
  // bool, text, or a std::vector of one of them.
  template <typename T>
  GgufBuilder& Add(std::string_view key, const T& value) {
    BeginKey(key);
    if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      Put(&keys_, static_cast<uint32_t>(GgufType::kString));
      PutString(&keys_, value);
    } else if constexpr (requires { typename T::value_type; }) {
      using E = typename T::value_type;
      Put(&keys_, static_cast<uint32_t>(GgufType::kArray));
      Put(&keys_, static_cast<uint32_t>(TypeOf<E>()));
      Put(&keys_, static_cast<uint64_t>(value.size()));
      for (std::size_t i = 0; i < value.size(); ++i) PutValue<E>(&keys_, value[i]);
    } else {
      Put(&keys_, static_cast<uint32_t>(TypeOf<T>()));
      PutValue<T>(&keys_, value);
    }
    return *this;
  }
  // A key with any type number and any value bytes.
  GgufBuilder& AddRaw(std::string_view key, uint32_t type, std::string_view value_bytes) {
    BeginKey(key);
    Put(&keys_, type);
    keys_.append(value_bytes);
    return *this;
  }

  // dims innermost first. `claimed_offset` replaces the offset written to the tensor info.
  GgufBuilder& AddTensor(std::string_view name, uint32_t gguf_type, std::vector<uint64_t> dims,
                         std::string_view data, std::optional<uint64_t> claimed_offset = {}) {
    tensors_.push_back(
        {std::string(name), gguf_type, std::move(dims), std::string(data), claimed_offset});
    return *this;
  }
  GgufBuilder& AddTensor(std::string_view name, DType dtype, std::vector<uint64_t> dims,
                         std::string_view data) {
    return AddTensor(name, static_cast<uint32_t>(dtype), std::move(dims), data);
  }
  GgufBuilder& AddF32(std::string_view name, std::vector<uint64_t> dims,
                      const std::vector<float>& values) {
    std::string_view data(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    return AddTensor(name, DType::kF32, std::move(dims), data);
  }

  std::string Build() const {
    std::string out = magic_;
    Put(&out, version_);
    Put(&out, claimed_tensors_.value_or(tensors_.size()));
    Put(&out, claimed_keys_.value_or(n_keys_));
    out += keys_;
    uint64_t offset = 0;
    for (const Tensor& t : tensors_) {
      PutString(&out, t.name);
      Put(&out, static_cast<uint32_t>(t.dims.size()));
      for (uint64_t d : t.dims) Put(&out, d);
      Put(&out, t.gguf_type);
      Put(&out, t.claimed_offset.value_or(offset));
      offset = AlignUp(offset + t.data.size());
    }
    // A wrong alignment (0) must still give a file to reject.
    if (!tensors_.empty()) out.resize(AlignUp(out.size()));
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      std::size_t start = out.size();
      out += tensors_[i].data;
      if (i + 1 < tensors_.size() || pad_end_) {
        out.resize(start + AlignUp(tensors_[i].data.size()));
      }
    }
    return out;
  }
  bool WriteFile(const std::string& path) const { return WriteTestFile(path, Build()); }

  // The bytes of one value, for AddRaw.
  template <typename T>
  static std::string Bytes(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }

 private:
  struct Tensor {
    std::string name;
    uint32_t gguf_type;
    std::vector<uint64_t> dims;
    std::string data;
    std::optional<uint64_t> claimed_offset;
  };

  template <typename T>
  static constexpr GgufType TypeOf() {
    if constexpr (std::is_same_v<T, bool>)
      return GgufType::kBool;
    else if constexpr (std::is_same_v<T, float>)
      return GgufType::kF32;
    else if constexpr (std::is_same_v<T, double>)
      return GgufType::kF64;
    else if constexpr (std::is_same_v<T, std::string>)
      return GgufType::kString;
    else if constexpr (std::is_signed_v<T>) {
      constexpr GgufType kTypes[] = {GgufType::kI8, GgufType::kI16, GgufType::kI32, GgufType::kI64};
      return kTypes[std::countr_zero(sizeof(T))];
    } else {
      static_assert(std::is_unsigned_v<T>, "no GGUF type for this C++ type");
      constexpr GgufType kTypes[] = {GgufType::kU8, GgufType::kU16, GgufType::kU32, GgufType::kU64};
      return kTypes[std::countr_zero(sizeof(T))];
    }
  }

  template <typename T, typename V>
  GgufBuilder& Set(T* field, V value) {
    *field = std::move(value);
    return *this;
  }
  void BeginKey(std::string_view key) {
    ++n_keys_;
    PutString(&keys_, key);
  }
  template <typename T>
  void Put(std::string* out, T value) const {
    std::string raw = Bytes(value);
    if (big_endian_) std::reverse(raw.begin(), raw.end());
    *out += raw;
  }
  void PutString(std::string* out, std::string_view text) const {
    Put(out, static_cast<uint64_t>(text.size()));
    out->append(text);
  }
  template <typename T>
  void PutValue(std::string* out, const T& value) const {
    if constexpr (std::is_same_v<T, std::string>)
      PutString(out, value);
    else if constexpr (std::is_same_v<T, bool>)
      Put(out, static_cast<uint8_t>(value));
    else
      Put(out, value);
  }
  uint64_t AlignUp(uint64_t n) const {
    return alignment_ == 0 ? n : (n + alignment_ - 1) / alignment_ * alignment_;
  }

  std::string magic_ = "GGUF";
  uint32_t version_ = 3;
  uint32_t alignment_ = 32;
  bool big_endian_ = false;
  bool pad_end_ = false;
  std::optional<uint64_t> claimed_tensors_, claimed_keys_;
  uint64_t n_keys_ = 0;
  std::string keys_;
  std::vector<Tensor> tensors_;
};

}  // namespace phasor::testing
