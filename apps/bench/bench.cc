// phasor bench: prefill and decode speed at given depths and cache types, in llama-bench's columns.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <span>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/attention_report.h"
#include "bench/attention_time.h"
#include "bench/memory.h"
#include "bench/restore_time.h"
#include "bench/span_time.h"
#include "bench/synthetic_fill.h"
#include "cli/command.h"
#include "cli/rope_flags.h"
#include "contracts/kv_codec.h"
#include "phasor/version.h"
#include "simd/cpu.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct BenchFlags {
  ModelFlags model;
  CacheFlags cache;
  RopeFlags rope;
  std::vector<int64_t> n_prompt = {512}, n_gen = {128}, n_depth = {0};
  std::vector<std::string> types_k, types_v;
  int repetitions = 5;
  std::string output = "md";
  std::string fill = "synthetic";
  bool memory = false, attention = false, restore = false;
  std::string restore_folder;
  std::vector<int> spans;
  int64_t buffer_mib = 0;
  std::vector<std::string> types = {"frame4:q4_head", "frame3:q3_head", "q8_0:q8_0", "q4_0:q4_0",
                                    "int4_channel:q4_head"};
  std::vector<int> head_dims = {64, 128}, groups = {1, 3, 4, 8};
  std::string polar_widths = "uniform";
};

struct Case {
  std::string type_k, type_v;
  int64_t n_prompt, n_gen, n_depth;
};

std::string CaseName(const Case& c) {
  std::string name =
      c.n_prompt > 0 ? fmt::format("pp{}", c.n_prompt) : fmt::format("tg{}", c.n_gen);
  return c.n_depth > 0 ? name + fmt::format(" @ d{}", c.n_depth) : name;
}

std::vector<int32_t> RandomTokens(int64_t n, int32_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& t : tokens) t = static_cast<int32_t>(rng.Below(vocab));
  return tokens;
}

int64_t NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

// One timed run on a session that holds exactly n_depth tokens; leaves it like that. *cache: what
// it held at the end of the run. *steps: the time of every Append is added to it.
Result<int64_t> TimeOnce(const Case& c, Session& session, uint64_t seed, CacheStats* cache,
                         std::vector<int64_t>* steps) {
  const int32_t vocab = session.model().config().n_vocab;
  const std::vector<int32_t> tokens =
      RandomTokens(c.n_prompt > 0 ? c.n_prompt : c.n_gen, vocab, seed);
  const std::size_t step = c.n_prompt > 0 ? tokens.size() : 1;
  int64_t ns = 0;
  for (std::size_t at = 0; at < tokens.size(); at += step) {
    const auto start = Clock::now();
    PHASOR_RETURN_IF_ERROR(session.Append(std::span(tokens).subspan(at, step), {}));
    steps->push_back(NanosecondsSince(start));
    ns += steps->back();
  }
  *cache = session.cache_stats();
  PHASOR_RETURN_IF_ERROR(session.Truncate(c.n_depth));
  return ns;
}

Json ResultJson(const Case& c, const LoadedModel& model, const BenchFlags& flags,
                const std::vector<int64_t>& samples, std::vector<int64_t> steps,
                const CacheStats& cache) {
  const auto rope = RopeOverride(flags.rope, model.config().rope);
  std::sort(steps.begin(), steps.end());
  const auto n = static_cast<double>(c.n_prompt > 0 ? c.n_prompt : c.n_gen);
  double sum = 0, sum2 = 0, ts_sum = 0, ts_sum2 = 0;
  Json ts = Json::array();
  for (int64_t ns : samples) {
    const double t = n * 1e9 / static_cast<double>(ns);
    sum += static_cast<double>(ns);
    sum2 += static_cast<double>(ns) * static_cast<double>(ns);
    ts_sum += t;
    ts_sum2 += t * t;
    ts.push_back(t);
  }
  const auto count = static_cast<double>(samples.size());
  auto deviation = [&](double s, double s2) {
    return count > 1 ? std::sqrt(std::max(0.0, (s2 - s * s / count) / (count - 1))) : 0.0;
  };
  char now[32];
  const std::time_t time = std::time(nullptr);
  std::strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&time));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {{"build_commit", Version()},
          {"build_number", 0},
          {"cpu_info", CpuName()},
          {"gpu_info", ""},
          {"backends", "CPU " + ActiveKernels()},
          {"model_filename", model.path()},
          {"model_type", model.config().architecture + " " + model.weight_type()},
          {"model_size", model.file_bytes()},
          {"model_n_params", model.n_params()},
          {"n_batch", flags.cache.batch},
          {"n_ubatch", flags.cache.batch},
          {"n_threads", model.pool().size()},
          {"type_k", c.type_k},
          {"type_v", c.type_v},
          {"flash_attn", true},
          {"n_prompt", c.n_prompt},
          {"n_gen", c.n_gen},
          {"n_depth", c.n_depth},
          {"depth_fill", c.n_depth > 0 ? flags.fill : "none"},
          {"test_time", now},
          {"avg_ns", sum / count},
          {"stddev_ns", deviation(sum, sum2)},
          {"avg_ts", ts_sum / count},
          {"stddev_ts", deviation(ts_sum, ts_sum2)},
          {"samples_ns", samples},
          {"samples_ts", ts},
          {"min_step_ns", steps.front()},
          {"median_step_ns", steps[steps.size() / 2]},
          {"rope_method", rope.ok() && *rope ? (*rope)->method : model.config().rope.method},
          {"kv_codec", c.type_k + "/" + c.type_v},
          {"bytes_per_token", cache.n_tokens > 0 ? static_cast<double>(cache.used_bytes) /
                                                       static_cast<double>(cache.n_tokens)
                                                 : 0.0},
          {"peak_rss_bytes", static_cast<int64_t>(usage.ru_maxrss) * 1024}};
}

class Output {
 public:
  explicit Output(std::string format, std::string note)
      : format_(std::move(format)),
        note_(std::move(note)),
        table_({{"model", Table::Align::kLeft},
                {"size", Table::Align::kRight},
                {"params", Table::Align::kRight},
                {"backend", Table::Align::kLeft},
                {"threads", Table::Align::kRight},
                {"type_k", Table::Align::kLeft},
                {"type_v", Table::Align::kLeft},
                {"test", Table::Align::kRight},
                {"t/s", Table::Align::kRight},
                {"cache B/token", Table::Align::kRight}}) {}

  void Add(const Case& c, const Json& r) {
    if (format_ == "jsonl") {
      fmt::print("{}\n", r.dump());
      std::fflush(stdout);
      return;
    }
    all_.push_back(r);
    table_.AddRow(
        {r["model_type"], HumanBytes(r["model_size"].get<double>()),
         fmt::format("{:.2f} M", r["model_n_params"].get<double>() / 1e6), r["backends"],
         r["n_threads"].dump(), c.type_k, c.type_v, CaseName(c),
         fmt::format("{:.2f} ± {:.2f}", r["avg_ts"].get<double>(), r["stddev_ts"].get<double>()),
         fmt::format("{:.0f}", r["bytes_per_token"].get<double>())});
  }
  void Finish() {
    if (format_ == "json") {
      fmt::print("{}\n", all_.dump(2));
    } else if (format_ == "csv") {
      Csv();
    } else if (format_ != "jsonl") {
      fmt::print("{}", table_.Render(*ParseTableFormat(format_)));
      if (!note_.empty()) fmt::print("\n{}\n", note_);
    }
  }

 private:
  // llama-bench's csv has every field, not the table's columns.
  void Csv() const {
    if (all_.empty()) return;
    std::vector<Table::Column> columns;
    for (const auto& [key, value] : all_[0].items()) {
      if (!value.is_array()) columns.push_back({key, Table::Align::kLeft});
    }
    Table table(columns);
    for (const Json& r : all_) {
      std::vector<std::string> row;
      for (const auto& [key, value] : r.items()) {
        if (!value.is_array())
          row.push_back(value.is_string() ? value.get<std::string>() : value.dump());
      }
      table.AddRow(std::move(row));
    }
    fmt::print("{}", table.Render(Table::Format::kCsv));
  }

  std::string format_, note_;
  Table table_;
  Json all_ = Json::array();
};

std::vector<Case> CasesAt(const BenchFlags& f, const std::string& k, const std::string& v,
                          int64_t depth) {
  std::vector<Case> cases;
  for (int64_t n : f.n_prompt) {
    if (n > 0) cases.push_back({k, v, n, 0, depth});
  }
  for (int64_t n : f.n_gen) {
    if (n > 0) cases.push_back({k, v, 0, n, depth});
  }
  return cases;
}

Status FillToDepth(const BenchFlags& flags, int64_t depth, const std::string& types,
                   Session& session) {
  ProgressBar bar(fmt::format("filling {} to {}", types, depth), depth, "tokens");
  auto on_progress = [&](int64_t done, int64_t) { bar.Set(done); };
  if (flags.fill == "synthetic") {
    bench::SyntheticFillOptions fill;
    fill.n_tokens = depth;
    fill.cancel = &InterruptFlag::flag();
    fill.on_progress = on_progress;
    return bench::FillSynthetic(session, fill);
  }
  AppendOptions append;
  append.cancel = &InterruptFlag::flag();
  append.on_progress = on_progress;
  return session.Append(RandomTokens(depth, session.model().config().n_vocab, 1), append);
}

// Fills one session per cache type to the depth, then interleaves the repetitions over all types,
// so that a change of the machine's speed meets every type alike.
Status RunDepth(const BenchFlags& flags, const LoadedModel& model, int64_t depth, Output& out) {
  struct Slot {
    Case c;
    Session* session;
    std::vector<int64_t> samples, steps;
    CacheStats cache;
  };
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Slot> slots;
  for (const std::string& k : flags.types_k) {
    for (const std::string& v : flags.types_v) {
      const std::vector<Case> cases = CasesAt(flags, k, v, depth);
      int64_t longest = 1;
      for (const Case& c : cases) longest = std::max({longest, c.n_prompt, c.n_gen});
      PHASOR_ASSIGN_OR_RETURN(SessionOptions options,
                              ToSessionOptions(flags.cache, flags.rope, model.config()));
      options.type_k = k;
      options.type_v = v;
      options.n_ctx = depth + longest;
      PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model, options));
      if (depth > 0) PHASOR_RETURN_IF_ERROR(FillToDepth(flags, depth, k + "/" + v, *session));
      for (const Case& c : cases) slots.push_back({c, session.get(), {}, {}, {}});
      sessions.push_back(std::move(session));
    }
  }
  for (int r = -1; r < flags.repetitions; ++r) {  // -1: warm-up
    for (Slot& s : slots) {
      if (InterruptFlag::flag().load()) return Cancelled("bench: stopped by Ctrl-C");
      if (r < 0 && s.c.n_gen > 16) {
        Case warm = s.c;
        warm.n_gen = 4;
        PHASOR_ASSIGN_OR_RETURN(int64_t unused, TimeOnce(warm, *s.session, 7, &s.cache, &s.steps));
        (void)unused;
        continue;
      }
      if (r <= 0) s.steps.clear();
      PHASOR_ASSIGN_OR_RETURN(int64_t ns, TimeOnce(s.c, *s.session, 100 + r, &s.cache, &s.steps));
      if (r >= 0) s.samples.push_back(ns);
    }
  }
  for (Slot& s : slots) {
    out.Add(s.c, ResultJson(s.c, model, flags, s.samples, s.steps, s.cache));
  }
  return Status::Ok();
}

int BenchMemory(const BenchFlags& flags) {
  if (Status s = SetCpuLevel(flags.model.cpu_level); !s.ok()) return Fail(s);
  InterruptFlag::Install();
  bench::MemoryOptions options;
  options.n_threads = flags.model.threads;
  options.buffer_mib = flags.buffer_mib;
  options.n_passes = flags.repetitions;
  auto result = bench::MeasureMemory(options);
  if (!result.ok()) return Fail(result.status());
  const std::string level = CpuLevelName(ActiveCpuLevel());
  if (flags.output == "json" || flags.output == "jsonl") {
    Json j = {{"cpu_info", CpuName()},
              {"cpu_level", level},
              {"buffer_bytes", result->buffer_bytes},
              {"last_cache_bytes", result->last_cache_bytes},
              {"huge_bytes", result->huge_bytes},
              {"passes", flags.repetitions},
              {"results", Json::array()}};
    for (const bench::MemoryRow& r : result->rows) {
      j["results"].push_back({{"what", r.what},
                              {"huge_pages", r.huge_pages},
                              {"n_threads", r.n_threads},
                              {"best_gb_s", r.best_gb_s},
                              {"median_gb_s", r.median_gb_s}});
    }
    fmt::print("{}\n", j.dump(flags.output == "json" ? 2 : -1));
    return 0;
  }
  Table table({{"memory", Table::Align::kLeft},
               {"pages", Table::Align::kLeft},
               {"threads", Table::Align::kRight},
               {"best GB/s", Table::Align::kRight},
               {"median GB/s", Table::Align::kRight}});
  for (const bench::MemoryRow& r : result->rows) {
    table.AddRow({r.what, r.huge_pages ? "huge" : "small", fmt::format("{}", r.n_threads),
                  fmt::format("{:.1f}", r.best_gb_s), fmt::format("{:.1f}", r.median_gb_s)});
  }
  fmt::print("{}", table.Render(*ParseTableFormat(flags.output)));
  if (flags.output == "csv") return 0;
  fmt::print(
      "\n{}, {}, buffer {}, last cache {}, on huge pages {}; a copy counts reads and writes\n",
      CpuName(), level, HumanBytes(static_cast<double>(result->buffer_bytes)),
      HumanBytes(static_cast<double>(result->last_cache_bytes)),
      result->huge_bytes < 0 ? "unknown" : HumanBytes(static_cast<double>(result->huge_bytes)));
  return 0;
}

int BenchAttention(const BenchFlags& flags) {
  if (Status s = SetCpuLevel(flags.model.cpu_level); !s.ok()) return Fail(s);
  bench::AttentionTimeOptions options;
  auto types = bench::ParseKvTypes(flags.types);
  if (!types.ok()) return UsageError(types.status().message());
  options.types = std::move(types).value();
  options.head_dims = flags.head_dims;
  options.groups = flags.groups;
  options.n_threads = flags.model.threads;
  options.n_rounds = flags.repetitions;
  options.mixed_polar = flags.polar_widths == "mixed";
  if (flags.buffer_mib > 0) options.f16_stream_bytes = flags.buffer_mib << 20;
  options.bandwidth_buffer_mib = flags.buffer_mib;
  InterruptFlag::Install();
  auto result = bench::MeasureAttentionTime(options);
  if (!result.ok()) return Fail(result.status());
  bench::PrintAttentionTimes(*result, CpuName(), flags.output);
  return 0;
}

int BenchSpans(const BenchFlags& flags) {
  if (Status s = SetCpuLevel(flags.model.cpu_level); !s.ok()) return Fail(s);
  bench::SpanTimeOptions options;
  auto types = bench::ParseKvTypes(flags.types);
  if (!types.ok()) return UsageError(types.status().message());
  options.types = std::move(types).value();
  options.spans = flags.spans;
  options.n_threads = flags.model.threads;
  if (flags.n_depth != std::vector<int64_t>{0}) options.n_tokens = flags.n_depth.back();
  InterruptFlag::Install();
  auto result = bench::MeasureSpanTime(options);
  if (!result.ok()) return Fail(result.status());
  bench::PrintSpanTimes(*result, options, CpuName(), flags.output);
  return 0;
}

int BenchRestore(const BenchFlags& flags) {
  bench::RestoreTimeOptions options;
  options.session = ToSessionOptions(flags.cache);
  if (!flags.types_k.empty()) options.session.type_k = flags.types_k.front();
  if (!flags.types_v.empty()) options.session.type_v = flags.types_v.front();
  if (flags.n_depth != std::vector<int64_t>{0}) options.depths = flags.n_depth;
  if (std::ranges::find(options.depths, 0) != options.depths.end()) {
    return UsageError("bench: --restore: expected depths of at least 1, found 0");
  }
  options.prefill = flags.fill == "prefill";
  options.n_rounds = flags.repetitions;
  options.folder = flags.restore_folder.empty() ? UserCacheDir() : flags.restore_folder;
  auto model = LoadModel(flags.model);
  if (!model.ok()) return Fail(model.status());
  InterruptFlag::Install();
  auto result = bench::MeasureRestoreTime(**model, options);
  if (!result.ok()) return Fail(result.status());
  bench::PrintRestoreTimes(*result, **model, options, CpuName(), flags.output);
  return 0;
}

// What a reader of the table must know about the depths.
std::string DepthNote(const BenchFlags& flags) {
  const bool deep =
      std::any_of(flags.n_depth.begin(), flags.n_depth.end(), [](int64_t d) { return d > 0; });
  if (!deep || flags.fill != "synthetic") return "";
  return "Depths: caches filled with random keys and values of measured mean and deviation "
         "(--fill prefill computes them).";
}

int Bench(BenchFlags& flags) {
  if (int{flags.memory} + int{flags.attention} + int{flags.restore} + int{!flags.spans.empty()} >
      1) {
    return UsageError(
        "bench: expected one of --memory, --attention, --restore and --spans, found several");
  }
  if (flags.restore) return BenchRestore(flags);
  if (!flags.spans.empty()) return BenchSpans(flags);
  if (flags.memory) return BenchMemory(flags);
  if (flags.attention) return BenchAttention(flags);
  if (flags.types_k.empty()) flags.types_k = {flags.cache.type_k};
  if (flags.types_v.empty()) flags.types_v = {flags.cache.type_v};
  auto model = LoadModel(flags.model);
  if (!model.ok()) return Fail(model.status());
  InterruptFlag::Install();
  Output out(flags.output, DepthNote(flags));
  for (int64_t depth : flags.n_depth) {
    if (Status s = RunDepth(flags, **model, depth, out); !s.ok()) return Fail(s);
  }
  out.Finish();
  return 0;
}

}  // namespace

void AddBenchCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<BenchFlags>();
  CLI::App* c = app.add_subcommand("bench", "prefill and decode speed in llama-bench's columns");
  AddModelFlags(c, &f->model);
  AddRopeFlags(c, &f->rope);
  auto list = [&](const std::string& name, std::vector<int64_t>* values, const char* help) {
    c->add_option(name, *values, help)->delimiter(',')->check(Integer(0, int64_t{1} << 40));
  };
  list("-p,--n-prompt", &f->n_prompt, "prefill sizes (0: none)");
  list("-n,--n-gen", &f->n_gen, "decode lengths (0: none)");
  list("-d,--n-depth", &f->n_depth, "tokens already in the cache");
  c->add_option("--cache-type-k", f->types_k, "-ctk: cache types of keys, comma-separated")
      ->delimiter(',');
  c->add_option("--cache-type-v", f->types_v, "-ctv: cache types of values, comma-separated")
      ->delimiter(',');
  c->add_option("--sink", f->cache.sink, "first tokens kept in 16 bit")
      ->capture_default_str()
      ->check(Integer(0, kPageTokens));
  c->add_option("--recent", f->cache.recent, "newest tokens kept in 16 bit")
      ->capture_default_str()
      ->check(Integer(0, 1 << 20));
  c->add_option("-b,--batch-size", f->cache.batch, "tokens per prefill step")
      ->capture_default_str()
      ->check(Integer(1, 65536));
  c->add_option("-r,--repetitions", f->repetitions, "timed runs of each test")
      ->capture_default_str()
      ->check(Integer(1, 1000));
  c->add_option("-o,--output", f->output, "md, csv, json, jsonl or plain")
      ->check(OneOf({"md", "csv", "json", "jsonl", "plain"}))
      ->capture_default_str();
  c->add_option("--fill", f->fill,
                "how caches get to a depth: synthetic (random keys and values, seconds) or prefill")
      ->check(OneOf({"synthetic", "prefill"}))
      ->capture_default_str();
  c->add_flag("--memory", f->memory, "measure the machine's memory instead, without a model");
  c->add_flag("--attention", f->attention,
              "measure decode attention by cache type instead, without a model");
  c->add_flag("--restore", f->restore,
              "measure how long a saved session of -d tokens (8192,32768) takes to load, beside "
              "reading it again");
  c->add_option("--restore-folder", f->restore_folder,
                "of --restore: where to save it (default: the cache folder)");
  c->add_option("--spans", f->spans,
                "measure what moved text costs decode attention instead, without a model: numbers "
                "of spans, e.g. 1,4,16,64, in -d tokens (8192)")
      ->delimiter(',')
      ->check(Integer(1, 1 << 20));
  c->add_option("--polar-widths", f->polar_widths,
                "of --attention: uniform (3 + 5 bits) or mixed, as calibration mixes them")
      ->capture_default_str()
      ->check(CLI::IsMember({"uniform", "mixed"}));
  c->add_option("--types", f->types, "of --attention and --spans: K:V,K:V,... beside f16:f16")
      ->delimiter(',')
      ->capture_default_str();
  c->add_option("--head-dims", f->head_dims, "of --attention: head sizes")
      ->delimiter(',')
      ->check(Integer(1, 1024))
      ->capture_default_str();
  c->add_option("--groups", f->groups, "of --attention: query heads that share a KV head")
      ->delimiter(',')
      ->check(Integer(1, 64))
      ->capture_default_str();
  c->add_option("--buffer-mib", f->buffer_mib,
                "of --memory and --attention, there of f16:f16 (0: beyond every cache)")
      ->check(Integer(0, 1 << 20));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, exit_code] { *exit_code = Bench(*f); });
}

}  // namespace phasor::cli
