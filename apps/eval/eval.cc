// phasor eval perplexity|kld MODEL FILE: quality of cache types on a text, by depth. The others,
// retrieve, edit, schedules and parallel, are in files of their own.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/rope_flags.h"
#include "eval/edit.h"
#include "eval/kld.h"
#include "eval/parallel.h"
#include "eval/retrieve.h"
#include "eval/schedules_command.h"
#include "eval/text_windows.h"

namespace phasor::cli {
namespace {

using eval::Json;

struct EvalFlags {
  ModelFlags model;
  CacheFlags cache;
  RopeFlags rope;
  std::string text_file;
  std::string types;  // "k:v,k:v": several cache types in one run
  std::string base_k = "f16", base_v = "f16";
  std::string score = "blocks";
  int64_t max_tokens = 0;
  std::string output = "plain";
  std::string save;  // file that gets the JSON report as well
};

Result<Json> Evaluate(const EvalFlags& flags, bool kld) {
  std::vector<eval::CacheTypes> types = {{flags.cache.type_k, flags.cache.type_v}};
  if (!flags.types.empty()) {
    PHASOR_ASSIGN_OR_RETURN(types, eval::ParseCacheTypes(flags.types));
  }
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(flags.text_file));
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  for (const eval::CacheTypes& t : types) {
    if (std::string note = CalibrationNotice(*model, t.k); !note.empty()) {
      fmt::print(stderr, "{}\n", note);
      break;
    }
  }
  eval::CacheEvalOptions options;
  PHASOR_ASSIGN_OR_RETURN(options.session,
                          ToSessionOptions(flags.cache, flags.rope, model->config()));
  if (std::string note = RopeNotice(flags.rope); !note.empty()) fmt::print(stderr, "{}\n", note);
  if (options.session.n_ctx == 0) options.session.n_ctx = model->config().n_ctx_train;
  options.types = std::move(types);
  if (kld) options.base = {flags.base_k, flags.base_v};
  options.score_codes = flags.score == "codes";
  const auto windows =
      eval::TextWindows(model->tokenizer(), text, options.session.n_ctx, flags.max_tokens);
  if (windows.empty()) {
    return InvalidArgument("eval: " + flags.text_file + ": expected a text of at least two tokens");
  }
  InterruptFlag::Install();
  options.cancel = &InterruptFlag::flag();
  std::unique_ptr<ProgressBar> bar;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("evaluating", total, "tokens");
    bar->Set(done);
  };
  PHASOR_ASSIGN_OR_RETURN(auto scores, eval::EvaluateCaches(*model, windows, options));
  Json out = {{"model", model->path()},
              {"text", flags.text_file},
              {"n_ctx", options.session.n_ctx},
              {"windows", windows.size()},
              {"precision", flags.model.precision},
              {"score", flags.score},
              {"rope", RopeJson(RopeOf(options.session, model->config()))},
              {"n_sink", options.session.n_sink},
              {"n_recent", options.session.n_recent}};
  if (kld) out["base"] = {{"type_k", flags.base_k}, {"type_v", flags.base_v}};
  out["results"] = eval::ScoreReport(scores, kld);
  return out;
}

int Eval(const EvalFlags& flags, bool kld) {
  auto result = Evaluate(flags, kld);
  if (!result.ok()) return Fail(result.status());
  if (!flags.save.empty()) {
    if (Status s = eval::SaveReport(*result, flags.save); !s.ok()) return Fail(s);
  }
  if (flags.output != "json") {
    fmt::print("{}", eval::RenderScoreTable((*result)["results"], kld, flags.output));
    return 0;
  }
  // One cache type: its figures stand at the top level, as scripts expect them.
  const Json results = (*result)["results"];
  if (results.size() == 1) result->update(results[0]);
  fmt::print("{}\n", result->dump(2));
  return 0;
}

void AddFlags(CLI::App* c, EvalFlags* f, bool kld) {
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  c->add_option("text,-f,--file", f->text_file, "text file")->required();
  AddModelFlags(c, &f->model, false);
  AddCacheFlags(c, &f->cache);
  AddRopeFlags(c, &f->rope);
  c->add_option("--types", f->types,
                "several cache types in one run: K:V,K:V,...,\nor K:V;K:V;... where K and V may be "
                "lists as in -ctk");
  c->add_option("--max-tokens", f->max_tokens, "only the first tokens of the text (0: all)")
      ->check(Integer(0));
  if (kld) {
    c->add_option("--base-type-k", f->base_k, "cache type of keys to compare with")
        ->capture_default_str();
    c->add_option("--base-type-v", f->base_v, "cache type of values to compare with")
        ->capture_default_str();
  }
  c->add_option("--score", f->score,
                "blocks: pages are decoded for blocks of queries, as in prefill; codes: every "
                "token is scored on the codes, as in decode")
      ->check(OneOf({"blocks", "codes"}))
      ->capture_default_str();
  c->add_option("--save", f->save, "also write the report to this file, as JSON");
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
}

}  // namespace

void AddEvalCommand(CLI::App& app, int* exit_code) {
  CLI::App* eval = app.add_subcommand("eval", "quality of cache types on a text, by depth");
  eval->require_subcommand(1);
  for (bool kld : {false, true}) {
    auto flags = std::make_shared<EvalFlags>();
    // Rounding activations to int8 puts a noise floor (mean KL about 0.003 on the default model)
    // under every comparison of caches, so divergences are measured in float unless asked
    // otherwise.
    if (kld) flags->model.precision = "f32";
    CLI::App* c = eval->add_subcommand(
        kld ? "kld" : "perplexity",
        kld ? "KL divergence, same top token and perplexity ratio against a base cache"
            : "perplexity over windows of -c tokens; every token but a window's first is scored");
    AddFlags(c, flags.get(), kld);
    c->callback([flags, kld, exit_code] {
      if (flags->model.model == "default") flags->model.model.clear();
      *exit_code = Eval(*flags, kld);
    });
  }
  AddRetrieveCommand(*eval, exit_code);
  AddEvalEditCommand(*eval, exit_code);
  AddSchedulesCommand(*eval, exit_code);
  AddParallelCommand(*eval, exit_code);
}

}  // namespace phasor::cli
