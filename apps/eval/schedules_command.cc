// phasor eval schedules MODEL TEXT: perplexity past the trained context for every position
// schedule.
#include "eval/schedules_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/table.h"
#include "cli/command.h"
#include "cli/rope_flags.h"
#include "eval/schedules.h"
#include "eval/text_windows.h"
#include "registry/position_table.h"

namespace phasor::cli {
namespace {

using eval::Json;

// -c in trained contexts, when it is not given: far enough to see what breaks.
constexpr int64_t kDefaultExtension = 2;

struct SchedulesFlags {
  ModelFlags model;
  CacheFlags cache;
  std::string text_file, factor_file, save, output = "plain";
  std::vector<std::string> methods;
  int64_t max_tokens = 0;
};

Result<Json> Evaluate(const SchedulesFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.text_file));
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  const int64_t trained = model->config().rope.original_context;
  eval::ScheduleEvalOptions options;
  options.session = ToSessionOptions(flags.cache);
  if (options.session.n_ctx == 0) options.session.n_ctx = kDefaultExtension * trained;
  // One window is the default: the time of attention grows with its square.
  const int64_t most = flags.max_tokens > 0 ? flags.max_tokens : options.session.n_ctx;
  const auto windows = eval::TextWindows(model->tokenizer(), text, options.session.n_ctx, most);
  if (windows.empty()) {
    return InvalidArgument("eval: " + flags.text_file + ": expected a text of at least two tokens");
  }
  options.methods = flags.methods;
  if (options.methods.empty()) {
    for (const PositionMethodInfo* info : PositionMethods()) options.methods.emplace_back(info->id);
  }
  if (!flags.factor_file.empty()) {
    RopeParams lists;
    PHASOR_RETURN_IF_ERROR(ReadFactorFile(flags.factor_file, &lists));
    options.short_factors = std::move(lists.short_factors);
    options.long_factors = std::move(lists.long_factors);
  }
  InterruptFlag::Install();
  options.cancel = &InterruptFlag::flag();
  std::unique_ptr<ProgressBar> bar;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("evaluating", total, "tokens");
    bar->Set(done);
  };
  PHASOR_ASSIGN_OR_RETURN(auto scores, eval::EvaluateSchedules(*model, windows, options));
  return Json{{"model", model->path()},
              {"text", flags.text_file},
              {"n_ctx", options.session.n_ctx},
              {"trained_context", trained},
              {"windows", windows.size()},
              {"precision", flags.model.precision},
              {"type_k", flags.cache.type_k},
              {"type_v", flags.cache.type_v},
              {"results", eval::ScheduleReport(scores, trained)}};
}

int Schedules(const SchedulesFlags& flags) {
  auto report = Evaluate(flags);
  if (!report.ok()) return Fail(report.status());
  if (!flags.save.empty()) {
    if (Status s = eval::SaveReport(*report, flags.save); !s.ok()) return Fail(s);
  }
  if (flags.output == "json") {
    fmt::print("{}\n", report->dump(2));
    return 0;
  }
  fmt::print("{}",
             eval::ScheduleTable((*report)["results"]).Render(*ParseTableFormat(flags.output)));
  fmt::print(stderr, "{}", eval::RefusedSchedules((*report)["results"]));
  return 0;
}

}  // namespace

void AddSchedulesCommand(CLI::App& eval, int* exit_code) {
  auto f = std::make_shared<SchedulesFlags>();
  f->cache.type_k = f->cache.type_v = "f16";  // only the schedules shall differ
  CLI::App* c = eval.add_subcommand(
      "schedules", "perplexity past the trained context, by position, for every position schedule");
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  c->add_option("text,-f,--file", f->text_file, "text file")->required();
  AddModelFlags(c, &f->model, false);
  AddCacheFlags(c, &f->cache);
  c->get_option("--ctx-size")
      ->description(fmt::format("window in tokens (0: {} times what the model was trained on)",
                                kDefaultExtension));
  c->add_option("--schedules", f->methods, "position method ids (default: all)")->delimiter(',');
  c->add_option(
      "--rope-factors", f->factor_file,
      "JSON file with the lists short_factor and long_factor of longrope, for a model that "
      "has none");
  c->add_option("--max-tokens", f->max_tokens,
                "only the first tokens of the text (0: one window of -c)")
      ->check(Integer(0));
  c->add_option("--save", f->save, "also write the report to this file, as JSON");
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, exit_code] {
    if (f->model.model == "default") f->model.model.clear();
    *exit_code = Schedules(*f);
  });
}

}  // namespace phasor::cli
