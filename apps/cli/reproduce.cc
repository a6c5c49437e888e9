// phasor reproduce [id]: a paper's claims beside what is measured here.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/table.h"
#include "bench/score_time.h"
#include "cli/command.h"
#include "eval/claims.h"
#include "eval/kld.h"
#include "eval/parallel_claims.h"
#include "eval/parallel_quality.h"
#include "eval/parallel_speed.h"
#include "eval/text_windows.h"
#include "model/calibration.h"

namespace phasor::cli {
namespace {

using eval::Json;

struct ReproduceFlags {
  std::string id, text_file;
  ModelFlags model;
  int64_t max_tokens = 0;
  bool quick_speed = false, precision_given = false;
  std::string output = "plain";
};

// The shape of a speed run: the paper's own, and the model's.
struct Shape {
  int head_dim, group;
};

struct Findings {
  Json quality, speed;
  eval::Measurements measured;
  Shape paper_shape{128, 1}, model_shape{0, 0};
  int64_t n_tokens = 0, n_ctx = 0;
  std::string model_name;
};

Status MeasureQuality(const eval::Declaration& d, const ReproduceFlags& flags,
                      const LoadedModel& model, Findings* out) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(flags.text_file));
  eval::CacheEvalOptions options;
  out->n_ctx = options.session.n_ctx = std::min(d.n_ctx, model.config().n_ctx_train);
  const int64_t most = flags.max_tokens > 0 ? flags.max_tokens : d.max_tokens;
  const auto windows = eval::TextWindows(model.tokenizer(), text, out->n_ctx, most);
  if (windows.empty()) {
    return InvalidArgument("reproduce: " + flags.text_file +
                           ": expected a text of at least two tokens");
  }
  for (const auto& w : windows) out->n_tokens += static_cast<int64_t>(w.size());
  for (const std::string& k : d.key_types) {
    options.types.push_back({k, d.value_type});
    const std::string note = CalibrationNotice(model, k);
    if (!note.empty()) fmt::print(stderr, "{}\n", note);
  }
  options.base = {d.base_type, d.base_type};
  options.cancel = &InterruptFlag::flag();
  std::unique_ptr<ProgressBar> bar;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("evaluating", total, "tokens");
    bar->Set(done);
  };
  PHASOR_ASSIGN_OR_RETURN(auto scores, eval::EvaluateCaches(model, windows, options));
  out->quality = eval::ScoreReport(scores, true);
  for (const Json& run : out->quality) {
    const auto id = run["type_k"].get<std::string>();
    for (const char* metric : {"ppl_ratio", "mean_kl", "same_top"}) {
      out->measured[{metric, id}] = run[metric].get<double>();
    }
  }
  return Status::Ok();
}

// Verdicts use the paper's shape; the model's shape is shown beside it.
Status MeasureSpeed(const eval::Declaration& d, bool quick, const LoadedModel& model,
                    Findings* out) {
  out->model_shape = {model.config().head_dim, model.config().group()};
  out->speed = Json::array();
  for (const Shape& shape : {out->paper_shape, out->model_shape}) {
    if (InterruptFlag::flag().load()) return Cancelled("reproduce: stopped by Ctrl-C");
    bench::ScoreTimeOptions options;
    options.ids = d.speed_types;
    options.head_dim = shape.head_dim;
    options.group = shape.group;
    if (quick) {
      options.stream_bytes = 8 << 20;
      options.n_rounds = 1;
    }
    const bool is_model =
        shape.head_dim == out->model_shape.head_dim && shape.group == out->model_shape.group;
    if (is_model && model.calibration() != nullptr) {
      for (const CalibrationSet& set : model.calibration()->sets) options.ids.push_back(set.codec);
      options.calibration = model.calibration();
      options.calibrated_layer = model.config().n_layers / 2;
    }
    PHASOR_ASSIGN_OR_RETURN(auto times, bench::MeasureScoreTime(options));
    const bool is_paper =
        shape.head_dim == out->paper_shape.head_dim && shape.group == out->paper_shape.group;
    for (const bench::ScoreTime& t : times) {
      out->speed.push_back({{"head_dim", shape.head_dim},
                            {"query_heads", shape.group},
                            {"type_k", t.id},
                            {"bits", t.bits},
                            {"cached_ns", t.cached_ns},
                            {"stream_ns", t.stream_ns},
                            {"cached_speedup", times[0].cached_ns / t.cached_ns},
                            {"stream_speedup", times[0].stream_ns / t.stream_ns}});
      if (!is_paper) continue;
      out->measured[{"cached_ns", t.id}] = t.cached_ns;
      out->measured[{"stream_ns", t.id}] = t.stream_ns;
    }
  }
  return Status::Ok();
}

Result<Json> JudgeClaims(const eval::Declaration& d, const eval::Measurements& measured) {
  Json out = Json::array();
  for (const eval::Claim& claim : d.claims) {
    PHASOR_ASSIGN_OR_RETURN(eval::Verdict verdict, eval::Judge(claim, measured));
    std::string found;
    for (const eval::Condition& c : claim.reproduced_if) {
      PHASOR_ASSIGN_OR_RETURN(double value, eval::ConditionValue(c, measured));
      if (!found.empty()) found += ", ";
      found += eval::Describe(c, value);
    }
    out.push_back({{"claim", claim.id},
                   {"paper", claim.paper},
                   {"source", claim.source},
                   {"counts_as_reproduced", claim.here},
                   {"null_result", claim.null_result},
                   {"measured", found},
                   {"verdict", eval::VerdictName(verdict)}});
  }
  return out;
}

std::string QualityTable(const Json& quality, Table::Format format) {
  std::vector<Table::Column> columns = {{"-ctk", Table::Align::kLeft}};
  for (const char* name : {"bits of K", "ppl / f16", "mean KL", "99.9 % KL", "same top"}) {
    columns.push_back({name, Table::Align::kRight});
  }
  for (const Json& bucket : quality.at(0)["by_depth"]) {
    columns.push_back({"KL " + bucket["depth"].get<std::string>(), Table::Align::kRight});
  }
  Table table(columns);
  for (const Json& run : quality) {
    // Values are in 16 bit, so the mean over K and V tells the bits of K.
    const double page_bits = run["page_bits_per_element"].get<double>();
    std::vector<std::string> cells = {
        run["type_k"],
        page_bits > 0 ? fmt::format("{:.2f}", 2 * page_bits - 16) : "-",
        fmt::format("{:.4f}", run["ppl_ratio"].get<double>()),
        fmt::format("{:.5f}", run["mean_kl"].get<double>()),
        fmt::format("{:.4f}", run["kl_999"].get<double>()),
        fmt::format("{:.4f}", run["same_top"].get<double>())};
    for (const Json& bucket : run["by_depth"]) {
      cells.push_back(fmt::format("{:.5f}", bucket["mean_kl"].get<double>()));
    }
    table.AddRow(std::move(cells));
  }
  return table.Render(format);
}

std::string SpeedTable(const Json& speed, Table::Format format) {
  Table table({{"head size", Table::Align::kRight},
               {"query heads", Table::Align::kRight},
               {"-ctk", Table::Align::kLeft},
               {"bits of K", Table::Align::kRight},
               {"f16 / this, in cache", Table::Align::kRight},
               {"f16 / this, streamed", Table::Align::kRight}});
  for (const Json& row : speed) {
    table.AddRow({row["head_dim"].dump(), row["query_heads"].dump(), row["type_k"],
                  fmt::format("{:.2f}", row["bits"].get<double>()),
                  fmt::format("{:.2f}", row["cached_speedup"].get<double>()),
                  fmt::format("{:.2f}", row["stream_speedup"].get<double>())});
  }
  return table.Render(format);
}

std::string ClaimText(const Json& claims, bool markdown) {
  std::string out;
  for (const Json& c : claims) {
    const auto text = [&](const char* key) { return c[key].get<std::string>(); };
    if (markdown) {
      out += fmt::format("- **{}: {}**\n", text("claim"), text("verdict"));
    } else {
      out += fmt::format("{}: {}\n", text("claim"), text("verdict"));
    }
    out +=
        fmt::format("  {}paper: {} ({})\n", markdown ? "- " : "  ", text("paper"), text("source"));
    out += fmt::format("  {}counts as reproduced: {}; null: {}\n", markdown ? "- " : "  ",
                       text("counts_as_reproduced"), text("null_result"));
    out += fmt::format("  {}measured: {}\n", markdown ? "- " : "  ", text("measured"));
  }
  return out;
}

void Print(const eval::Declaration& d, const ReproduceFlags& flags, const Findings& found,
           const Json& claims) {
  if (flags.output == "json") {
    const Json j = {{"id", d.id},
                    {"title", d.title},
                    {"reference", d.reference},
                    {"note", d.note},
                    {"model", found.model_name},
                    {"text", flags.text_file},
                    {"tokens", found.n_tokens},
                    {"n_ctx", found.n_ctx},
                    {"cpu", CpuName()},
                    {"claims", claims},
                    {"quality", found.quality},
                    {"speed", found.speed}};
    fmt::print("{}\n", j.dump(2));
    return;
  }
  const bool markdown = flags.output == "md";
  const Table::Format format = *ParseTableFormat(flags.output);
  fmt::print("{}{}\n{}\n\n{}\n\n", markdown ? "## " : "", d.title, d.reference, d.note);
  fmt::print(
      "Model {}, {} tokens in windows of {}, values in {}; {}, one thread for the times.\n\n",
      found.model_name, found.n_tokens, found.n_ctx, d.value_type, CpuName());
  fmt::print("{}\n{}\n{}", QualityTable(found.quality, format), SpeedTable(found.speed, format),
             ClaimText(claims, markdown));
}

void PrintParallel(const eval::Declaration& d, const std::string& output,
                   const std::string& model_name, const std::string& precision,
                   const eval::ParallelFindings& found, const Json& claims) {
  if (output == "json") {
    const Json j = {{"id", d.id},           {"title", d.title},
                    {"note", d.note},       {"reference", d.reference},
                    {"model", model_name},  {"precision", precision},
                    {"cpu", CpuName()},     {"claims", claims},
                    {"speed", found.speed}, {"quality", found.quality}};
    fmt::print("{}\n", j.dump(2));
    return;
  }
  const bool markdown = output == "md";
  fmt::print("{}{}\n{}\n\n{}\n\n", markdown ? "## " : "", d.title, d.reference, d.note);
  fmt::print(
      "Model {}, {} activations, {}; answers over a 16-bit cache, times over the default "
      "one.\n\n",
      model_name, precision, CpuName());
  fmt::print("{}\n{}\n{}", eval::RenderParallelQuality(found.quality, output),
             eval::RenderParallelSpeed(found.speed, output), ClaimText(claims, markdown));
}

Status ReproduceParallel(const eval::Declaration& d, ReproduceFlags& flags) {
  // Times are those of the program as it runs.
  if (!flags.precision_given) flags.model.precision = "int8";
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  if (const std::string note = CalibrationNotice(*model, SessionOptions().type_k); !note.empty()) {
    fmt::print(stderr, "{}\n", note);
  }
  InterruptFlag::Install();
  eval::ParallelClaimOptions options;
  options.max_tokens = flags.max_tokens;
  options.quick_speed = flags.quick_speed;
  options.cancel = &InterruptFlag::flag();
  std::unique_ptr<ProgressBar> bar;
  std::string shown;
  options.on_progress = [&](const char* what, int64_t done, int64_t total) {
    if (shown != what) bar = nullptr;
    if (bar == nullptr) bar = std::make_unique<ProgressBar>(shown = what, total, "tokens");
    bar->Set(done);
  };
  PHASOR_ASSIGN_OR_RETURN(const auto found,
                          eval::MeasureParallelClaims(*model, d.parallel, options));
  bar = nullptr;
  PHASOR_ASSIGN_OR_RETURN(const Json claims, JudgeClaims(d, found.measured));
  PrintParallel(d, flags.output, model->path().substr(model->path().find_last_of('/') + 1),
                flags.model.precision, found, claims);
  return Status::Ok();
}

Status Reproduce(ReproduceFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(eval::Declaration d, eval::ReadDeclaration(flags.id));
  if (d.kind == "parallel") return ReproduceParallel(d, flags);
  if (flags.text_file.empty()) flags.text_file = UserCacheDir() + "/texts/emma.txt";
  if (!FileExists(flags.text_file)) {
    return NotFound("reproduce: " + flags.text_file +
                    ": expected a text, found none; get one with `make texts` or name one with "
                    "--text");
  }
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  InterruptFlag::Install();
  Findings found;
  found.model_name = model->path().substr(model->path().find_last_of('/') + 1);
  PHASOR_RETURN_IF_ERROR(MeasureQuality(d, flags, *model, &found));
  PHASOR_RETURN_IF_ERROR(MeasureSpeed(d, flags.quick_speed, *model, &found));
  PHASOR_ASSIGN_OR_RETURN(Json claims, JudgeClaims(d, found.measured));
  Print(d, flags, found, claims);
  return Status::Ok();
}

Status List(const std::string& format) {
  Table table({{"id", Table::Align::kLeft},
               {"paper", Table::Align::kLeft},
               {"claims", Table::Align::kRight},
               {"what", Table::Align::kLeft}});
  for (const std::string& id : eval::DeclarationIds()) {
    PHASOR_ASSIGN_OR_RETURN(eval::Declaration d, eval::ReadDeclaration(id));
    table.AddRow({d.id, d.reference, std::to_string(d.claims.size()), d.summary});
  }
  fmt::print("{}", table.Render(*ParseTableFormat(format)));
  return Status::Ok();
}

}  // namespace

void AddReproduceCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<ReproduceFlags>();
  // As in `eval kld`: rounding activations to int8 would drown the differences between caches.
  f->model.precision = "f32";
  CLI::App* c = app.add_subcommand(
      "reproduce", "a paper's claims beside what is measured here; without an id: which there are");
  c->add_option("id", f->id, "which paper");
  AddModelFlags(c, &f->model, false);
  c->add_option("--text", f->text_file, "text to measure on (default: Emma, from `make texts`)");
  c->add_option(
       "--max-tokens", f->max_tokens,
       "only the first tokens of the text; ape: lengths of the times at most this (0: as many "
       "as the declaration says)")
      ->check(Integer(0));
  c->add_flag("--quick-speed", f->quick_speed, "one round over few bytes, to try the command");
  c->add_option("-o,--output", f->output, "plain, md or json")
      ->check(OneOf({"plain", "md", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, c, exit_code] {
    f->precision_given = c->count("--precision") > 0;
    const Status s = f->id.empty() ? List(f->output) : Reproduce(*f);
    *exit_code = s.ok() ? 0 : Fail(s);
  });
}

}  // namespace phasor::cli
