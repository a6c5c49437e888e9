// Width classes of each KV head, chosen once per model: what the codecs read that spend their bits
// where the queries look.
//
// File format (JSON, docs/formats.md): {"format": "phasor-calibration", "version": 2,
// "fingerprint", "n_layers", "n_kv_heads", "n_tokens", "sets": [{"codec", "bits_per_element",
// "n_classes", "classes": [one hex string per (layer, head), two digits per class]}],
// "query_moments": {"n_channels", "moments": [one hex string per (layer, head)]},
// "value_directions": {"n_channels", "n_directions", "directions": [the same]}}.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "phasor/status.h"

namespace phasor {

// The widths of one codec.
struct CalibrationSet {
  std::string codec;             // id
  double bits_per_element = 0;   // budget they were made for, metadata included
  int n_classes = 0;             // per head: pairs for `polar`, channels for `frame4` and `frame3`
  std::vector<uint8_t> classes;  // [n_layers, n_kv_heads, n_classes]
};

// Second moments of the queries of every KV head (KvCodecParams::query_moments_DD): f16 root mean
// squares of n_channels channels, relative to those of the strongest, low byte first, then what
// channel 1 has in common with 0, channel 2 with 0 and 1 and so on, in 127ths as signed bytes.
struct StoredQueryMoments {
  int n_channels = 0;          // 0: none
  std::vector<uint8_t> bytes;  // [n_layers, n_kv_heads, BytesPerHead()]

  std::size_t BytesPerHead() const {
    const auto n = static_cast<std::size_t>(n_channels);
    return 2 * n + n * (n - 1) / 2;
  }
  // moments_DD [n_channels, n_channels] of the next head.
  void Append(std::span<const double> moments_DD);
};

// Directions that the values of every KV head favour (KvCodecParams::direction_ND, factor_N): f16
// factors, low byte first, then the numbers of every direction in 127ths of its largest, as signed
// bytes.
struct StoredValueDirections {
  int n_channels = 0, n_directions = 0;  // 0: none
  std::vector<uint8_t> bytes;            // [n_layers, n_kv_heads, BytesPerHead()]

  std::size_t BytesPerHead() const {
    return static_cast<std::size_t>(n_directions) * (2 + static_cast<std::size_t>(n_channels));
  }
  // Of the next head: directions [up to n_directions, n_channels] with a factor each.
  void Append(std::span<const float> direction_ND, std::span<const float> factor_N);
};

class Calibration {
 public:
  std::string fingerprint;  // WeightFingerprint of the model it was made for
  int n_layers = 0, n_kv_heads = 0;
  int64_t n_tokens = 0;  // of the text it was made from
  std::string source;    // where it was read from; not stored
  std::vector<CalibrationSet> sets;
  StoredQueryMoments query_moments;
  StoredValueDirections value_directions;

  // Null when there are no widths for this codec.
  const CalibrationSet* Find(const std::string& codec) const;
  // [n_classes]; empty when there are none for this codec.
  std::span<const uint8_t> Classes(const std::string& codec, int layer, int head) const;

  // [D, D]; empty when the file has none.
  std::vector<float> QueryMoments(int layer, int head) const;

  // Directions [n, D] and factors [n]; n is 0 when the file has none.
  struct Directions {
    std::vector<float> direction_ND, factor_N;
  };
  Directions ValueDirections(int layer, int head) const;
  // As stored, for fingerprints.
  std::span<const uint8_t> ValueDirectionBytes(int layer, int head) const;

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
