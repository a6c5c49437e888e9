// phasor eval parallel MODEL: contexts read apart and attended to together, against reading them
// one after the other: right answers and time to the first token.
#include "eval/parallel.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/progress.h"
#include "base/table.h"
#include "cli/command.h"
#include "eval/parallel_quality.h"
#include "eval/parallel_speed.h"

namespace phasor::cli {
namespace {

using eval::Json;

constexpr int kQuickCases = 4;
constexpr int64_t kQuickLength = 512;

struct ParallelFlags {
  ModelFlags model;
  CacheFlags cache;
  eval::ParallelQualityOptions quality;
  eval::ParallelSpeedOptions speed;
  int64_t seed = 1;
  bool quick = false, no_quality = false, no_speed = false;
  std::string save, output = "plain";
};

Result<Json> Evaluate(ParallelFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  if (std::string note = CalibrationNotice(*model, flags.cache.type_k); !note.empty()) {
    fmt::print(stderr, "{}\n", note);
  }
  if (flags.quick) {
    flags.quality.sets.n_cases = kQuickCases;
    flags.speed.lengths = {kQuickLength};
    flags.speed.n_rounds = 1;
  }
  flags.quality.session = flags.speed.session = ToSessionOptions(flags.cache);
  flags.quality.sets.seed = flags.speed.seed = static_cast<uint64_t>(flags.seed);
  InterruptFlag::Install();
  flags.quality.cancel = flags.speed.cancel = &InterruptFlag::flag();
  std::unique_ptr<ProgressBar> bar;
  const auto progress = [&](const char* label) {
    bar = nullptr;
    return [&bar, label](int64_t done, int64_t total) {
      if (bar == nullptr) bar = std::make_unique<ProgressBar>(label, total, "tokens");
      bar->Set(done);
    };
  };
  Json out = {{"model", model->path()},       {"type_k", flags.cache.type_k},
              {"type_v", flags.cache.type_v}, {"precision", flags.model.precision},
              {"seed", flags.seed},           {"cpu", CpuName()},
              {"quality", Json::array()},     {"speed", Json::array()}};
  if (!flags.no_quality) {
    flags.quality.on_progress = progress("answering");
    PHASOR_ASSIGN_OR_RETURN(out["quality"], eval::EvaluateParallelQuality(*model, flags.quality));
  }
  if (!flags.no_speed) {
    flags.speed.on_progress = progress("timing");
    PHASOR_ASSIGN_OR_RETURN(out["speed"], eval::MeasureParallelSpeed(*model, flags.speed));
  }
  return out;
}

int Parallel(ParallelFlags& flags) {
  if (flags.cache.ctx != 0) {
    return UsageError(
        "parallel: expected --contexts and --lengths, which set the context, found -c");
  }
  if (flags.no_quality && flags.no_speed) {
    return UsageError("parallel: expected something to measure, found --no-quality and --no-speed");
  }
  auto report = Evaluate(flags);
  if (!report.ok()) return Fail(report.status());
  if (!flags.save.empty()) {
    if (Status s = eval::SaveReport(*report, flags.save); !s.ok()) return Fail(s);
  }
  if (flags.output == "json") {
    fmt::print("{}\n", report->dump(2));
    return 0;
  }
  const Table::Format format = *ParseTableFormat(flags.output);
  if (!flags.no_quality) {
    fmt::print("{}", eval::ParallelQualityTable((*report)["quality"]).Render(format));
  }
  if (!flags.no_quality && !flags.no_speed) fmt::print("\n");
  if (!flags.no_speed) {
    fmt::print("{}", eval::ParallelSpeedTable((*report)["speed"]).Render(format));
  }
  return 0;
}

void AddQualityFlags(CLI::App* c, ParallelFlags* f) {
  c->add_option("--task", f->quality.tasks,
                "lookup: facts in documents, one is asked for; shots: labelled words, a label is")
      ->delimiter(',')
      ->check(OneOf({"lookup", "shots"}))
      ->capture_default_str();
  c->add_option("--cases", f->quality.sets.n_cases,
                "sets of contexts per task; T and S are chosen on one half, reported on the other")
      ->check(Integer(2, 1 << 20))
      ->capture_default_str();
  c->add_option("--contexts", f->quality.sets.n_contexts, "contexts of a case")
      ->check(Integer(1, 32))
      ->capture_default_str();
  c->add_option("--items", f->quality.sets.n_items, "facts or shots of a context")
      ->check(Integer(1, 16))
      ->capture_default_str();
  c->add_option("--questions", f->quality.sets.n_questions, "questions per case")
      ->check(Integer(1, 1024))
      ->capture_default_str();
  c->add_option("--temperatures", f->quality.temperatures, "T to try, above 0 and at most 1")
      ->delimiter(',')
      ->check(Number(1e-3, 1))
      ->capture_default_str();
  c->add_option("--scales", f->quality.scales, "S to try, above 0 and at most 1")
      ->delimiter(',')
      ->check(Number(1e-3, 1))
      ->capture_default_str();
}

void AddSpeedFlags(CLI::App* c, ParallelFlags* f) {
  constexpr int64_t kMost = int64_t{1} << 30;
  c->add_option("--lengths", f->speed.lengths, "tokens of all contexts, for the times")
      ->delimiter(',')
      ->check(Integer(1, kMost))
      ->capture_default_str();
  c->add_option("--context-tokens", f->speed.context_tokens, "tokens of one context, for the times")
      ->check(Integer(1, kMost))
      ->capture_default_str();
  c->add_option("--query-tokens", f->speed.query_tokens, "tokens of the query, for the times")
      ->check(Integer(1, kMost))
      ->capture_default_str();
  c->add_option("--generate", f->speed.n_generate, "tokens of the answer, for the time end to end")
      ->check(Integer(0, kMost))
      ->capture_default_str();
  c->add_option("--rounds", f->speed.n_rounds, "of the times; medians count")
      ->check(Integer(1, 1000))
      ->capture_default_str();
  c->add_option(
       "--filled", f->speed.filled_tokens,
       "one more length, in a cache that is filled with numbers like the model's; times of "
       "reading are summed up from chunks of -b tokens at several depths (0: none)")
      ->check(Integer(0, kMost))
      ->capture_default_str();
}

}  // namespace

void AddParallelCommand(CLI::App& eval, int* exit_code) {
  auto f = std::make_shared<ParallelFlags>();
  CLI::App* c = eval.add_subcommand(
      "parallel",
      "contexts read apart and attended to together (APE), against one after the other");
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  AddModelFlags(c, &f->model, false);
  AddCacheFlags(c, &f->cache);
  AddQualityFlags(c, f.get());
  AddSpeedFlags(c, f.get());
  c->add_flag("--no-quality", f->no_quality, "times only");
  c->add_flag("--no-speed", f->no_speed, "answers only");
  c->add_flag("--quick", f->quick,
              fmt::format("{} cases, times at {} tokens, one round", kQuickCases, kQuickLength));
  c->add_option("-s,--seed", f->seed, "of what is drawn")->check(Integer(0))->capture_default_str();
  c->add_option("--save", f->save, "also write the report to this file, as JSON");
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, exit_code] {
    if (f->model.model == "default") f->model.model.clear();
    *exit_code = Parallel(*f);
  });
}

}  // namespace phasor::cli
