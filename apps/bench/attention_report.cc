#include "bench/attention_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/table.h"
#include "simd/cpu.h"

namespace phasor::bench {
namespace {

using Json = nlohmann::ordered_json;

// Byte products per token and KV head: every query head meets every code of K and of V once.
double ProductNs(const AttentionTimes& t, const AttentionTime& r) {
  return t.products_per_ns > 0 ? 2.0 * r.group * r.head_dim / t.products_per_ns : 0;
}

// Quantized pairs that f16:f16 beats, streamed.
std::vector<std::string> Slower(const AttentionTimes& times) {
  std::vector<std::string> out;
  for (const AttentionTime& r : times.rows) {
    if (r.stream_speed < 1) {
      out.push_back(fmt::format("{}:{} D {} g {} ({:.2f})", r.types.k, r.types.v, r.head_dim,
                                r.group, r.stream_speed));
    }
  }
  return out;
}

void PrintJson(const AttentionTimes& times, const std::string& cpu_name, bool indent) {
  Json j = {{"cpu_info", cpu_name},
            {"cpu_level", CpuLevelName(ActiveCpuLevel())},
            {"n_threads", times.n_threads},
            {"load", times.load},
            {"polar_widths", times.mixed_polar ? "mixed" : "uniform"},
            {"read_gb_s", times.read_gb_s},
            {"byte_products_per_ns", times.products_per_ns},
            {"results", Json::array()},
            {"slower_than_f16", Slower(times)},
            {"unsupported", times.unsupported}};
  for (const AttentionTime& r : times.rows) {
    j["results"].push_back({{"type_k", r.types.k},
                            {"type_v", r.types.v},
                            {"head_dim", r.head_dim},
                            {"group", r.group},
                            {"bytes_per_token", r.bytes_per_token},
                            {"score_ns", r.score_ns},
                            {"softmax_ns", r.softmax_ns},
                            {"accumulate_ns", r.accumulate_ns},
                            {"cached_ns", r.cached_ns},
                            {"stream_ns", r.stream_ns},
                            {"stream_gb_s", r.stream_gb_s},
                            {"read_gb_s", r.read_gb_s},
                            {"share_of_read", r.share_of_read},
                            {"product_ns", ProductNs(times, r)},
                            {"cached_speed_over_f16", r.cached_speed},
                            {"speed_over_f16", r.stream_speed}});
  }
  fmt::print("{}\n", j.dump(indent ? 2 : -1));
}

}  // namespace

void PrintAttentionTimes(const AttentionTimes& times, const std::string& cpu_name,
                         const std::string& format) {
  if (format == "json" || format == "jsonl") return PrintJson(times, cpu_name, format == "json");
  using Align = Table::Align;
  Table table({{"type_k", Align::kLeft},
               {"type_v", Align::kLeft},
               {"D", Align::kRight},
               {"g", Align::kRight},
               {"B/token", Align::kRight},
               {"score", Align::kRight},
               {"softmax", Align::kRight},
               {"values", Align::kRight},
               {"loop in L2", Align::kRight},
               {"loop", Align::kRight},
               {"products", Align::kRight},
               {"GB/s", Align::kRight},
               {"read GB/s", Align::kRight},
               {"of read", Align::kRight},
               {"L2 speed over f16:f16", Align::kRight},
               {"speed over f16:f16", Align::kRight}});
  for (const AttentionTime& r : times.rows) {
    table.AddRow({r.types.k, r.types.v, fmt::format("{}", r.head_dim), fmt::format("{}", r.group),
                  fmt::format("{:.1f}", r.bytes_per_token), fmt::format("{:.2f}", r.score_ns),
                  fmt::format("{:.2f}", r.softmax_ns), fmt::format("{:.2f}", r.accumulate_ns),
                  fmt::format("{:.2f}", r.cached_ns), fmt::format("{:.2f}", r.stream_ns),
                  times.products_per_ns > 0 ? fmt::format("{:.2f}", ProductNs(times, r)) : "",
                  fmt::format("{:.1f}", r.stream_gb_s), fmt::format("{:.1f}", r.read_gb_s),
                  fmt::format("{:.0f} %", 100 * r.share_of_read),
                  fmt::format("{:.2f}", r.cached_speed), fmt::format("{:.2f}", r.stream_speed)});
  }
  fmt::print("{}", table.Render(*ParseTableFormat(format)));
  if (format == "csv") return;
  fmt::print(
      "\n{}, {}, {} threads, memory reads {:.1f} GB/s at best, load {:.1f} before. Nanoseconds of "
      "one thread per cached token "
      "and KV head, minimum of rounds;\nscore, softmax, values and loop in L2: one thread, codes "
      "in the cache; loop: all threads, codes streamed.\nread: plain reads of all threads right "
      "before and after, median of rounds; of read: what a round's median call reads, over them.\n",
      cpu_name, CpuLevelName(ActiveCpuLevel()), times.n_threads, times.read_gb_s, times.load);
  if (times.products_per_ns > 0) {
    fmt::print("products: one byte product per query head and code of K and V at {:.0f} per ns.\n",
               times.products_per_ns);
  }
  for (const AttentionTime& r : times.rows) {
    if (r.types.k != "polar") continue;
    fmt::print("polar: {}.\n",
               times.mixed_polar ? "widths as calibration mixes them" : "3 + 5 bits for all pairs");
    break;
  }
  for (const std::string& s : times.unsupported) fmt::print("left out: {}\n", s);
  const std::vector<std::string> slower = Slower(times);
  std::string line = slower.empty() ? "none" : slower[0];
  for (std::size_t i = 1; i < slower.size(); ++i) line += ", " + slower[i];
  fmt::print("slower than f16:f16: {}\n", line);
}

}  // namespace phasor::bench
