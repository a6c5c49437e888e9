// PIE (2407.03157): edits inside cached source texts, their quality as in `phasor eval edit` and
// their speed in a longer text.
#include <fmt/format.h>

#include <algorithm>

#include "eval/edit_eval.h"
#include "eval/experiments/experiment.h"

namespace phasor::eval {
namespace {

constexpr int64_t kQuickTokens = 1024;
constexpr int64_t kMostTokens = 1 << 24, kMostCount = 1 << 16, kMostLines = 1024;

struct Settings {
  EditDocumentOptions documents;
  std::vector<EditMethod> methods;
  int64_t speed_tokens = 0;
  std::vector<double> speed_shares;  // of the rest, read again behind the edit
};

Result<Settings> ReadSettings(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(const nlohmann::json j, ParseSettings(input));
  Settings s;
  int64_t n_documents = 0, max_lines = 0;
  std::vector<std::string> methods;
  Fields f(j, input.settings_name);
  f.Integer("tokens", 64, &s.documents.n_tokens, kMostTokens);
  f.Integer("next", 1, &s.documents.n_continuation, kMostCount);
  f.Integer("documents", 1, &n_documents, kMostCount);
  f.Integer("lines", 1, &max_lines, kMostLines);
  f.Numbers("depths", 0, 1, &s.documents.depths);
  f.Strings("kinds", &s.documents.kinds);
  f.Strings("methods", &methods);
  f.Integer("speed_tokens", 64, &s.speed_tokens, kMostTokens);
  f.Numbers("speed_shares", 0, 1, &s.speed_shares);
  for (const std::string& kind : s.documents.kinds) {
    if (kind != "insert" && kind != "delete" && kind != "replace") {
      f.Fail("kinds: expected insert, delete or replace, found " + kind);
    }
  }
  for (const std::string& id : methods) {
    const Result<EditMethod> method = ParseEditMethod(id);
    if (!method.ok()) f.Fail("methods: " + method.status().message());
    if (method.ok()) s.methods.push_back(*method);
  }
  PHASOR_RETURN_IF_ERROR(f.Finish());
  s.documents.n_documents = static_cast<int>(n_documents);
  s.documents.max_lines = static_cast<int>(max_lines);
  if (input.max_tokens > 0) {
    s.documents.n_tokens = std::min(input.max_tokens, s.documents.n_tokens);
  }
  return s;
}

Result<ExperimentNeeds> Needs(const ExperimentInput& input) {
  PHASOR_RETURN_IF_ERROR(ReadSettings(input).status());
  return ExperimentNeeds{true, ExperimentText::kSources, 0};
}

Status MeasureQuality(const ExperimentInput& input, const Settings& settings,
                      ExperimentReport* report) {
  const Tokenizer& tokenizer = input.model->tokenizer();
  EditDocumentOptions documents = settings.documents;
  if (tokenizer.add_bos()) documents.bos = tokenizer.bos_id();
  PHASOR_ASSIGN_OR_RETURN(const auto source, ReadSources(tokenizer, {input.text_path}));
  PHASOR_ASSIGN_OR_RETURN(const auto texts, MakeEditDocuments(source, documents));
  EditEvalOptions options;
  options.session.type_k = options.session.type_v = "f16";
  options.methods = settings.methods;
  options.cancel = input.cancel;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (input.on_progress) input.on_progress("evaluating", "steps", done, total);
  };
  PHASOR_ASSIGN_OR_RETURN(const auto results, EvaluateEdits(*input.model, texts, options));
  const Json quality = EditReport(results);
  for (const Json& run : quality) {
    for (const char* metric : {"mean_kl", "same_top", "same_line", "read"}) {
      report->measured[{metric, run["method"].get<std::string>()}] = run[metric].get<double>();
    }
  }
  int64_t n_tokens = 0;
  for (const EditDocument& d : texts) n_tokens += static_cast<int64_t>(d.tokens.size());
  report->ran_on = fmt::format("{} tokens of source in texts of at most {}, cache in f16", n_tokens,
                               documents.n_tokens);
  report->tables.emplace_back("Edits by kind", EditKindTable(quality));
  report->tables.emplace_back("Edits by tokens between them and the end of the text",
                              EditDistanceTable(quality));
  report->details["quality"] = quality;
  return Status::Ok();
}

// Ids of times are those of the methods.
Status MeasureSpeed(const ExperimentInput& input, const Settings& settings,
                    ExperimentReport* report) {
  EditSpeedOptions options;
  options.session.type_k = options.session.type_v = "f16";
  options.n_tokens = {input.quick ? std::min(kQuickTokens, settings.speed_tokens)
                                  : settings.speed_tokens};
  options.shares = settings.speed_shares;
  if (input.quick) options.n_rounds = 1;
  options.cancel = input.cancel;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (input.on_progress) input.on_progress("timing", "tokens", done, total);
  };
  PHASOR_ASSIGN_OR_RETURN(const Json speed, MeasureEditSpeed(*input.model, options));
  for (const Json& row : speed) {
    const auto share = row["share"].get<double>();
    const std::string id = share == 0 ? "pie" : fmt::format("behind:{:g}", share);
    for (const char* metric : {"speedup", "time_saved"}) {
      report->measured[{metric, id}] = row[metric].get<double>();
    }
  }
  report->tables.emplace_back("An insertion at mid depth of a long text", EditSpeedTable(speed));
  report->details["speed"] = speed;
  return Status::Ok();
}

Result<ExperimentReport> Run(const ExperimentInput& input) {
  PHASOR_ASSIGN_OR_RETURN(const Settings settings, ReadSettings(input));
  ExperimentReport report;
  PHASOR_RETURN_IF_ERROR(MeasureQuality(input, settings, &report));
  PHASOR_RETURN_IF_ERROR(MeasureSpeed(input, settings, &report));
  return report;
}

}  // namespace

const Experiment kPieExperiment = {"pie", Needs, Run};

}  // namespace phasor::eval
