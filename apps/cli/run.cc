// phasor run: chat or complete, streaming.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/rope_flags.h"
#include "cli/run_documents.h"
#include "engine/beam_search.h"

namespace phasor::cli {
namespace {

struct RunFlags {
  ModelFlags model;
  CacheFlags cache;
  RopeFlags rope;
  DocumentFlags documents;
  std::string prompt, file, system;
  int64_t n_predict = -1;
  int beams = 0;  // 0: sampling
  double length_penalty = BeamOptions().length_penalty;
  SamplerOptions sampler;
  int64_t seed = -1;
  std::vector<std::string> stop;
  bool json = false, no_conversation = false, conversation = false, ignore_eos = false;
  bool quiet = false;
  std::string flash_attn = "auto";
  bool context_shift = false;
  int64_t keep = 0;
};

double PerSecond(int64_t n, double ms) { return ms > 0 ? static_cast<double>(n) * 1000 / ms : 0; }

std::string StatsLine(const Session& s) {
  const Timings& t = s.timings();
  const CacheStats c = s.cache_stats();
  return fmt::format(
      "[prompt {} tokens, {:.1f} tokens/s | answer {} tokens, {:.1f} tokens/s | cache {} for {} "
      "tokens, {:.2f} bits per element, f16 would take {}]",
      t.prompt_n, PerSecond(t.prompt_n, t.prompt_ms), t.predicted_n,
      PerSecond(t.predicted_n, t.predicted_ms), HumanBytes(static_cast<double>(c.used_bytes)),
      c.n_tokens, c.bits_per_element, HumanBytes(static_cast<double>(c.f16_bytes)));
}

nlohmann::json StatsJson(const Session& s) {
  const Timings& t = s.timings();
  const CacheStats c = s.cache_stats();
  return {{"timings",
           {{"prompt_n", t.prompt_n},
            {"prompt_ms", t.prompt_ms},
            {"prompt_per_second", PerSecond(t.prompt_n, t.prompt_ms)},
            {"predicted_n", t.predicted_n},
            {"predicted_ms", t.predicted_ms},
            {"predicted_per_second", PerSecond(t.predicted_n, t.predicted_ms)}}},
          {"cache",
           {{"n_tokens", c.n_tokens},
            {"bytes", c.used_bytes},
            {"allocated_bytes", c.allocated_bytes},
            {"bits_per_element", c.bits_per_element},
            {"f16_bytes", c.f16_bytes}}}};
}

class Runner {
 public:
  Runner(const RunFlags& flags, const LoadedModel& model, Session& session, std::string rope_method,
         Preamble preamble)
      : flags_(flags),
        model_(model),
        session_(session),
        rope_method_(std::move(rope_method)),
        preamble_(std::move(preamble)) {
    if (!flags.documents.prompt_cache.empty()) history_ = session.tokens();
    options_.max_tokens = flags.n_predict;
    options_.sampler = flags.sampler;
    options_.stop = flags.stop;
    options_.ignore_eos = flags.ignore_eos;
    options_.cancel = &InterruptFlag::flag();
    if (!flags.system.empty()) messages_.push_back({"system", flags.system});
  }

  int Complete(const std::string& prompt) {
    EncodeOptions encode;
    encode.add_special = session_.n_tokens() == 0 || !history_.empty();
    auto tokens = NotYetRead(model_.tokenizer().Encode(prompt, encode));
    if (!tokens.ok()) return Fail(tokens.status());
    return Once(*tokens);
  }

  // One question through the chat template.
  int Ask(const std::string& question) {
    auto tokens = NextTurn(question);
    if (!tokens.ok()) return Fail(tokens.status());
    return Once(*tokens);
  }

  int Chat() {
    if (Status s = CheckTemplate(); !s.ok()) return Fail(s);
    fmt::print(stderr,
               "Chat with {} (-ctk {} -ctv {}, context {}). Empty line or Ctrl-D ends; "
               "Ctrl-C stops an answer.\n",
               OneLine(model_.config().name.empty() ? model_.path() : model_.config().name),
               flags_.cache.type_k, flags_.cache.type_v, session_.n_ctx());
    for (;;) {
      InterruptFlag::Reset();
      std::string line;
      if (!ReadLine(&line) || line.empty()) break;
      InterruptFlag::Reset();  // one at the prompt is not meant for the answer
      auto tokens = NextTurn(line);
      if (!tokens.ok()) return Fail(tokens.status());
      if (Status s = Feed(*tokens); !s.ok()) {
        Fail(s);
        messages_.pop_back();
        if (s.code() != StatusCode::kCancelled) return 1;
        continue;
      }
      auto result = Stream();
      if (!result.ok()) return Fail(result.status());
      fmt::print("\n");
      messages_.push_back({"assistant", result->text});
      if (result->reason == FinishReason::kContextFull) {
        fmt::print(stderr, "[the context of {} tokens is full]\n", session_.n_ctx());
        break;
      }
    }
    if (!flags_.quiet) fmt::print(stderr, "\n{}\n", StatsLine(session_));
    return Save();
  }

 private:
  // 1 after an error.
  int Save() const {
    const std::string path = SavePath(flags_.documents);
    if (path.empty() || session_.n_tokens() == 0) return 0;
    const Status s = session_.Save(path);
    return s.ok() ? 0 : Fail(s);
  }

  // One line of stdin without its line feed; false at the end. Ctrl-C drops what was typed and asks
  // again, so that one meant for an answer that had just ended does not end the conversation.
  bool ReadLine(std::string* line) {
    for (;;) {
      const int n_interrupts = InterruptFlag::count();
      fmt::print("\n> ");
      std::fflush(stdout);
      if (WaitForLine(n_interrupts)) {
        const std::size_t end = typed_.find('\n');
        *line = typed_.substr(0, end);
        typed_.erase(0, end == std::string::npos ? end : end + 1);
        return end != std::string::npos || !line->empty();
      }
      typed_.clear();
      fmt::print(stderr, "[Ctrl-C again or Ctrl-D ends]");
    }
  }

  // True when typed_ holds a whole line or all there is; false after a Ctrl-C beyond the first
  // n_interrupts. They are counted every few milliseconds, because the signal may come just before
  // poll() or meet another thread.
  bool WaitForLine(int n_interrupts) {
    constexpr int kLookMs = 50;
    while (typed_.find('\n') == std::string::npos) {
      if (InterruptFlag::count() != n_interrupts) return false;
      pollfd input = {STDIN_FILENO, POLLIN, 0};
      const int ready = ::poll(&input, 1, kLookMs);
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      if (ready < 0) return true;
      char buffer[4096];
      const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (n <= 0) return true;
      typed_.append(buffer, static_cast<std::size_t>(n));
    }
    return true;
  }

  Status CheckTemplate() const {
    if (model_.chat_template() != nullptr) return Status::Ok();
    if (!model_.chat_template_error().ok()) return model_.chat_template_error();
    return Unsupported(
        "chat: expected a model with a chat template, found none; use "
        "--no-conversation with -p for plain completion");
  }

  // Renders the conversation with the new question and returns the tokens the cache does not hold
  // yet. Where the template changed earlier text, the cache is cut back to the common part.
  Result<std::vector<int32_t>> NextTurn(const std::string& question) {
    messages_.push_back({"user", question});
    PHASOR_RETURN_IF_ERROR(CheckTemplate());
    const Tokenizer& t = model_.tokenizer();
    ChatTemplateInputs inputs;
    inputs.messages = messages_;
    if (t.bos_id() >= 0) inputs.bos_token = t.TokenBytes(t.bos_id(), false);
    if (t.eos_id() >= 0) inputs.eos_token = t.TokenBytes(t.eos_id(), false);
    PHASOR_ASSIGN_OR_RETURN(std::string text, model_.chat_template()->Render(inputs));
    // The template writes its own BOS.
    EncodeOptions encode;
    encode.add_special = inputs.bos_token.empty() || text.rfind(inputs.bos_token, 0) != 0;
    return NotYetRead(t.Encode(text, encode));
  }

  // What of the conversation's tokens the cache does not hold; it is cut back to the common part.
  Result<std::vector<int32_t>> NotYetRead(std::vector<int32_t> tokens) {
    std::size_t common = 0;
    while (common < history_.size() && common < tokens.size() &&
           history_[common] == tokens[common]) {
      ++common;
    }
    if (common == tokens.size() && common > 0) --common;  // at least one token must be read
    // Counted from the end: a context shift may have dropped text before.
    const auto n_cut = static_cast<int64_t>(history_.size() - common);
    if (n_cut > 0) {
      PHASOR_RETURN_IF_ERROR(session_.Truncate(std::max<int64_t>(0, session_.n_tokens() - n_cut)));
      history_.resize(common);
    }
    if (!flags_.documents.prompt_cache.empty() && !kept_) preamble_.CountLoaded(session_);
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(common));
    return tokens;
  }

  Status Feed(const std::vector<int32_t>& tokens) {
    if (tokens.empty()) return InvalidArgument("prompt: expected text, found none");
    std::unique_ptr<ProgressBar> bar;
    AppendOptions append;
    append.cancel = &InterruptFlag::flag();
    append.on_progress = [&](int64_t done, int64_t total) {
      if (total <= flags_.cache.batch) return;
      if (bar == nullptr) bar = std::make_unique<ProgressBar>("reading", total, "tokens");
      bar->Set(done);
    };
    PHASOR_RETURN_IF_ERROR(session_.Append(tokens, append));
    history_.insert(history_.end(), tokens.begin(), tokens.end());
    if (flags_.keep < 0 && !kept_) session_.SetKeep(session_.n_tokens());
    kept_ = true;
    return Status::Ok();
  }

  Result<GenerateResult> Stream() {
    PHASOR_ASSIGN_OR_RETURN(GenerateResult result,
                            session_.Generate(options_, [&](std::string_view piece) {
                              if (flags_.json) return;
                              std::fwrite(piece.data(), 1, piece.size(), stdout);
                              std::fflush(stdout);
                            }));
    history_.insert(history_.end(), result.tokens.begin(), result.tokens.end());
    const int32_t last = session_.tokens().back();
    if (result.reason == FinishReason::kEndOfText && model_.tokenizer().IsEndOfGeneration(last)) {
      history_.push_back(last);
    }
    return result;
  }

  // The best of several lines, shown when all have ended.
  int OnceWithBeams() {
    BeamOptions beam{.n_beams = flags_.beams, .length_penalty = flags_.length_penalty};
    if (flags_.n_predict > 0) beam.max_tokens = flags_.n_predict;
    beam.ignore_eos = flags_.ignore_eos;
    beam.cancel = &InterruptFlag::flag();
    auto result = BeamSearch(beam, &session_);
    if (!result.ok()) return Fail(result.status());
    const BeamHypothesis& best = result->hypotheses.front();
    if (!flags_.json) {
      fmt::print("{}\n", best.text);
      if (!flags_.quiet) {
        fmt::print(
            stderr, "[{} beams, {} tokens read and {} branches in {:.1f} ms; best score {:.4f}]\n",
            flags_.beams, result->n_read, result->n_branches, result->milliseconds, best.score);
      }
      return 0;
    }
    nlohmann::json lines = nlohmann::json::array();
    for (const BeamHypothesis& h : result->hypotheses) {
      lines.push_back({{"text", h.text},
                       {"tokens", h.tokens},
                       {"log_probability", h.log_probability},
                       {"score", h.score},
                       {"finish_reason", FinishReasonName(h.reason)}});
    }
    nlohmann::json j = {{"text", best.text},
                        {"tokens", best.tokens},
                        {"finish_reason", FinishReasonName(best.reason)},
                        {"beams", lines},
                        {"tokens_read", result->n_read},
                        {"branches", result->n_branches},
                        {"ms", result->milliseconds},
                        {"model", model_.path()}};
    AddPreambleJson(preamble_, &j);
    fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }

  int Once(const std::vector<int32_t>& tokens) {
    if (Status s = Feed(tokens); !s.ok()) return Fail(s);
    if (flags_.beams > 0) {
      const int code = OnceWithBeams();
      return code != 0 ? code : Save();
    }
    auto result = Stream();
    if (!result.ok()) return Fail(result.status());
    if (flags_.json) {
      nlohmann::json j = StatsJson(session_);
      j["text"] = result->text;
      j["tokens"] = result->tokens;
      j["finish_reason"] = FinishReasonName(result->reason);
      j["model"] = model_.path();
      j["type_k"] = flags_.cache.type_k;
      j["type_v"] = flags_.cache.type_v;
      j["rope_method"] = rope_method_;
      j["seed"] = flags_.sampler.seed;
      AddPreambleJson(preamble_, &j);
      fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    } else {
      fmt::print("\n");
      std::fflush(stdout);
      if (!flags_.quiet) fmt::print(stderr, "{}\n", StatsLine(session_));
    }
    return Save();
  }

  const RunFlags& flags_;
  const LoadedModel& model_;
  Session& session_;
  std::string rope_method_;
  Preamble preamble_;
  GenerateOptions options_;
  std::vector<ChatMessage> messages_;
  std::string typed_;             // read from stdin and not yet used
  std::vector<int32_t> history_;  // every token of the conversation, dropped ones too
  bool kept_ = false;             // --keep -1 has taken the first prompt's length
};

Result<std::string> ReadPrompt(const RunFlags& flags) {
  if (flags.file.empty()) return flags.prompt;
  if (flags.file == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  return ReadFile(flags.file);
}

int Run(RunFlags& flags, bool prompt_given, bool file_given) {
  if (prompt_given && file_given) return UsageError("run: expected one of -p and -f, found both");
  prompt_given = prompt_given || file_given;
  if (!prompt_given && (flags.no_conversation || flags.json)) {
    return UsageError(fmt::format("run: {}: expected a prompt with -p or -f, found none",
                                  flags.json ? "--json" : "--no-conversation"));
  }
  if (std::string wrong = CheckDocumentFlags(flags.documents); !wrong.empty()) {
    return UsageError("run: " + wrong);
  }
  if (flags.beams > 0 && (!prompt_given || !flags.stop.empty())) {
    return UsageError(fmt::format(
        "run: --beams: expected {}",
        prompt_given ? "no --stop beside it, found one" : "a prompt with -p or -f, found none"));
  }
  flags.sampler.seed = flags.seed >= 0 ? static_cast<uint64_t>(flags.seed) : std::random_device()();
  if (Status s = ValidateSamplerOptions(flags.sampler); !s.ok()) return Fail(s);
  auto prompt = ReadPrompt(flags);
  if (!prompt.ok()) return Fail(prompt.status());
  if (prompt_given && prompt->empty()) {
    return Fail(InvalidArgument("prompt: expected text, found an empty prompt"));
  }
  auto model = LoadModel(flags.model);
  if (!model.ok()) return Fail(model.status());
  auto options = ToSessionOptions(flags.cache, flags.rope, (*model)->config());
  if (!options.ok()) return Fail(options.status());
  options->context_shift = flags.context_shift;
  options->n_keep = std::max<int64_t>(0, flags.keep);
  auto session = Session::Create(**model, *options);
  if (!session.ok()) return Fail(session.status());
  if (std::string note = CalibrationNotice(**model, flags.cache.type_k); !note.empty()) {
    fmt::print(stderr, "{}\n", note);
  }
  if (std::string note = RopeNotice(flags.rope); !note.empty()) fmt::print(stderr, "{}\n", note);
  InterruptFlag::Install();
  auto preamble = ReadPreamble(flags.documents, session->get());
  if (!preamble.ok()) return Fail(preamble.status());
  if (!flags.quiet && !flags.json) fmt::print(stderr, "{}", PreambleTable(*preamble));
  Runner runner(flags, **model, **session, RopeOf(*options, (*model)->config()).method,
                std::move(preamble).value());
  if (!prompt_given) return runner.Chat();
  const bool chat =
      !flags.no_conversation && ((*model)->chat_template() != nullptr || flags.conversation ||
                                 !(*model)->chat_template_error().ok());
  return chat ? runner.Ask(*prompt) : runner.Complete(*prompt);
}

}  // namespace

void AddRunCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* run = app.add_subcommand("run", "chat, or answer one prompt");
  AddModelFlags(run, &flags->model);
  AddCacheFlags(run, &flags->cache);
  AddRopeFlags(run, &flags->rope);
  AddDocumentFlags(run, &flags->documents);
  auto* prompt = run->add_option("-p,--prompt", flags->prompt, "prompt; without -p and -f: chat");
  auto* file =
      run->add_option("-f,--file", flags->file, "read the prompt from a file, - for stdin");
  run->add_option("--system-prompt", flags->system, "-sys: system message of the chat");
  run->add_option("-n,--n-predict,--predict", flags->n_predict,
                  "most tokens to answer (-1: no limit)")
      ->capture_default_str()
      ->check(Integer(-2));  // -2 is llama.cpp's "until the context is full", the same here
  run->add_option("--temp", flags->sampler.temperature, "temperature, 0 is greedy")
      ->capture_default_str()
      ->check(Number());
  run->add_option("--top-k", flags->sampler.top_k, "keep the k likeliest (0: off)")
      ->capture_default_str()
      ->check(Integer(0, INT32_MAX));
  run->add_option("--top-p", flags->sampler.top_p, "keep this much probability (1: off)")
      ->capture_default_str()
      ->check(Number());
  run->add_option("--min-p", flags->sampler.min_p, "drop tokens below this share of the best")
      ->capture_default_str()
      ->check(Number());
  run->add_option("--repeat-penalty", flags->sampler.repeat_penalty, "1: off")
      ->capture_default_str()
      ->check(Number());
  run->add_option("--repeat-last-n", flags->sampler.repeat_last_n, "tokens the penalty looks back")
      ->capture_default_str()
      ->check(Integer(-1, INT32_MAX));
  run->add_option("--beams", flags->beams,
                  "beam search over so many lines instead of sampling (0: off); -n -1 means 128")
      ->capture_default_str()
      ->check(Integer(0, 1024));
  run->add_option("--length-penalty", flags->length_penalty,
                  "beams: log-probability is divided by length to this power")
      ->capture_default_str()
      ->check(Number());
  run->add_option("-s,--seed", flags->seed, "random seed (-1: from the system)")
      ->capture_default_str()
      ->check(Integer(-1));
  run->add_option("-r,--reverse-prompt,--stop", flags->stop, "stop at this text (repeatable)");
  run->add_flag("--ignore-eos", flags->ignore_eos, "do not stop at the end token");
  run->add_flag("--no-conversation,--raw", flags->no_conversation,
                "-no-cnv: plain completion, no chat template");
  run->add_flag("--conversation", flags->conversation,
                "-cnv: chat template even if it is doubtful");
  run->add_flag("--context-shift,!--no-context-shift", flags->context_shift,
                "when the context is full, drop the oldest half and go on, without reading again");
  run->add_option("--keep", flags->keep,
                  "first tokens that --context-shift never drops (-1: all of the prompt)")
      ->capture_default_str()
      ->check(Integer(-1));
  run->add_flag("--json", flags->json, "one JSON object instead of streamed text");
  run->add_flag("-q,--quiet", flags->quiet, "no statistics on stderr");
  run->add_option("--flash-attn", flags->flash_attn,
                  "-fa: accepted for llama.cpp's sake; attention is always blockwise")
      ->check(OneOf({"on", "off", "auto", "0", "1"}));
  run->callback([flags, prompt, file, exit_code] {
    *exit_code = Run(*flags, prompt->count() > 0, file->count() > 0);
  });
}

}  // namespace phasor::cli
