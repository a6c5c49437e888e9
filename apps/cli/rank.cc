// phasor rank: which of several candidates is likeliest after a context, in one pass over it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/cancel.h"
#include "base/file.h"
#include "base/table.h"
#include "cli/command.h"
#include "cli/rope_flags.h"
#include "engine/rank_candidates.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::json;

struct RankFlags {
  ModelFlags model;
  CacheFlags cache;
  RopeFlags rope;
  std::string context, context_file, candidate_file;
  std::vector<std::string> candidates;
  bool per_token = false, compare = false;
  std::string output = "plain";
};

// How one pass compares with a pass per candidate.
struct Comparison {
  Ranking apart;
  double speed_up = 0;
  double formula = 0;         // tokens read apart over tokens read at once
  double max_difference = 0;  // of log-likelihoods, in nats
};

Result<std::string> ReadContext(const RankFlags& flags) {
  if (flags.context_file.empty()) return flags.context;
  if (flags.context_file == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  return ReadFile(flags.context_file);
}

// Those of the flags, then the lines of the file; empty lines are left out.
Result<std::vector<std::string>> ReadCandidates(const RankFlags& flags) {
  std::vector<std::string> all = flags.candidates;
  if (!flags.candidate_file.empty()) {
    PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.candidate_file));
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty()) all.push_back(line);
    }
  }
  if (all.empty()) {
    return InvalidArgument("rank: expected at least one --candidate, found none");
  }
  return all;
}

Comparison Compare(const Ranking& once, Ranking apart) {
  Comparison c;
  c.speed_up = apart.milliseconds / once.milliseconds;
  c.formula = static_cast<double>(apart.n_read) / static_cast<double>(once.n_read);
  for (std::size_t i = 0; i < once.scores.size(); ++i) {
    c.max_difference = std::max(
        c.max_difference, std::abs(once.scores[i].log_likelihood - apart.scores[i].log_likelihood));
  }
  c.apart = std::move(apart);
  return c;
}

Json Report(const std::vector<std::string>& texts, const Ranking& ranking,
            const std::optional<Comparison>& compared) {
  Json candidates = Json::array();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const CandidateScore& s = ranking.scores[i];
    const auto place = std::find(ranking.order.begin(), ranking.order.end(), static_cast<int>(i));
    candidates.push_back({{"text", texts[i]},
                          {"tokens", s.n_tokens},
                          {"log_likelihood", s.log_likelihood},
                          {"per_token", s.per_token()},
                          {"rank", place - ranking.order.begin() + 1}});
  }
  Json j = {{"candidates", candidates},
            {"order", ranking.order},
            {"tokens_read", ranking.n_read},
            {"ms", ranking.milliseconds}};
  if (compared) {
    j["separate"] = {{"tokens_read", compared->apart.n_read},
                     {"ms", compared->apart.milliseconds},
                     {"speed_up", compared->speed_up},
                     {"formula", compared->formula},
                     {"max_difference", compared->max_difference}};
  }
  return j;
}

void Print(const std::vector<std::string>& texts, const Ranking& ranking,
           const std::optional<Comparison>& compared, const std::string& output) {
  Table table({{"rank", Table::Align::kRight},
               {"log-likelihood", Table::Align::kRight},
               {"per token", Table::Align::kRight},
               {"tokens", Table::Align::kRight},
               {"candidate", Table::Align::kLeft}});
  for (std::size_t place = 0; place < ranking.order.size(); ++place) {
    const auto i = static_cast<std::size_t>(ranking.order[place]);
    const CandidateScore& s = ranking.scores[i];
    table.AddRow({std::to_string(place + 1), fmt::format("{:.4f}", s.log_likelihood),
                  fmt::format("{:.4f}", s.per_token()), std::to_string(s.n_tokens),
                  OneLine(texts[i])});
  }
  fmt::print("{}", table.Render(*ParseTableFormat(output)));
  if (output == "csv") return;
  fmt::print("\n{} candidates in one pass: {} tokens read in {:.1f} ms\n", texts.size(),
             ranking.n_read, ranking.milliseconds);
  if (!compared) return;
  fmt::print(
      "each in a pass of its own: {} tokens read in {:.1f} ms; speed-up {:.2f}, by tokens "
      "(C + R) n / (C + n R) = {:.2f}; scores differ by at most {:.2g}\n",
      compared->apart.n_read, compared->apart.milliseconds, compared->speed_up, compared->formula,
      compared->max_difference);
}

Status Rank(const RankFlags& flags) {
  PHASOR_ASSIGN_OR_RETURN(const std::string context_text, ReadContext(flags));
  PHASOR_ASSIGN_OR_RETURN(const std::vector<std::string> texts, ReadCandidates(flags));
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadModel(flags.model));
  const Tokenizer& tokenizer = model->tokenizer();
  const std::vector<int32_t> context = tokenizer.Encode(context_text, {});
  std::vector<std::vector<int32_t>> candidates;
  EncodeOptions goes_on;
  goes_on.add_special = false;
  for (const std::string& text : texts) candidates.push_back(tokenizer.Encode(text, goes_on));
  PHASOR_ASSIGN_OR_RETURN(const SessionOptions session_options,
                          ToSessionOptions(flags.cache, flags.rope, model->config()));
  PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(*model, session_options));
  if (std::string note = CalibrationNotice(*model, flags.cache.type_k); !note.empty()) {
    fmt::print(stderr, "{}\n", note);
  }
  if (std::string note = RopeNotice(flags.rope); !note.empty()) fmt::print(stderr, "{}\n", note);
  InterruptFlag::Install();
  const RankOptions options{.per_token = flags.per_token, .cancel = &InterruptFlag::flag()};
  std::optional<Comparison> compared;
  Ranking apart;
  if (flags.compare) {
    PHASOR_ASSIGN_OR_RETURN(apart, RankSeparately(context, candidates, options, *session));
  }
  PHASOR_ASSIGN_OR_RETURN(const Ranking ranking,
                          RankCandidates(context, candidates, options, session.get()));
  if (flags.compare) compared = Compare(ranking, std::move(apart));
  if (flags.output == "json") {
    Json j = Report(texts, ranking, compared);
    j["model"] = model->path();
    j["context_tokens"] = context.size();
    j["type_k"] = flags.cache.type_k;
    j["type_v"] = flags.cache.type_v;
    fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    Print(texts, ranking, compared, flags.output);
  }
  return Status::Ok();
}

}  // namespace

void AddRankCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<RankFlags>();
  CLI::App* c = app.add_subcommand(
      "rank", "which of several texts is likeliest after a context, in one pass over it");
  AddModelFlags(c, &f->model);
  AddCacheFlags(c, &f->cache);
  AddRopeFlags(c, &f->rope);
  auto* prompt = c->add_option("-p,--prompt", f->context, "context");
  auto* file =
      c->add_option("-f,--file", f->context_file, "read the context from a file, - for stdin");
  c->add_option("--candidate", f->candidates,
                "text that may follow the context (repeatable); tokenized by itself, so a word "
                "wants its leading space")
      ->allow_extra_args(false);
  c->add_option("--candidates", f->candidate_file, "file with one candidate per line");
  c->add_flag("--per-token", f->per_token, "order by log-likelihood per token, not by the sum");
  c->add_flag("--compare", f->compare,
              "also score each candidate in a pass of its own: times and difference");
  c->add_option("-o,--output", f->output, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [f] { f->output = "json"; }, "same as -o json");
  c->callback([f, prompt, file, exit_code] {
    if ((prompt->count() > 0) == (file->count() > 0)) {
      *exit_code = UsageError(fmt::format("rank: expected one of -p and -f, found {}",
                                          prompt->count() > 0 ? "both" : "none"));
      return;
    }
    const Status s = Rank(*f);
    *exit_code = s.ok() ? 0 : Fail(s);
  });
}

}  // namespace phasor::cli
