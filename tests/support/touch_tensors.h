// Reads through everything a parsed model file offers, so that a wrong bound shows up under the
// sanitizers and in fuzzing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "formats/gguf.h"

namespace phasor::testing {

// A number that depends on both ends of every tensor and on every shape.
inline uint64_t TouchTensors(const std::vector<TensorView>& tensors) {
  uint64_t sum = 0;
  for (const TensorView& t : tensors) {
    sum += static_cast<uint64_t>(t.n_elements()) + static_cast<uint64_t>(t.n_rows());
    PHASOR_CHECK(t.supported() != t.bytes.empty());
    if (t.bytes.empty()) continue;
    PHASOR_CHECK(static_cast<uint64_t>(RowBytes(t.dtype(), t.n_cols())) *
                     static_cast<uint64_t>(t.n_rows()) ==
                 t.bytes.size());
    sum += static_cast<uint64_t>(t.bytes.front()) * 3 + static_cast<uint64_t>(t.bytes.back());
  }
  return sum;
}

// Keeps the compiler from dropping the reads behind `value`.
inline void KeepResult(uint64_t value) {
  static volatile uint64_t sink;
  sink = value;
  (void)sink;
}

// Calls every getter with every key; returns how many calls gave a value.
inline int TouchGetters(const GgufFile& file) {
  int n_values = 0;
  for (const auto& [key, value] : file.metadata()) {
    if (!value.is_array) PHASOR_CHECK(value.size() == 1);
    n_values += file.GetInt(key).ok();
    n_values += file.GetFloat(key).ok();
    n_values += file.GetBool(key).ok();
    n_values += file.GetString(key).ok();
    n_values += file.GetIntArray(key).ok();
    n_values += file.GetFloatArray(key).ok();
    n_values += file.GetStringArray(key).ok();
  }
  for (const TensorView& t : file.tensors()) PHASOR_CHECK(file.FindTensor(t.name) == &t);
  return n_values;
}

}  // namespace phasor::testing
