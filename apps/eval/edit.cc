// phasor eval edit MODEL [FILES...]: edits inside a cached source text, against reading it afresh.
#include "eval/edit.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "eval/edit_eval.h"

namespace phasor::cli {
namespace {

using eval::Json;

struct EditFlags {
  ModelFlags model;
  CacheFlags cache;
  std::vector<std::string> files;
  eval::EditDocumentOptions documents;
  std::vector<std::string> methods = eval::DefaultEditMethods();
  std::vector<int64_t> speed;
  eval::EditSpeedOptions speed_options;
  int64_t seed = 1;
  std::string save, output = "plain";
};

std::function<void(int64_t, int64_t)> Progress(std::unique_ptr<ProgressBar>* bar,
                                               const char* unit) {
  return [bar, unit](int64_t done, int64_t total) {
    if (*bar == nullptr) *bar = std::make_unique<ProgressBar>("evaluating", total, unit);
    (*bar)->Set(done);
  };
}

Result<Json> Quality(const EditFlags& flags, const LoadedModel& model) {
  eval::EditEvalOptions options;
  options.session = ToSessionOptions(flags.cache);
  for (const std::string& id : flags.methods) {
    PHASOR_ASSIGN_OR_RETURN(eval::EditMethod method, eval::ParseEditMethod(id));
    options.methods.push_back(std::move(method));
  }
  std::vector<std::string> files = flags.files;
  if (files.empty()) files = {std::string(PHASOR_SOURCE_DIR) + "/src"};
  PHASOR_ASSIGN_OR_RETURN(const auto source, eval::ReadSources(model.tokenizer(), files));
  eval::EditDocumentOptions document_options = flags.documents;
  document_options.seed = static_cast<uint64_t>(flags.seed);
  if (model.tokenizer().add_bos()) document_options.bos = model.tokenizer().bos_id();
  PHASOR_ASSIGN_OR_RETURN(const auto documents, eval::MakeEditDocuments(source, document_options));
  std::unique_ptr<ProgressBar> bar;
  options.on_progress = Progress(&bar, "steps");
  options.cancel = &InterruptFlag::flag();
  PHASOR_ASSIGN_OR_RETURN(const auto results, eval::EvaluateEdits(model, documents, options));
  return eval::EditReport(results);
}

Result<Json> Evaluate(const EditFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  if (std::string note = CalibrationNotice(*model, flags.cache.type_k); !note.empty()) {
    fmt::print(stderr, "{}\n", note);
  }
  InterruptFlag::Install();
  Json out = {{"model", model->path()},
              {"precision", flags.model.precision},
              {"type_k", flags.cache.type_k},
              {"type_v", flags.cache.type_v},
              {"tokens", flags.documents.n_tokens},
              {"documents", flags.documents.n_documents},
              {"seed", flags.seed},
              {"results", Json::array()},
              {"speed", Json::array()}};
  if (flags.documents.n_documents > 0) {
    PHASOR_ASSIGN_OR_RETURN(out["results"], Quality(flags, *model));
  }
  if (!flags.speed.empty()) {
    eval::EditSpeedOptions options = flags.speed_options;
    options.session = ToSessionOptions(flags.cache);
    options.n_tokens = flags.speed;
    std::unique_ptr<ProgressBar> bar;
    options.on_progress = Progress(&bar, "tokens");
    options.cancel = &InterruptFlag::flag();
    PHASOR_ASSIGN_OR_RETURN(out["speed"], eval::MeasureEditSpeed(*model, options));
  }
  return out;
}

int Edit(const EditFlags& flags) {
  if (flags.cache.ctx != 0) {
    return UsageError("edit: expected --tokens, which sets the context, found -c");
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
  const Json& results = (*report)["results"];
  const Json& speed = (*report)["speed"];
  const Table::Format format = *ParseTableFormat(flags.output);
  std::vector<Table> tables;
  if (!results.empty() && flags.output == "csv") {
    tables.push_back(eval::EditGroupTable(results));
  } else if (!results.empty()) {
    tables = {eval::EditKindTable(results), eval::EditDistanceTable(results)};
  }
  if (!speed.empty()) tables.push_back(eval::EditSpeedTable(speed));
  for (std::size_t i = 0; i < tables.size(); ++i) {
    fmt::print("{}{}", i == 0 ? "" : "\n", tables[i].Render(format));
  }
  return 0;
}

void AddDocumentFlags(CLI::App* c, EditFlags* f) {
  eval::EditDocumentOptions& d = f->documents;
  c->add_option("--tokens", d.n_tokens, "tokens of a text, at most")
      ->check(Integer(64, 1 << 24))
      ->capture_default_str();
  c->add_option("--documents", d.n_documents, "texts, each with all kinds and depths; 0: none")
      ->check(Integer(0, 1 << 16))
      ->capture_default_str();
  c->add_option("--next", d.n_continuation, "tokens behind the text that are predicted")
      ->check(Integer(1, 1 << 16))
      ->capture_default_str();
  c->add_option("--depths", d.depths, "places of the edits, 0: begin, 1: end")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(Number(0, 1))
      ->capture_default_str();
  c->add_option("--kinds", d.kinds, "insert, delete, replace")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(OneOf({"insert", "delete", "replace"}))
      ->capture_default_str();
  c->add_option("--lines", d.max_lines, "most lines of one edit")
      ->check(Integer(1, 1024))
      ->capture_default_str();
  c->add_option("-s,--seed", f->seed, "of texts and edits")
      ->check(Integer(0))
      ->capture_default_str();
}

}  // namespace

void AddEvalEditCommand(CLI::App& eval, int* exit_code) {
  auto f = std::make_shared<EditFlags>();
  // As in `kld`: float activations and a 16-bit cache, so that only the reuse of text differs.
  f->model.precision = "f32";
  f->cache.type_k = f->cache.type_v = "f16";
  CLI::App* c = eval.add_subcommand(
      "edit", "edits inside a cached source text: reuse of the rest against reading it afresh");
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  c->add_option("files,-f,--file", f->files,
                "source files and folders (default: the sources this program was built from)");
  AddModelFlags(c, &f->model, false);
  AddCacheFlags(c, &f->cache);
  AddDocumentFlags(c, f.get());
  c->add_option(
       "--methods", f->methods,
       "unedited, stay, pie, reread, and behind:S, tail:S, spread:S, deviating:S that read "
       "a share S of the rest again")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  c->add_option("--speed", f->speed,
                "also time an insertion at mid depth in random texts of these lengths")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(Integer(64, 1 << 24));
  c->add_flag("--sampled", f->speed_options.sampled,
              "time reading a text on chunks at even depths of a filled cache, not all of it");
  c->add_option("--shares", f->speed_options.shares,
                "with --speed: shares of what follows that are read again")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(Number(0, 1))
      ->capture_default_str();
  c->add_option("--rounds", f->speed_options.n_rounds, "with --speed: edits timed, for the median")
      ->check(Integer(1, 1000))
      ->capture_default_str();
  c->add_option("--save", f->save, "also write the report to this file, as JSON");
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, exit_code] {
    if (f->model.model == "default") f->model.model.clear();
    *exit_code = Edit(*f);
  });
}

}  // namespace phasor::cli
