#include "eval/retrieval.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/rng.h"
#include "base/table.h"
#include "ops/vector_ops.h"

namespace phasor::eval {
namespace {

constexpr int kBootstrapSamples = 10000;
constexpr double kTail = 0.025;  // on either side of the interval

void AddToken(std::span<const float> logits, int32_t target, RetrievalResult* result) {
  const auto top = std::max_element(logits.begin(), logits.end()) - logits.begin();
  result->exact = result->exact && top == target;
  result->logprob += logits[target] - LogSumExp(logits.data(), static_cast<int64_t>(logits.size()));
}

class Reader {
 public:
  Reader(Session& session, const std::atomic<bool>* cancel,
         const std::function<void(int64_t)>& on_tokens)
      : session_(session), cancel_(cancel), on_tokens_(on_tokens) {}

  Status Read(const Haystack& haystack, const HaystackStop& stop) {
    const int64_t begin = session_.n_tokens();
    if (begin == stop.n_tokens) return Status::Ok();
    AppendOptions append;  // as prefill does
    return Append({haystack.tokens.data() + begin, haystack.tokens.data() + stop.n_tokens},
                  std::move(append));
  }

  // Goes back no further than to where this question differs from the one before.
  Status Ask(int64_t stop, const RetrievalCase& c, RetrievalResult* result) {
    const auto held = std::span(session_.tokens()).subspan(static_cast<std::size_t>(stop));
    const auto differs =
        std::mismatch(c.question.begin(), c.question.end() - 1, held.begin(), held.end()).first -
        c.question.begin();
    PHASOR_RETURN_IF_ERROR(session_.Truncate(stop + differs));
    AppendOptions append;
    append.score_codes = true;  // as decode does
    PHASOR_RETURN_IF_ERROR(Append(std::span(c.question).subspan(differs), append));
    AddToken(session_.logits(), c.answer[0], result);
    if (c.answer.size() == 1) return Status::Ok();
    append.on_logits = [&](int64_t i, std::span<const float> logits) {
      AddToken(logits, c.answer[static_cast<std::size_t>(i) + 1], result);
    };
    return Append({c.answer.data(), c.answer.size() - 1}, append);
  }

 private:
  Status Append(std::span<const int32_t> tokens, AppendOptions append) {
    append.cancel = cancel_;
    int64_t reported = 0;
    append.on_progress = [&](int64_t done, int64_t) {
      if (on_tokens_) on_tokens_(done - reported);
      reported = done;
    };
    return session_.Append(tokens, append);
  }

  Session& session_;
  const std::atomic<bool>* cancel_;
  const std::function<void(int64_t)>& on_tokens_;
};

// About the tokens that one type reads: what questions share is counted again.
int64_t CountTokens(const std::vector<Haystack>& haystacks) {
  int64_t n = 0;
  for (const Haystack& h : haystacks) {
    n += static_cast<int64_t>(h.tokens.size());
    for (const HaystackStop& stop : h.stops) {
      for (const RetrievalCase& c : stop.cases) {
        n += static_cast<int64_t>(c.question.size() + c.answer.size()) - 1;
      }
    }
  }
  return n;
}

Json Summarize(const std::vector<RetrievalResult>& results,
               const std::vector<RetrievalResult>& base) {
  int64_t right = 0, base_right = 0, both = 0;
  double logprob = 0, base_logprob = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    right += results[i].exact ? 1 : 0;
    base_right += base[i].exact ? 1 : 0;
    both += results[i].exact && base[i].exact ? 1 : 0;
    logprob += results[i].logprob;
    base_logprob += base[i].logprob;
  }
  const auto n_cases = static_cast<int64_t>(results.size());
  const auto n = static_cast<double>(n_cases);
  Json j = {{"cases", n_cases},
            {"right", right},
            {"f16_right", base_right},
            {"exact", static_cast<double>(right) / n},
            {"logprob", logprob / n},
            {"f16_exact", static_cast<double>(base_right) / n},
            {"f16_logprob", base_logprob / n},
            {"agreement", nullptr},
            {"ratio", nullptr},
            {"ratio_low", nullptr},
            {"ratio_high", nullptr}};
  if (base_right > 0) {
    const Interval interval = BootstrapRatio(both, right - both, base_right - both,
                                             n_cases - right - base_right + both, /*seed=*/1);
    j["agreement"] = static_cast<double>(both) / static_cast<double>(base_right);
    j["ratio"] = static_cast<double>(right) / static_cast<double>(base_right);
    j["ratio_low"] = interval.low;
    j["ratio_high"] = interval.high;
  }
  return j;
}

struct TypeRun {
  CacheTypes types;
  std::unique_ptr<Session> session;
  double page_bits = 0;
  std::map<int64_t, std::vector<RetrievalResult>> results;  // by depth
};

// One task with all cache types, stop by stop.
class TaskRun {
 public:
  // `on_tokens` as AskAtStop's.
  TaskRun(const RetrievalOptions& options, std::string task,
          const std::function<void(int64_t)>& on_tokens)
      : options_(options), task_(std::move(task)), on_tokens_(on_tokens) {}
  TaskRun(TaskRun&&) = default;

  Status Open(const LoadedModel& model) {
    std::vector<CacheTypes> types = {{"f16", "f16"}};
    for (const CacheTypes& t : options_.types) {
      if (t.k != "f16" || t.v != "f16") types.push_back(t);
    }
    for (const CacheTypes& t : types) {
      SessionOptions session = options_.session;
      session.type_k = t.k;
      session.type_v = t.v;
      session.n_ctx =
          *std::max_element(options_.haystacks.depths.begin(), options_.haystacks.depths.end());
      TypeRun run{.types = t, .session = nullptr, .page_bits = 0, .results = {}};
      PHASOR_ASSIGN_OR_RETURN(run.session, Session::Create(model, session));
      runs_.push_back(std::move(run));
    }
    return Status::Ok();
  }

  int64_t n_types() const { return static_cast<int64_t>(runs_.size()); }

  Status Ask(const Haystack& haystack, std::size_t stop) {
    const int64_t depth = haystack.stops[stop].depth;
    for (TypeRun& run : runs_) {
      PHASOR_RETURN_IF_ERROR(AskAtStop(*run.session, haystack, stop, options_.cancel, on_tokens_,
                                       &run.results[depth]));
      run.page_bits = run.session->cache_stats().page_bits_per_element;
    }
    ++n_texts_[depth];
    n_all_texts_ += stop == 0 ? 1 : 0;
    return Status::Ok();
  }

  // The rows of every depth that has results, and those of all depths together.
  void AddRows(Json* out) const {
    std::map<int64_t, std::vector<RetrievalResult>> base = runs_[0].results;
    for (const auto& [depth, of_f16] : base) {
      for (const TypeRun& run : runs_) {
        out->push_back(Row(run, depth, n_texts_.at(depth), run.results.at(depth), of_f16));
      }
    }
    if (base.size() < 2) return;
    for (const TypeRun& run : runs_) {
      out->push_back(Row(run, nullptr, n_all_texts_, Together(run), Together(runs_[0])));
    }
  }

 private:
  static std::vector<RetrievalResult> Together(const TypeRun& run) {
    std::vector<RetrievalResult> all;
    for (const auto& [depth, results] : run.results) {
      all.insert(all.end(), results.begin(), results.end());
    }
    return all;
  }

  Json Row(const TypeRun& run, const Json& depth, int64_t n_texts,
           const std::vector<RetrievalResult>& results,
           const std::vector<RetrievalResult>& base) const {
    Json j = {{"task", task_},
              {"depth", depth},
              {"type_k", run.types.k},
              {"type_v", run.types.v},
              {"page_bits_per_element", run.page_bits},
              {"texts", n_texts}};
    j.update(Summarize(results, base));
    return j;
  }

  const RetrievalOptions& options_;
  std::string task_;
  const std::function<void(int64_t)>& on_tokens_;
  std::vector<TypeRun> runs_;           // f16 first
  std::map<int64_t, int64_t> n_texts_;  // by depth
  int64_t n_all_texts_ = 0;
};

}  // namespace

Status AskAtStop(Session& session, const Haystack& haystack, std::size_t stop,
                 const std::atomic<bool>* cancel,
                 const std::function<void(int64_t n_tokens)>& on_tokens,
                 std::vector<RetrievalResult>* results) {
  const HaystackStop& s = haystack.stops[stop];
  if (stop == 0) session.Clear();
  Reader reader(session, cancel, on_tokens);
  PHASOR_RETURN_IF_ERROR(reader.Read(haystack, s));
  for (const RetrievalCase& c : s.cases) {
    RetrievalResult result;
    PHASOR_RETURN_IF_ERROR(reader.Ask(s.n_tokens, c, &result));
    results->push_back(result);
  }
  return session.Truncate(s.n_tokens);
}

Interval BootstrapRatio(int64_t both, int64_t type_alone, int64_t f16_alone, int64_t neither,
                        uint64_t seed) {
  PHASOR_CHECK(both + f16_alone > 0);
  const auto n = static_cast<uint64_t>(both + type_alone + f16_alone + neither);
  const auto end_both = static_cast<uint64_t>(both);
  const auto end_f16 = end_both + static_cast<uint64_t>(f16_alone);
  const auto end_type = end_f16 + static_cast<uint64_t>(type_alone);
  Rng rng(seed);
  std::vector<double> ratios;
  while (ratios.size() < kBootstrapSamples) {
    int64_t right = 0, base_right = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t drawn = rng.Below(n);
      base_right += drawn < end_f16 ? 1 : 0;
      right += drawn < end_both || (drawn >= end_f16 && drawn < end_type) ? 1 : 0;
    }
    if (base_right > 0) {
      ratios.push_back(static_cast<double>(right) / static_cast<double>(base_right));
    }
  }
  std::sort(ratios.begin(), ratios.end());
  const auto cut = static_cast<std::size_t>(kTail * kBootstrapSamples);
  return {ratios[cut], ratios[ratios.size() - 1 - cut]};
}

Result<Json> EvaluateRetrieval(const LoadedModel& model, const std::string& text,
                               const RetrievalOptions& options) {
  HaystackOptions making = options.haystacks;
  making.n_sink = options.session.n_sink;
  making.n_recent = options.session.n_recent;
  int64_t total = 0, done = 0;
  const std::function<void(int64_t)> on_tokens = [&](int64_t n) {
    done += n;
    if (options.on_progress) options.on_progress(std::min(done, total), total);
  };
  std::vector<TaskRun> tasks;
  std::vector<std::vector<Haystack>> of_task;
  for (const std::string& task : options.tasks) {
    PHASOR_ASSIGN_OR_RETURN(auto haystacks, MakeHaystacks(model, text, task, making));
    tasks.emplace_back(options, task, on_tokens);
    PHASOR_RETURN_IF_ERROR(tasks.back().Open(model));
    total += CountTokens(haystacks) * tasks.back().n_types();
    of_task.push_back(std::move(haystacks));
  }
  Json out = Json::array();
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    for (const Haystack& h : of_task[t]) {
      for (std::size_t stop = 0; stop < h.stops.size(); ++stop) {
        PHASOR_RETURN_IF_ERROR(tasks[t].Ask(h, stop));
        out = Json::array();
        for (std::size_t i = 0; i <= t; ++i) tasks[i].AddRows(&out);
        if (options.on_result) options.on_result(out);
      }
    }
  }
  return out;
}

std::string RenderRetrievalTable(const Json& results, const std::string& format) {
  using Align = Table::Align;
  Table table({{"task", Align::kLeft},
               {"depth", Align::kRight},
               {"-ctk", Align::kLeft},
               {"-ctv", Align::kLeft},
               {"bits", Align::kRight},
               {"texts", Align::kRight},
               {"cases", Align::kRight},
               {"right", Align::kRight},
               {"log prob", Align::kRight},
               {"right where f16 is", Align::kRight},
               {"right / f16", Align::kRight},
               {"95 %", Align::kLeft}});
  for (const Json& r : results) {
    auto share = [&](const char* key, int digits) {
      return r[key].is_null() ? std::string("-")
                              : fmt::format("{:.{}f}", r[key].get<double>(), digits);
    };
    table.AddRow(
        {r["task"], r["depth"].is_null() ? "all" : r["depth"].dump(), r["type_k"], r["type_v"],
         share("page_bits_per_element", 2), r["texts"].dump(), r["cases"].dump(), r["right"].dump(),
         share("logprob", 4), share("agreement", 4), share("ratio", 4),
         r["ratio"].is_null() ? "-" : share("ratio_low", 3) + " to " + share("ratio_high", 3)});
  }
  return table.Render(*ParseTableFormat(format));
}

}  // namespace phasor::eval
