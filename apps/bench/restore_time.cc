#include "bench/restore_time.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "base/cancel.h"
#include "base/file.h"
#include "base/median.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/synthetic_fill.h"
#include "cache/kv_cache.h"
#include "simd/cpu.h"

namespace phasor::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kStretches = 4, kChunkRounds = 2;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::vector<int32_t> RandomTokens(int64_t n, const LoadedModel& model) {
  Rng rng(1);
  std::vector<int32_t> tokens(n);
  for (int32_t& t : tokens) t = static_cast<int32_t>(rng.Below(model.config().n_vocab));
  return tokens;
}

// Share of the file's pages that are in the page cache; -1: unknown.
double CachedShare(const std::string& path) {
  auto file = MappedFile::Open(path);
  if (!file.ok() || file->bytes().empty()) return -1;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((file->bytes().size() + page - 1) / page);
  void* start = const_cast<std::byte*>(file->bytes().data());
  if (::mincore(start, file->bytes().size(), resident.data()) != 0) return -1;
  const auto n =
      std::count_if(resident.begin(), resident.end(), [](unsigned char r) { return (r & 1) != 0; });
  return static_cast<double>(n) / static_cast<double>(resident.size());
}

// Asks the system to forget the file's pages, which must be on the disk for that.
void DropFromPageCache(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::fdatasync(fd);
  (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

// Removes the saved session however the measurement ends.
struct SavedFile {
  std::string path;
  ~SavedFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

class RestoreTimer {
 public:
  RestoreTimer(const LoadedModel& model, const RestoreTimeOptions& options, int64_t n_tokens)
      : model_(model), options_(options), tokens_(RandomTokens(n_tokens, model)) {
    session_options_ = options.session;
    session_options_.n_ctx = n_tokens + session_options_.n_batch;
    row_.n_tokens = n_tokens;
  }

  Result<RestoreTime> Measure() {
    PHASOR_ASSIGN_OR_RETURN(session_, Session::Create(model_, session_options_));
    PHASOR_RETURN_IF_ERROR(options_.prefill ? Prefill() : Fill());
    const SavedFile file{options_.folder + fmt::format("/bench-restore-{}.span", ::getpid())};
    const auto start = Clock::now();
    PHASOR_RETURN_IF_ERROR(session_->Save(file.path));
    row_.save_ms = MillisecondsSince(start);
    row_.file_bytes = std::filesystem::file_size(file.path);
    PHASOR_RETURN_IF_ERROR(TimeLoads(file.path));
    if (!options_.prefill) PHASOR_RETURN_IF_ERROR(TimeChunks());
    return row_;
  }

 private:
  Status Prefill() {
    ProgressBar bar(fmt::format("reading {}", row_.n_tokens), row_.n_tokens, "tokens");
    AppendOptions append;
    append.cancel = &InterruptFlag::flag();
    append.on_progress = [&](int64_t done, int64_t) { bar.Set(done); };
    const auto start = Clock::now();
    PHASOR_RETURN_IF_ERROR(session_->Append(tokens_, append));
    row_.prefill_ms = MillisecondsSince(start);
    row_.prefill_measured = true;
    return Status::Ok();
  }

  // A filled session knows the ids of its first tokens only; another one over the same blocks gets
  // the right number of them.
  Status Fill() {
    ProgressBar bar(fmt::format("filling to {}", row_.n_tokens), row_.n_tokens, "tokens");
    SyntheticFillOptions fill;
    fill.n_tokens = row_.n_tokens;
    fill.cancel = &InterruptFlag::flag();
    fill.on_progress = [&](int64_t done, int64_t) { bar.Set(done); };
    PHASOR_RETURN_IF_ERROR(FillSynthetic(*session_, fill));
    PHASOR_ASSIGN_OR_RETURN(KvSpan span, session_->cache().Slice(0, row_.n_tokens));
    SessionOptions shared = session_options_;
    shared.store = session_->store();
    PHASOR_ASSIGN_OR_RETURN(session_, Session::Create(model_, shared));
    AttachOptions attach;
    attach.same_left_context = true;
    PHASOR_RETURN_IF_ERROR(session_->Attach({std::move(span), tokens_}, attach));
    return session_->RefreshLogits();
  }

  Status TimeLoads(const std::string& path) {
    std::vector<double> cold, warm;
    for (int round = 0; round < options_.n_rounds; ++round) {
      if (InterruptFlag::flag().load()) return Cancelled("bench: stopped by Ctrl-C");
      DropFromPageCache(path);
      row_.cold_cached = std::max(row_.cold_cached, CachedShare(path));
      for (std::vector<double>* times : {&cold, &warm}) {
        PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model_, session_options_));
        const auto start = Clock::now();
        PHASOR_RETURN_IF_ERROR(session->Load(path));
        times->push_back(MillisecondsSince(start));
        if (session->tokens() != session_->tokens() ||
            !std::ranges::equal(session->logits(), session_->logits())) {
          return Internal("bench: expected the session that was saved, found another");
        }
      }
    }
    row_.cold_ms = Median(cold);
    row_.cold_worst_ms = *std::max_element(cold.begin(), cold.end());
    row_.warm_ms = Median(warm);
    return Status::Ok();
  }

  // From deep to shallow: cutting a cache back costs nothing.
  Status TimeChunks() {
    const int64_t n_chunk = std::min<int64_t>(session_options_.n_batch, row_.n_tokens);
    for (int i = kStretches - 1; i >= 0; --i) {
      const int64_t middle = (2 * i + 1) * row_.n_tokens / (2 * kStretches);
      const int64_t depth = std::max<int64_t>(0, middle - n_chunk / 2);
      double best_ms = 0;
      for (int round = 0; round < kChunkRounds; ++round) {
        if (InterruptFlag::flag().load()) return Cancelled("bench: stopped by Ctrl-C");
        PHASOR_RETURN_IF_ERROR(session_->Truncate(depth));
        const auto start = Clock::now();
        PHASOR_RETURN_IF_ERROR(session_->Append(std::span(tokens_).subspan(0, n_chunk), {}));
        const double ms = MillisecondsSince(start);
        best_ms = round == 0 ? ms : std::min(best_ms, ms);
      }
      row_.prefill_ms +=
          best_ms * static_cast<double>(row_.n_tokens) / static_cast<double>(kStretches * n_chunk);
    }
    return Status::Ok();
  }

  const LoadedModel& model_;
  const RestoreTimeOptions& options_;
  const std::vector<int32_t> tokens_;
  SessionOptions session_options_;
  std::unique_ptr<Session> session_;
  RestoreTime row_;
};

void PrintJson(const std::vector<RestoreTime>& rows, const LoadedModel& model,
               const RestoreTimeOptions& options, const std::string& cpu_name, int indent) {
  nlohmann::ordered_json j = {{"cpu_info", cpu_name},
                              {"cpu_level", CpuLevelName(ActiveCpuLevel())},
                              {"model_filename", model.path()},
                              {"n_threads", model.pool().size()},
                              {"type_k", options.session.type_k},
                              {"type_v", options.session.type_v},
                              {"rounds", options.n_rounds},
                              {"results", nlohmann::ordered_json::array()}};
  for (const RestoreTime& r : rows) {
    j["results"].push_back({{"n_tokens", r.n_tokens},
                            {"file_bytes", r.file_bytes},
                            {"prefill_ms", r.prefill_ms},
                            {"prefill", r.prefill_measured ? "measured" : "sum of chunks"},
                            {"save_ms", r.save_ms},
                            {"load_ms", r.cold_ms},
                            {"load_worst_ms", r.cold_worst_ms},
                            {"cached_before_load", r.cold_cached},
                            {"load_from_page_cache_ms", r.warm_ms},
                            {"prefill_over_load", r.prefill_ms / r.cold_ms},
                            {"prefill_over_worst_load", r.prefill_ms / r.cold_worst_ms},
                            {"prefill_over_load_from_page_cache", r.prefill_ms / r.warm_ms}});
  }
  fmt::print("{}\n", j.dump(indent));
}

}  // namespace

Result<std::vector<RestoreTime>> MeasureRestoreTime(const LoadedModel& model,
                                                    const RestoreTimeOptions& options) {
  PHASOR_RETURN_IF_ERROR(MakeDirs(options.folder));
  std::vector<RestoreTime> rows;
  for (const int64_t n_tokens : options.depths) {
    RestoreTimer timer(model, options, n_tokens);
    PHASOR_ASSIGN_OR_RETURN(rows.emplace_back(), timer.Measure());
  }
  return rows;
}

void PrintRestoreTimes(const std::vector<RestoreTime>& rows, const LoadedModel& model,
                       const RestoreTimeOptions& options, const std::string& cpu_name,
                       const std::string& format) {
  if (format == "json" || format == "jsonl") {
    return PrintJson(rows, model, options, cpu_name, format == "json" ? 2 : -1);
  }
  using Align = Table::Align;
  Table table({{"tokens", Align::kRight},
               {"file", Align::kRight},
               {"prefill s", Align::kRight},
               {"save s", Align::kRight},
               {"load s", Align::kRight},
               {"slowest", Align::kRight},
               {"in page cache", Align::kRight},
               {"prefill / load", Align::kRight},
               {"load again s", Align::kRight},
               {"prefill / load again", Align::kRight}});
  for (const RestoreTime& r : rows) {
    table.AddRow(
        {fmt::format("{}", r.n_tokens),
         fmt::format("{:.1f} MiB", static_cast<double>(r.file_bytes) / (1 << 20)),
         fmt::format("{:.2f}", r.prefill_ms / 1e3), fmt::format("{:.3f}", r.save_ms / 1e3),
         fmt::format("{:.3f}", r.cold_ms / 1e3), fmt::format("{:.3f}", r.cold_worst_ms / 1e3),
         r.cold_cached < 0 ? "unknown" : fmt::format("{:.0f} %", r.cold_cached * 100),
         fmt::format("{:.1f}", r.prefill_ms / r.cold_ms), fmt::format("{:.3f}", r.warm_ms / 1e3),
         fmt::format("{:.1f}", r.prefill_ms / r.warm_ms)});
  }
  fmt::print("{}", table.Render(*ParseTableFormat(format)));
  if (format == "csv") return;
  const bool measured = options.prefill;
  fmt::print(
      "\n{}, {}, {} threads, {}:{}. load: of the saved session into a new one, every checksum "
      "included, median of {}, after the file was dropped from the page cache (what was in it all "
      "the same: in page cache; caches of the device are not seen). Prefill {}.\n",
      cpu_name, CpuLevelName(ActiveCpuLevel()), model.pool().size(), options.session.type_k,
      options.session.type_v, options.n_rounds,
      measured ? "was timed as a whole"
               : fmt::format("is the sum of chunks of {} tokens timed at {} depths, the faster of "
                             "{} runs each; caches were filled with random keys and values",
                             options.session.n_batch, kStretches, kChunkRounds));
}

}  // namespace phasor::bench
