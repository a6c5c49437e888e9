// What moved text costs decode attention: queries turned once per span (what the cache does, for
// any codec), beside turning the keys of every page when it moves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/attention_time.h"
#include "phasor/status.h"

namespace phasor::bench {

struct SpanTimeOptions {
  std::vector<KvTypes> types;
  std::vector<int> spans = {1, 4, 16,
                            64};  // pieces the text is cut into, each moved by its own distance
  int64_t n_tokens = 8192;
  int head_dim = 64, n_kv_heads = 8, group = 4;
  int n_threads = 0;  // 0: DefaultThreadCount()
  int n_rounds = 9;   // the minimum counts
};

// Of one layer.
struct SpanTime {
  KvTypes types;
  int n_spans;
  double step_us;   // decode attention of one token, text cut at borders of pages
  double over_one;  // step_us over that of one span
  double cut_us;    // the same, text cut anywhere: both parts of a page are scored
  double cut_over_one;
  double move_us;  // moving all spans once in the ledger, all layers at once
  // Turning the keys of every page instead: in the grid of polar pages, which keeps the codes, or
  // by decoding, turning and encoding again, which loses precision every time.
  double turn_us;
  bool turn_keeps_codes;
  // Steps after which turning the pages would have been cheaper; infinite: never.
  double break_even_steps;
};

// Random keys and values. Errors: as MeasureAttentionTime; kInvalidArgument for more spans than
// tokens.
Result<std::vector<SpanTime>> MeasureSpanTime(const SpanTimeOptions& options);

// format: md, plain, csv, json or jsonl.
void PrintSpanTimes(const std::vector<SpanTime>& rows, const SpanTimeOptions& options,
                    const std::string& cpu_name, const std::string& format);

}  // namespace phasor::bench
