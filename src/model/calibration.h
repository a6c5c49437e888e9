// Width classes per pair of each KV head, chosen once per model: what the `polar` codec reads.
//
// File format (JSON, docs/formats.md): {"format": "phasor-calibration", "version": 1, "codec",
// "fingerprint", "n_layers", "n_kv_heads", "n_pairs", "bits_per_element", "n_tokens", "source",
// "classes": [one hex string per (layer, head), two digits per pair]}.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "phasor/status.h"

namespace phasor {

class Calibration {
 public:
  std::string codec = "polar";
  std::string fingerprint;  // WeightFingerprint of the model it was made for
  int n_layers = 0, n_kv_heads = 0, n_pairs = 0;
  double bits_per_element = 0;   // budget it was made for, metadata included
  int64_t n_tokens = 0;          // of the text it was made from
  std::string source;            // where it was read from; not stored
  std::vector<uint8_t> classes;  // [n_layers, n_kv_heads, n_pairs]

  std::span<const uint8_t> PairClasses(int layer, int head) const {
    return {classes.data() + (static_cast<std::size_t>(layer) * n_kv_heads + head) * n_pairs,
            static_cast<std::size_t>(n_pairs)};
  }

  // Parses and checks the file's own consistency; kDataCorrupt names the field at fault.
  static Result<Calibration> Parse(const std::string& json, const std::string& name);
  static Result<Calibration> Read(const std::string& path);
  // Written to a temporary file and renamed.
  Status Write(const std::string& path) const;
  // kInvalidArgument when it belongs to another model.
  Status CheckFits(const ModelConfig& config, const std::string& model_fingerprint) const;
};

// Where a calibration for this model may lie, in the order tried: beside the model
// (<model>.calibration.json), in the user's cache folder, in the installed or source share folder.
std::vector<std::string> CalibrationPaths(const std::string& model_path,
                                          const std::string& fingerprint);

}  // namespace phasor
