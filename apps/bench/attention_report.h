// What `phasor bench --attention` prints.
#pragma once

#include <string>

#include "bench/attention_time.h"

namespace phasor::bench {

// format: md, plain, csv, json or jsonl. cpu_name: for the line below the table and for JSON.
void PrintAttentionTimes(const AttentionTimes& times, const std::string& cpu_name,
                         const std::string& format);

}  // namespace phasor::bench
