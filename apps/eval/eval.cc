// phasor eval perplexity|kld MODEL FILE: quality of cache types on a text, by depth.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/table.h"
#include "cli/command.h"
#include "eval/text_windows.h"
#include "ops/vector_ops.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

struct EvalFlags {
  ModelFlags model;
  CacheFlags cache;
  std::string text_file;
  std::string types;  // "k:v,k:v": several cache types in one run
  std::string base_k = "f16", base_v = "f16";
  int64_t max_tokens = 0;
  std::string output = "plain";
};

// What is known of one scored token.
struct TokenScore {
  int64_t position;
  float nll, base_nll, kl;
  bool same_top;
};

struct CacheTypes {
  std::string k, v;
};

Result<std::vector<CacheTypes>> ParseTypes(const EvalFlags& flags) {
  if (flags.types.empty()) return std::vector<CacheTypes>{{flags.cache.type_k, flags.cache.type_v}};
  std::vector<CacheTypes> list;
  for (std::size_t begin = 0; begin <= flags.types.size();) {
    const std::size_t end = std::min(flags.types.find(',', begin), flags.types.size());
    const std::string item = flags.types.substr(begin, end - begin);
    const std::size_t colon = item.find(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == item.size()) {
      return InvalidArgument("types: expected K:V pairs such as polar:q4_head,q4_0:q4_0, found \"" +
                             item + "\"");
    }
    list.push_back({item.substr(0, colon), item.substr(colon + 1)});
    begin = end + 1;
  }
  return list;
}

struct EvalRun {
  CacheTypes types;
  std::unique_ptr<Session> session;
  std::vector<TokenScore> scores;
  double bits = 0, page_bits = 0;  // of the last full window
};

// Runs all sessions over the windows slice by slice, the base first, and scores every token.
class Evaluator {
 public:
  Evaluator(const LoadedModel& model, const EvalFlags& flags) : model_(model), flags_(flags) {}

  Status Run(const std::vector<std::vector<int32_t>>& windows, EvalRun* base,
             std::vector<EvalRun>& runs) {
    int64_t total = 0, done = 0;
    for (const auto& w : windows) total += static_cast<int64_t>(w.size());
    ProgressBar bar("evaluating", total, "tokens");
    for (const std::vector<int32_t>& window : windows) {
      if (base != nullptr) base->session->Clear();
      for (EvalRun& r : runs) r.session->Clear();
      int64_t position = 0;
      for (int64_t n :
           eval::DecodeAlignedSlices(static_cast<int64_t>(window.size()), flags_.cache.sink)) {
        if (InterruptFlag::flag().load()) return Cancelled("eval: stopped by Ctrl-C");
        if (base != nullptr) PHASOR_RETURN_IF_ERROR(RunBase(window, position, n, base));
        for (EvalRun& r : runs) PHASOR_RETURN_IF_ERROR(RunOne(window, position, n, base, &r));
        position += n;
        bar.Set(done += n);
      }
      for (EvalRun& r : runs) {
        const CacheStats stats = r.session->cache_stats();
        r.bits = stats.bits_per_element;
        r.page_bits = stats.page_bits_per_element;
      }
    }
    return Status::Ok();
  }

 private:
  static float Nll(std::span<const float> logits, int32_t target) {
    return LogSumExp(logits.data(), static_cast<int64_t>(logits.size())) - logits[target];
  }
  static int Top(std::span<const float> logits) {
    return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

  Status RunBase(const std::vector<int32_t>& window, int64_t position, int64_t n, EvalRun* base) {
    const std::size_t vocab = model_.config().n_vocab;
    base_logits_.resize(static_cast<std::size_t>(n) * vocab);
    AppendOptions options;
    options.concurrent_logits = true;
    options.on_logits = [&](int64_t i, std::span<const float> logits) {
      std::copy(logits.begin(), logits.end(), base_logits_.begin() + i * vocab);
    };
    return base->session->Append({window.data() + position, static_cast<std::size_t>(n)}, options);
  }

  Status RunOne(const std::vector<int32_t>& window, int64_t position, int64_t n, EvalRun* base,
                EvalRun* run) {
    const auto vocab = static_cast<std::size_t>(model_.config().n_vocab);
    const std::size_t first = run->scores.size();
    const int64_t scored = std::min<int64_t>(n, static_cast<int64_t>(window.size()) - 1 - position);
    run->scores.resize(first + std::max<int64_t>(0, scored));
    AppendOptions options;
    options.concurrent_logits = true;
    options.on_logits = [&](int64_t i, std::span<const float> logits) {
      if (i >= scored) return;  // the window's last token predicts nothing that is there
      const int32_t target = window[position + i + 1];
      TokenScore& s = run->scores[first + i];
      s.position = position + i + 1;
      s.nll = Nll(logits, target);
      if (base == nullptr) return;
      const std::span<const float> b(base_logits_.data() + i * vocab, vocab);
      s.base_nll = Nll(b, target);
      s.kl = KlDivergence(b.data(), logits.data(), static_cast<int64_t>(vocab));
      s.same_top = Top(b) == Top(logits);
    };
    return run->session->Append({window.data() + position, static_cast<std::size_t>(n)}, options);
  }

  const LoadedModel& model_;
  const EvalFlags& flags_;
  std::vector<float> base_logits_;
};

double Quantile(std::vector<float> values, double q) {
  if (values.empty()) return 0;
  const auto rank = static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank),
                   values.end());
  return values[rank];
}

Json Summarize(const std::vector<TokenScore>& all, int bucket, bool kld) {
  double nll = 0, nll2 = 0, base = 0, kl = 0, same = 0;
  std::vector<float> kls;
  int64_t n = 0;
  for (const TokenScore& s : all) {
    if (bucket >= 0 && eval::DepthBucket(s.position) != bucket) continue;
    ++n;
    nll += s.nll;
    nll2 += static_cast<double>(s.nll) * s.nll;
    base += s.base_nll;
    kl += s.kl;
    same += s.same_top ? 1 : 0;
    if (kld) kls.push_back(s.kl);
  }
  const double count = std::max<double>(1, static_cast<double>(n));
  const double mean = nll / count;
  Json j = {
      {"depth", bucket < 0 ? "all" : eval::DepthBucketName(bucket)},
      {"tokens", n},
      {"nll", mean},
      {"ppl", std::exp(mean)},
      {"ppl_error", std::exp(mean) * std::sqrt(std::max(0.0, nll2 / count - mean * mean) / count)}};
  if (kld) {
    j["base_ppl"] = std::exp(base / count);
    j["ppl_ratio"] = std::exp((nll - base) / count);
    j["mean_kl"] = kl / count;
    j["median_kl"] = Quantile(kls, 0.5);
    j["kl_99"] = Quantile(kls, 0.99);
    j["kl_999"] = Quantile(kls, 0.999);
    j["max_kl"] = Quantile(kls, 1.0);
    j["same_top"] = same / count;
  }
  return j;
}

Json Report(const std::vector<EvalRun>& runs, bool kld) {
  Json out = Json::array();
  for (const EvalRun& r : runs) {
    int deepest = 0;
    for (const TokenScore& s : r.scores) deepest = std::max(deepest, eval::DepthBucket(s.position));
    Json j = Summarize(r.scores, -1, kld);
    j["type_k"] = r.types.k;
    j["type_v"] = r.types.v;
    j["bits_per_element"] = r.bits;
    j["page_bits_per_element"] = r.page_bits;
    j["by_depth"] = Json::array();
    for (int b = 0; b <= deepest; ++b) {
      Json bucket = Summarize(r.scores, b, kld);
      if (bucket["tokens"].get<int64_t>() > 0) j["by_depth"].push_back(std::move(bucket));
    }
    out.push_back(std::move(j));
  }
  return out;
}

void PrintTable(const Json& report, bool kld, const std::string& format) {
  std::vector<Table::Column> columns = {
      {"-ctk", Table::Align::kLeft},  {"-ctv", Table::Align::kLeft},
      {"depth", Table::Align::kLeft}, {"tokens", Table::Align::kRight},
      {"bits", Table::Align::kRight}, {"ppl", Table::Align::kRight}};
  if (kld) {
    for (const char* name :
         {"ppl / base", "mean KL", "median KL", "99 % KL", "99.9 % KL", "same top"}) {
      columns.push_back({name, Table::Align::kRight});
    }
  } else {
    columns.push_back({"nll", Table::Align::kRight});
    columns.push_back({"ppl error", Table::Align::kRight});
  }
  Table table(columns);
  auto add = [&](const Json& run, const Json& row) {
    std::vector<std::string> cells = {
        run["type_k"],
        run["type_v"],
        row["depth"],
        row["tokens"].dump(),
        fmt::format("{:.2f}", run["page_bits_per_element"].get<double>()),
        fmt::format("{:.4f}", row["ppl"].get<double>())};
    if (kld) {
      cells.push_back(fmt::format("{:.4f}", row["ppl_ratio"].get<double>()));
      for (const char* key : {"mean_kl", "median_kl", "kl_99", "kl_999"}) {
        cells.push_back(fmt::format("{:.5f}", row[key].get<double>()));
      }
      cells.push_back(fmt::format("{:.4f}", row["same_top"].get<double>()));
    } else {
      cells.push_back(fmt::format("{:.5f}", row["nll"].get<double>()));
      cells.push_back(fmt::format("{:.4f}", row["ppl_error"].get<double>()));
    }
    table.AddRow(std::move(cells));
  };
  for (const Json& run : report) {
    add(run, run);
    for (const Json& bucket : run["by_depth"]) add(run, bucket);
  }
  fmt::print("{}", table.Render(*ParseTableFormat(format)));
}

Result<Json> Evaluate(const EvalFlags& flags, bool kld) {
  PHASOR_ASSIGN_OR_RETURN(std::vector<CacheTypes> types, ParseTypes(flags));
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(flags.text_file));
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  for (const CacheTypes& t : types) {
    if (std::string note = CalibrationNotice(*model, t.k); !note.empty()) {
      fmt::print(stderr, "{}\n", note);
      break;
    }
  }
  SessionOptions options = ToSessionOptions(flags.cache);
  if (options.n_ctx == 0) options.n_ctx = model->config().n_ctx_train;
  options.n_batch = kPageTokens + options.n_sink;
  const auto windows = eval::TextWindows(model->tokenizer(), text, options.n_ctx, flags.max_tokens);
  if (windows.empty()) {
    return InvalidArgument("eval: " + flags.text_file + ": expected a text of at least two tokens");
  }
  auto make = [&](const CacheTypes& t) -> Result<EvalRun> {
    EvalRun run;
    run.types = t;
    options.type_k = t.k;
    options.type_v = t.v;
    PHASOR_ASSIGN_OR_RETURN(run.session, Session::Create(*model, options));
    return run;
  };
  std::vector<EvalRun> runs;
  for (const CacheTypes& t : types) {
    PHASOR_ASSIGN_OR_RETURN(EvalRun run, make(t));
    runs.push_back(std::move(run));
  }
  EvalRun base;
  if (kld) {
    PHASOR_ASSIGN_OR_RETURN(base, make({flags.base_k, flags.base_v}));
  }
  InterruptFlag::Install();
  Evaluator evaluator(*model, flags);
  PHASOR_RETURN_IF_ERROR(evaluator.Run(windows, kld ? &base : nullptr, runs));
  Json out = {{"model", model->path()},
              {"text", flags.text_file},
              {"n_ctx", options.n_ctx},
              {"windows", windows.size()},
              {"precision", flags.model.precision},
              {"n_sink", options.n_sink},
              {"n_recent", options.n_recent}};
  if (kld) out["base"] = {{"type_k", flags.base_k}, {"type_v", flags.base_v}};
  out["results"] = Report(runs, kld);
  return out;
}

int Eval(const EvalFlags& flags, bool kld) {
  auto result = Evaluate(flags, kld);
  if (!result.ok()) return Fail(result.status());
  if (flags.output != "json") {
    PrintTable((*result)["results"], kld, flags.output);
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
  c->add_option("--types", f->types, "several cache types in one run: K:V,K:V,...");
  c->add_option("--max-tokens", f->max_tokens, "only the first tokens of the text (0: all)");
  if (kld) {
    c->add_option("--base-type-k", f->base_k, "cache type of keys to compare with")
        ->capture_default_str();
    c->add_option("--base-type-v", f->base_v, "cache type of values to compare with")
        ->capture_default_str();
  }
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(CLI::IsMember({"plain", "md", "csv", "json"}));
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
}

}  // namespace phasor::cli
