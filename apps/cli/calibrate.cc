// phasor calibrate MODEL TEXT: chooses the widths of the calibrated key codecs, in seconds.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "engine/calibrate.h"

namespace phasor::cli {
namespace {

struct CalibrateFlags {
  ModelFlags model;
  std::string text_file, output, widths_file;
  int64_t n_tokens = 2048;
  std::vector<std::string> codecs;
  double bits = 0;  // 0: the default of each codec
  bool per_head = false, by_loss = false;
  CalibrateOptions options;
  bool json = false;
};

Status ChooseBudgets(CalibrateFlags& flags) {
  flags.options.joint = !flags.per_head;
  if (flags.by_loss && (flags.per_head || flags.bits > 0 || !flags.codecs.empty())) {
    return InvalidArgument("--by-loss: expected no --codec, --bits or --per-head beside it");
  }
  if (!flags.widths_file.empty() && !flags.by_loss) {
    return InvalidArgument("--widths: expected --by-loss beside it, whose text it reads");
  }
  if (flags.bits > 0 && flags.codecs.size() != 1) {
    return InvalidArgument(fmt::format(
        "--bits: expected one --codec that the budget is for, found {}", flags.codecs.size()));
  }
  if (flags.codecs.empty()) return Status::Ok();
  std::vector<CalibrateBudget> chosen;
  for (const std::string& id : flags.codecs) {
    CalibrateBudget budget = {id, flags.bits};
    for (const CalibrateBudget& known : DefaultBudgets()) {
      if (known.codec == id && flags.bits == 0) budget = known;
    }
    chosen.push_back(budget);
  }
  flags.options.budgets = chosen;
  return Status::Ok();
}

Result<Calibration> Make(const LoadedModel& model, const std::string& text,
                         const CalibrateFlags& flags, HeadLosses* losses) {
  if (flags.by_loss) {
    RecallTextOptions recall;
    // The facts are repeated behind it.
    recall.n_context = std::min(flags.n_tokens, model.config().n_ctx_train * 3 / 4);
    PHASOR_ASSIGN_OR_RETURN(const RecallText made, MakeRecallText(model.tokenizer(), text, recall));
    if (!flags.widths_file.empty()) {
      PHASOR_ASSIGN_OR_RETURN(const Calibration widths, Calibration::Read(flags.widths_file));
      return CalibrateAround(model, made.tokens, flags.options, widths);
    }
    return CalibrateByLoss(model, made, flags.options, losses);
  }
  const EncodeOptions encode{.add_special = true, .parse_special = false};
  std::vector<int32_t> tokens = model.tokenizer().Encode(text, encode);
  const int64_t n = std::min(flags.n_tokens, model.config().n_ctx_train);
  if (static_cast<int64_t>(tokens.size()) > n) tokens.resize(n);
  return Calibrate(model, tokens, flags.options);
}

nlohmann::json ToJson(const std::vector<HeadLoss>& losses) {
  nlohmann::json list = nlohmann::json::array();
  for (const HeadLoss& l : losses) list.push_back({{"recall", l.recall}, {"prose", l.prose}});
  return list;
}

Status RunCalibrate(CalibrateFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(flags.text_file));
  flags.model.no_calibration = true;
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  PHASOR_RETURN_IF_ERROR(ChooseBudgets(flags));
  InterruptFlag::Install();
  std::unique_ptr<ProgressBar> bar;
  flags.options.cancel = &InterruptFlag::flag();
  flags.options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("calibrating", total, "steps");
    bar->Set(done);
  };
  HeadLosses losses;
  PHASOR_ASSIGN_OR_RETURN(Calibration calibration, Make(*model, text, flags, &losses));
  bar.reset();
  std::string path = flags.output;
  if (path.empty()) path = CalibrationPaths(model->path(), calibration.fingerprint)[0];
  PHASOR_RETURN_IF_ERROR(calibration.Write(path));
  if (flags.json) {
    nlohmann::json j = {{"path", path},
                        {"fingerprint", calibration.fingerprint},
                        {"n_tokens", calibration.n_tokens},
                        {"sets", nlohmann::json::array()}};
    for (const CalibrationSet& set : calibration.sets) {
      j["sets"].push_back({{"codec", set.codec}, {"bits_per_element", set.bits_per_element}});
    }
    if (!losses.keys.empty())
      j["losses"] = {{"keys", ToJson(losses.keys)}, {"values", ToJson(losses.values)}};
    fmt::print("{}\n", j.dump(2));
  } else {
    for (const CalibrationSet& set : calibration.sets) {
      fmt::print("{}: {}: {} widths from {} tokens at {:.2f} bits per element\n", path, set.codec,
                 set.classes.size(), calibration.n_tokens, set.bits_per_element);
    }
  }
  return Status::Ok();
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<CalibrateFlags>();
  CLI::App* c = app.add_subcommand("calibrate",
                                   "choose the widths of -ctk frame4, frame3 and polar, and of "
                                   "-ctv q4_head\nand q3_head, from a text");
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  c->add_option("text,-f,--file", f->text_file, "text file")->required();
  AddModelFlags(c, &f->model, false);
  c->add_option("-n,--tokens", f->n_tokens, "most tokens of the text to use")
      ->capture_default_str()
      ->check(Integer(256, 1 << 20));
  c->add_option("--codec", f->codecs, "make widths for these alone (default: all that take any)")
      ->check(CLI::IsMember({"frame4", "frame3", "polar"}))
      ->delimiter(',');
  c->add_option("--bits", f->bits, "bits per key element of the one --codec, metadata included")
      ->check(Number(2.25, 7.25));
  c->add_flag("--per-head", f->per_head, "a budget for each head instead of one over all");
  c->add_flag(
      "--by-loss", f->by_loss,
      "measure what every head's loss does to the model's predictions, of facts to recall and "
      "of the text,\nand share the bits of keys and values by that: minutes, not seconds");
  c->add_option("--widths", f->widths_file,
                "with --by-loss: take the widths of this calibration and measure only what else\n"
                "there is to a calibration, which takes seconds");
  c->add_option("-o,--output", f->output, "file to write (default: beside the model)");
  c->add_flag("--json", f->json, "print a JSON object");
  c->callback([f, exit_code] {
    if (f->model.model == "default") f->model.model.clear();
    Status s = RunCalibrate(*f);
    *exit_code = s.ok() ? 0 : Fail(s);
  });
}

}  // namespace phasor::cli
