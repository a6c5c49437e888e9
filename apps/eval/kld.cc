#include "eval/kld.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/table.h"
#include "contracts/kv_codec.h"
#include "eval/text_windows.h"
#include "ops/vector_ops.h"

namespace phasor::eval {
namespace {

struct Run {
  CacheScores* scores = nullptr;  // null for the base
  std::unique_ptr<Session> session;
};

float Nll(std::span<const float> logits, int32_t target) {
  return LogSumExp(logits.data(), static_cast<int64_t>(logits.size())) - logits[target];
}

int64_t Top(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

class Evaluator {
 public:
  Evaluator(const LoadedModel& model, const CacheEvalOptions& options)
      : model_(model), options_(options) {}

  Status Run(const std::vector<std::vector<int32_t>>& windows, std::vector<CacheScores>* scores) {
    if (options_.base) PHASOR_RETURN_IF_ERROR(Open(*options_.base, nullptr, &base_));
    runs_.resize(scores->size());
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      PHASOR_RETURN_IF_ERROR(Open((*scores)[i].types, &(*scores)[i], &runs_[i]));
    }
    for (const auto& w : windows) total_ += static_cast<int64_t>(w.size());
    for (const auto& w : windows) PHASOR_RETURN_IF_ERROR(Window(w));
    return Status::Ok();
  }

 private:
  Status Open(const CacheTypes& types, CacheScores* scores, eval::Run* run) {
    SessionOptions session = options_.session;
    session.type_k = types.k;
    session.type_v = types.v;
    session.n_batch = kPageTokens + session.n_sink;  // the longest slice
    PHASOR_ASSIGN_OR_RETURN(run->session, Session::Create(model_, session));
    run->scores = scores;
    return Status::Ok();
  }

  Status Window(const std::vector<int32_t>& window) {
    if (base_.session) base_.session->Clear();
    for (eval::Run& r : runs_) r.session->Clear();
    int64_t position = 0;
    const auto size = static_cast<int64_t>(window.size());
    for (int64_t n : DecodeAlignedSlices(size, options_.session.n_sink)) {
      if (options_.cancel != nullptr && options_.cancel->load()) {
        return Cancelled("eval: stopped by Ctrl-C");
      }
      if (base_.session) PHASOR_RETURN_IF_ERROR(BaseSlice(window, position, n));
      for (eval::Run& r : runs_) PHASOR_RETURN_IF_ERROR(Slice(window, position, n, &r));
      position += n;
      done_ += n;
      if (options_.on_progress) options_.on_progress(done_, total_);
    }
    for (eval::Run& r : runs_) {
      const CacheStats stats = r.session->cache_stats();
      r.scores->bits = stats.bits_per_element;
      r.scores->page_bits = stats.page_bits_per_element;
    }
    return Status::Ok();
  }

  Status BaseSlice(const std::vector<int32_t>& window, int64_t position, int64_t n) {
    const auto vocab = static_cast<std::size_t>(model_.config().n_vocab);
    base_logits_.resize(static_cast<std::size_t>(n) * vocab);
    AppendOptions append;
    append.concurrent_logits = true;
    append.on_logits = [&](int64_t i, std::span<const float> logits) {
      std::copy(logits.begin(), logits.end(), base_logits_.begin() + i * vocab);
    };
    return base_.session->Append({window.data() + position, static_cast<std::size_t>(n)}, append);
  }

  Status Slice(const std::vector<int32_t>& window, int64_t position, int64_t n, eval::Run* run) {
    const auto vocab = static_cast<std::size_t>(model_.config().n_vocab);
    std::vector<TokenScore>& tokens = run->scores->tokens;
    const std::size_t first = tokens.size();
    const int64_t scored = std::min<int64_t>(n, static_cast<int64_t>(window.size()) - 1 - position);
    tokens.resize(first + static_cast<std::size_t>(std::max<int64_t>(0, scored)));
    AppendOptions append;
    append.concurrent_logits = true;
    append.score_codes = options_.score_codes;
    append.on_logits = [&](int64_t i, std::span<const float> logits) {
      if (i >= scored) return;  // the window's last token predicts nothing that is there
      const int32_t target = window[position + i + 1];
      TokenScore& s = tokens[first + i];
      s.position = position + i + 1;
      s.nll = Nll(logits, target);
      if (!base_.session) return;
      const std::span<const float> b(base_logits_.data() + i * vocab, vocab);
      s.base_nll = Nll(b, target);
      s.kl = KlDivergence(b.data(), logits.data(), static_cast<int64_t>(vocab));
      s.same_top = Top(b) == Top(logits);
    };
    return run->session->Append({window.data() + position, static_cast<std::size_t>(n)}, append);
  }

  const LoadedModel& model_;
  const CacheEvalOptions& options_;
  eval::Run base_;
  std::vector<eval::Run> runs_;
  std::vector<float> base_logits_;
  int64_t done_ = 0, total_ = 0;
};

double Quantile(std::vector<float> values, double q) {
  if (values.empty()) return 0;
  const auto rank =
      static_cast<std::size_t>(std::llround(q * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank),
                   values.end());
  return values[rank];
}

// bucket < 0: all depths.
Json Summarize(const std::vector<TokenScore>& all, int bucket, bool with_base) {
  double nll = 0, nll2 = 0, base = 0, kl = 0, same = 0;
  std::vector<float> kls;
  int64_t n = 0;
  for (const TokenScore& s : all) {
    if (bucket >= 0 && DepthBucket(s.position) != bucket) continue;
    ++n;
    nll += s.nll;
    nll2 += static_cast<double>(s.nll) * s.nll;
    base += s.base_nll;
    kl += s.kl;
    same += s.same_top ? 1 : 0;
    if (with_base) kls.push_back(s.kl);
  }
  const double count = std::max<double>(1, static_cast<double>(n));
  const double mean = nll / count;
  Json j = {
      {"depth", bucket < 0 ? "all" : DepthBucketName(bucket)},
      {"tokens", n},
      {"nll", mean},
      {"ppl", std::exp(mean)},
      {"ppl_error", std::exp(mean) * std::sqrt(std::max(0.0, nll2 / count - mean * mean) / count)}};
  if (with_base) {
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

std::vector<Table::Column> ScoreColumns(bool with_base) {
  std::vector<Table::Column> columns = {
      {"-ctk", Table::Align::kLeft},  {"-ctv", Table::Align::kLeft},
      {"depth", Table::Align::kLeft}, {"tokens", Table::Align::kRight},
      {"bits", Table::Align::kRight}, {"ppl", Table::Align::kRight}};
  const std::vector<const char*> more =
      with_base ? std::vector<const char*>{"ppl / base", "mean KL",   "median KL",
                                           "99 % KL",    "99.9 % KL", "same top"}
                : std::vector<const char*>{"nll", "ppl error"};
  for (const char* name : more) columns.push_back({name, Table::Align::kRight});
  return columns;
}

std::vector<std::string> ScoreCells(const Json& run, const Json& row, bool with_base) {
  const auto number = [&](const char* key) { return row[key].get<double>(); };
  std::vector<std::string> cells = {
      run["type_k"],
      run["type_v"],
      row["depth"],
      row["tokens"].dump(),
      fmt::format("{:.2f}", run["page_bits_per_element"].get<double>()),
      fmt::format("{:.4f}", number("ppl"))};
  if (with_base) {
    cells.push_back(fmt::format("{:.4f}", number("ppl_ratio")));
    for (const char* key : {"mean_kl", "median_kl", "kl_99", "kl_999"}) {
      cells.push_back(fmt::format("{:.5f}", number(key)));
    }
    cells.push_back(fmt::format("{:.4f}", number("same_top")));
  } else {
    cells.push_back(fmt::format("{:.5f}", number("nll")));
    cells.push_back(fmt::format("{:.4f}", number("ppl_error")));
  }
  return cells;
}

}  // namespace

Result<std::vector<CacheTypes>> ParseCacheTypes(const std::string& text) {
  std::vector<CacheTypes> list;
  const char separator = text.find(';') != std::string::npos ? ';' : ',';
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    const std::string item = text.substr(begin, end - begin);
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

Result<std::vector<CacheScores>> EvaluateCaches(const LoadedModel& model,
                                                const std::vector<std::vector<int32_t>>& windows,
                                                const CacheEvalOptions& options) {
  std::vector<CacheScores> scores(options.types.size());
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i].types = options.types[i];
  Evaluator evaluator(model, options);
  PHASOR_RETURN_IF_ERROR(evaluator.Run(windows, &scores));
  return scores;
}

Json ScoreReport(const std::vector<CacheScores>& scores, bool with_base) {
  Json out = Json::array();
  for (const CacheScores& r : scores) {
    int deepest = 0;
    for (const TokenScore& s : r.tokens) deepest = std::max(deepest, DepthBucket(s.position));
    Json j = Summarize(r.tokens, -1, with_base);
    j["type_k"] = r.types.k;
    j["type_v"] = r.types.v;
    j["bits_per_element"] = r.bits;
    j["page_bits_per_element"] = r.page_bits;
    j["by_depth"] = Json::array();
    for (int b = 0; b <= deepest; ++b) {
      Json bucket = Summarize(r.tokens, b, with_base);
      if (bucket["tokens"].get<int64_t>() > 0) j["by_depth"].push_back(std::move(bucket));
    }
    out.push_back(std::move(j));
  }
  return out;
}

Status SaveReport(const Json& report, const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(path));
  PHASOR_RETURN_IF_ERROR(writer.Write(report.dump(2) + "\n"));
  return writer.Commit();
}

std::string RenderScoreTable(const Json& report, bool with_base, const std::string& format) {
  Table table(ScoreColumns(with_base));
  for (const Json& run : report) {
    table.AddRow(ScoreCells(run, run, with_base));
    for (const Json& bucket : run["by_depth"]) table.AddRow(ScoreCells(run, bucket, with_base));
  }
  return table.Render(*ParseTableFormat(format));
}

}  // namespace phasor::eval
