// phasor eval retrieve MODEL TEXT: facts hidden at depth, asked for with every cache type.
#include "eval/retrieve.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "eval/retrieval.h"

namespace phasor::cli {
namespace {

using eval::Json;

constexpr int64_t kQuickCases = 16;

struct RetrieveFlags {
  ModelFlags model;
  CacheFlags cache;
  std::string text_file, types, save, output = "plain";
  std::vector<std::string> tasks = {"needle", "kv"};
  eval::HaystackOptions haystacks;
  int64_t seed = static_cast<int64_t>(eval::HaystackOptions().seed);
  bool quick = false, plain = false;
};

Result<Json> Evaluate(const RetrieveFlags& flags) {
  eval::RetrievalOptions options;
  options.types = {{flags.cache.type_k, flags.cache.type_v}};
  if (!flags.types.empty()) {
    PHASOR_ASSIGN_OR_RETURN(options.types, eval::ParseCacheTypes(flags.types));
  }
  PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.text_file));
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  for (const eval::CacheTypes& t : options.types) {
    if (std::string note = CalibrationNotice(*model, t.k); !note.empty()) {
      fmt::print(stderr, "{}\n", note);
      break;
    }
  }
  options.session = ToSessionOptions(flags.cache);
  options.tasks = flags.tasks;
  options.haystacks = flags.haystacks;
  if (flags.quick) options.haystacks.n_cases = kQuickCases;
  options.haystacks.chat = !flags.plain;
  options.haystacks.seed = static_cast<uint64_t>(flags.seed);
  InterruptFlag::Install();
  options.cancel = &InterruptFlag::flag();
  std::unique_ptr<ProgressBar> bar;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("evaluating", total, "tokens");
    bar->Set(done);
  };
  auto report_of = [&](const Json& results) {
    return Json{{"model", model->path()},
                {"text", flags.text_file},
                {"precision", flags.model.precision},
                {"n_sink", options.session.n_sink},
                {"n_recent", options.session.n_recent},
                {"seed", flags.seed},
                {"results", results}};
  };
  Status saved;
  if (!flags.save.empty()) {
    options.on_result = [&](const Json& results) {
      saved = eval::SaveReport(report_of(results), flags.save);
    };
  }
  PHASOR_ASSIGN_OR_RETURN(const Json results, eval::EvaluateRetrieval(*model, text, options));
  PHASOR_RETURN_IF_ERROR(saved);
  return report_of(results);
}

int Retrieve(const RetrieveFlags& flags) {
  if (flags.cache.ctx != 0) {
    return UsageError("retrieve: expected --depths, which set the context, found -c");
  }
  auto report = Evaluate(flags);
  if (!report.ok()) return Fail(report.status());
  if (flags.output == "json") {
    fmt::print("{}\n", report->dump(2));
  } else {
    fmt::print("{}", eval::RenderRetrievalTable((*report)["results"], flags.output));
  }
  return 0;
}

}  // namespace

void AddRetrieveCommand(CLI::App& eval, int* exit_code) {
  auto f = std::make_shared<RetrieveFlags>();
  // Activations rounded to int8 turn close answers about by chance, for q8_0 in 3 of 96 cases
  // (docs/log.md); in float only the cache differs.
  f->model.precision = "f32";
  CLI::App* c = eval.add_subcommand(
      "retrieve", "facts hidden at depth, asked for with every cache type and with f16");
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  c->add_option("text,-f,--file", f->text_file, "text file that needles are hidden in")->required();
  AddModelFlags(c, &f->model, false);
  AddCacheFlags(c, &f->cache);
  c->add_option("--types", f->types,
                "several cache types in one run: K:V,K:V,...,\nor K:V;K:V;... where K and V may be "
                "lists as in -ctk");
  c->add_option("--task", f->tasks,
                "needle: sentences hidden in the text; kv: a list of keys and values")
      ->delimiter(',')
      ->check(OneOf({"needle", "kv"}))
      ->capture_default_str();
  c->add_option("--depths", f->haystacks.depths,
                "tokens of text, question and answer; one text serves all depths")
      ->delimiter(',')
      ->check(Integer(1, int64_t{1} << 30))
      ->capture_default_str();
  c->add_option("--cases", f->haystacks.n_cases, "questions per task and depth")
      ->check(Integer(1, 1 << 20))
      ->capture_default_str();
  c->add_option("--asked", f->haystacks.n_asked,
                "most questions about one text at one depth; more are cheaper, fewer differ more")
      ->check(Integer(1, 1 << 20))
      ->capture_default_str();
  c->add_option("--needle-spacing", f->haystacks.needle_spacing, "tokens of text per needle")
      ->check(Integer(64, 1 << 20))
      ->capture_default_str();
  c->add_flag("--no-chat", f->plain, "plain text instead of the model's chat template");
  c->add_flag("--quick", f->quick, fmt::format("{} questions per task and depth", kQuickCases));
  c->add_option("-s,--seed", f->seed, "of keys, numbers and what is asked")
      ->check(Integer(0))
      ->capture_default_str();
  c->add_option("--save", f->save,
                "also write the report to this file, as JSON,\nagain after every stop at a depth");
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, exit_code] {
    if (f->model.model == "default") f->model.model.clear();
    *exit_code = Retrieve(*f);
  });
}

}  // namespace phasor::cli
