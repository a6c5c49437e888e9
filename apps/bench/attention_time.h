// How long decode attention takes per cached token: the steps of its loop on one thread in the L2
// cache, and the whole loop as attention.cc runs it, in the cache and streamed from memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "phasor/status.h"

namespace phasor::bench {

struct KvTypes {
  std::string k, v;
};

struct AttentionTimeOptions {
  std::vector<KvTypes> types;  // f16:f16 is always measured beside them, as the first
  std::vector<int> head_dims, groups;
  int n_threads = 0;  // 0: DefaultThreadCount()
  // What the streamed tokens take as f16:f16; every pair holds as many tokens. At 3.25 bits a fifth
  // of it must be beyond every cache.
  int64_t f16_stream_bytes = 512 << 20;
  int64_t cached_bytes = 512 << 10;  // of pages that stay in the L2 cache of one thread
  int64_t bandwidth_buffer_mib = 0;  // as MemoryOptions::buffer_mib
  int n_rounds = 5;                  // pairs take turns; the minimum counts
  bool mixed_polar = false;          // `polar` with widths as calibration mixes them, not 3 + 5
};

// Times are thread time in nanoseconds per cached token and KV head, the `group` query heads that
// share it together.
struct AttentionTime {
  KvTypes types;
  int head_dim, group;
  double bytes_per_token;                      // of pages of K and V, per KV head
  double score_ns, softmax_ns, accumulate_ns;  // one thread, codes in the L2 cache
  double cached_ns;                            // the whole loop there
  double stream_ns;                            // the whole loop from memory, all threads
  double stream_gb_s;                          // 10^9 bytes of pages per second, all threads
  // Of plain reads right before and after, a round each: medians of what those gave, and of the
  // round's (not its fastest) pages per second over it.
  double read_gb_s, share_of_read;
  double cached_speed, stream_speed;  // f16:f16 over this, same head size and group
};

struct AttentionTimes {
  int n_threads = 0;
  bool mixed_polar = false;    // as AttentionTimeOptions
  double load = -1;            // of the machine when the run began, one minute; -1: unknown
  double read_gb_s = 0;        // the best of all rows' plain reads, all threads
  double products_per_ns = 0;  // byte products of one thread at vpdpbusd's peak; 0: no such level
  std::vector<AttentionTime> rows;
  std::vector<std::string> unsupported;  // "K:V at head size N: reason", left out of the rows
};

// Caches hold random normal keys and values; widths of the frame codecs are spread as calibration
// spreads them, those of `polar` with mixed_polar. Sixteen layers of eight KV heads where pages
// stream, one head in the cache. Errors: an id that is not there, kResourceExhausted, kCancelled
// after Ctrl-C.
Result<AttentionTimes> MeasureAttentionTime(const AttentionTimeOptions& options);

// "K:V,K:V" in pieces; kInvalidArgument for a piece of another form.
Result<std::vector<KvTypes>> ParseKvTypes(const std::vector<std::string>& pieces);

}  // namespace phasor::bench
