// phasor calibrate MODEL TEXT: chooses the widths of `-ctk polar` for a model, in seconds.
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
  std::string text_file, output;
  int64_t n_tokens = 2048;
  CalibrateOptions options;
  bool json = false;
};

Status RunCalibrate(CalibrateFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(flags.text_file));
  flags.model.no_calibration = true;
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  InterruptFlag::Install();
  const EncodeOptions encode{.add_special = true, .parse_special = false};
  std::vector<int32_t> tokens = model->tokenizer().Encode(text, encode);
  const int64_t n = std::min(flags.n_tokens, model->config().n_ctx_train);
  if (static_cast<int64_t>(tokens.size()) > n) tokens.resize(n);
  std::unique_ptr<ProgressBar> bar;
  flags.options.cancel = &InterruptFlag::flag();
  flags.options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("calibrating", total, "steps");
    bar->Set(done);
  };
  PHASOR_ASSIGN_OR_RETURN(Calibration calibration, Calibrate(*model, tokens, flags.options));
  bar.reset();
  std::string path = flags.output;
  if (path.empty()) path = CalibrationPaths(model->path(), calibration.fingerprint)[0];
  PHASOR_RETURN_IF_ERROR(calibration.Write(path));
  if (flags.json) {
    const nlohmann::json j = {{"path", path},
                              {"fingerprint", calibration.fingerprint},
                              {"bits_per_element", calibration.bits_per_element},
                              {"n_tokens", calibration.n_tokens}};
    fmt::print("{}\n", j.dump(2));
  } else {
    fmt::print("{}: widths for {} pairs from {} tokens at {:.2f} bits per key element\n", path,
               calibration.classes.size(), calibration.n_tokens, calibration.bits_per_element);
  }
  return Status::Ok();
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<CalibrateFlags>();
  CLI::App* c = app.add_subcommand("calibrate", "choose the widths of -ctk polar from a text");
  c->add_option("model", f->model.model,
                "GGUF file or Hugging Face folder, default for the default model")
      ->required();
  c->add_option("text,-f,--file", f->text_file, "text file")->required();
  AddModelFlags(c, &f->model, false);
  c->add_option("-n,--tokens", f->n_tokens, "most tokens of the text to use")
      ->capture_default_str()
      ->check(Integer(256, 1 << 20));
  c->add_option("--bits", f->options.bits_per_element, "bits per key element, metadata included")
      ->capture_default_str()
      ->check(Number(2.25, 8.0));
  c->add_flag("--joint", f->options.joint, "one budget over all heads");
  c->add_option("-o,--output", f->output, "file to write (default: beside the model)");
  c->add_flag("--json", f->json, "print a JSON object");
  c->callback([f, exit_code] {
    if (f->model.model == "default") f->model.model.clear();
    Status s = RunCalibrate(*f);
    *exit_code = s.ok() ? 0 : Fail(s);
  });
}

}  // namespace phasor::cli
