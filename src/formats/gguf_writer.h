// Writes GGUF files, version 3, little endian (layout: gguf.h).
//
//   GgufHeader header;
//   header.Add("general.architecture", GgufString("llama"));
//   PHASOR_RETURN_IF_ERROR(header.AddTensor("output_norm.weight", DType::kF32, {64}));
//   PHASOR_ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(path, std::move(header)));
//   PHASOR_RETURN_IF_ERROR(writer.Write(bytes));   // all tensors in the order they were added
//   PHASOR_RETURN_IF_ERROR(writer.Commit());       // the file appears here, whole
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"
#include "phasor/status.h"
#include "tensor/dtype.h"

namespace phasor {

// Values of the types that models use; GgufValue itself can be filled with any other.
GgufValue GgufU32(uint32_t value);
GgufValue GgufF32(float value);
GgufValue GgufBool(bool value);
GgufValue GgufString(std::string value);
GgufValue GgufStrings(std::vector<std::string> values);
GgufValue GgufI32s(const std::vector<int32_t>& values);

// Everything before the tensor data: keys in the order they were added, then tensor descriptions.
class GgufHeader {
 public:
  // A value whose numbers do not fit its type is a programmer error, and so is a key twice.
  void Add(const std::string& key, GgufValue value);
  // dims: innermost first, 1 to 4 of them, each at least 1. kInvalidArgument when a row is no whole
  // number of blocks of the type, the size overflows or the name is taken.
  Status AddTensor(const std::string& name, DType dtype, const std::vector<int64_t>& dims);

  int64_t n_tensors() const { return static_cast<int64_t>(tensors_.size()); }
  // Bytes of all tensors without padding: what GgufWriter::Write expects in sum.
  int64_t data_bytes() const;
  // The header's bytes, padded to where tensor data begin.
  std::string Bytes() const;

 private:
  friend class GgufWriter;
  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<int64_t> dims;
    int64_t size_bytes;
  };
  std::vector<std::pair<std::string, GgufValue>> keys_;
  std::vector<Tensor> tensors_;
};

// Streams the tensor data behind a header. The file appears under its name with Commit; before, and
// when the object goes away without it, there is only a temporary file beside it, then nothing.
class GgufWriter {
 public:
  // kNotFound, kUnavailable or kInvalidArgument when the file cannot be made there.
  static Result<GgufWriter> Create(const std::string& path, GgufHeader header);

  // The next bytes of the tensors, cut anywhere, also across tensors; padding between tensors is
  // added here. More bytes than the header tells is a programmer error. kResourceExhausted: disk
  // full.
  Status Write(std::span<const std::byte> bytes);
  // kInvalidArgument when tensor data are missing; then no file appears.
  Status Commit();

 private:
  GgufWriter(AtomicFileWriter file, GgufHeader header)
      : file_(std::move(file)), header_(std::move(header)) {}
  AtomicFileWriter file_;
  GgufHeader header_;
  std::size_t tensor_ = 0;     // that the next byte belongs to
  int64_t tensor_offset_ = 0;  // of that byte within the tensor
};

}  // namespace phasor
