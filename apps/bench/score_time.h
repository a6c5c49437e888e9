// How long key codecs take to score queries, through the KvCodec contract, one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "phasor/status.h"

namespace phasor {
class Calibration;
}

namespace phasor::bench {

struct ScoreTimeOptions {
  std::vector<std::string> ids;  // key codecs; the first one is what the others are compared with
  int head_dim = 128;
  int group = 1;                             // query heads that share a KV head
  const Calibration* calibration = nullptr;  // for codecs that use one; may be null
  int calibrated_layer = 0;                  // whose first KV head's widths are taken
  int64_t cached_tokens = 2048;              // one head's codes stay in the cache
  int64_t stream_bytes = 256 << 20;          // of the first codec: far beyond any cache
  int n_rounds = 5;                          // codecs take turns; the median counts
};

struct ScoreTime {
  std::string id;
  double bits = 0;  // per key element
  // Nanoseconds per key and KV head, all query heads together. Streaming: the same number of tokens
  // for every codec, each page at its own address.
  double cached_ns = 0, stream_ns = 0;
};

Result<std::vector<ScoreTime>> MeasureScoreTime(const ScoreTimeOptions& options);

}  // namespace phasor::bench
