// phasor edit: a saved session as a document. Reads a text once, then cuts, moves and rewrites it
// without reading it again.
#include <fmt/format.h>

#include <charconv>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/table.h"
#include "cache/kv_cache.h"
#include "cli/command.h"
#include "cli/edit_operation.h"
#include "cli/rope_flags.h"
#include "engine/rewrite.h"
#include "engine/session_fingerprint.h"
#include "store/span_file.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

struct EditFlags {
  ModelFlags model;
  CacheFlags cache;
  RopeFlags rope;
  std::string session, output, read, text, prompt, show;
  std::vector<std::string> operations;
  double recompute = 0;
  int64_t n_predict = 64;
  SamplerOptions sampler;
  bool ledger = false, json = false, quiet = false;
};

// What happened, a line an operation.
struct Done {
  std::string operation;
  int64_t n_read = 0, n_reused_exact = 0, n_reused_stale = 0, n_tokens = 0;
  double milliseconds = 0;
};

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

// The types that the file was saved with, as -ctk and -ctv take them.
Status TakeTypes(const SpanFingerprint& print, CacheFlags* flags) {
  flags->type_k.clear();
  flags->type_v.clear();
  for (const SpanLayerCodecs& layer : print.layers) {
    flags->type_k += (flags->type_k.empty() ? "" : ",") + TypesOfLayer(layer.key_codec);
    flags->type_v += (flags->type_v.empty() ? "" : ",") + TypesOfLayer(layer.value_codec);
  }
  return Status::Ok();
}

class Editor {
 public:
  Editor(const EditFlags& flags, Session& session) : flags_(flags), session_(session) {}

  Status Open(bool exists) {
    const auto start = std::chrono::steady_clock::now();
    if (exists && flags_.read.empty()) {
      PHASOR_RETURN_IF_ERROR(Load());
      Record("open " + flags_.session, 0, session_.n_tokens(), 0, MillisecondsSince(start));
      return Status::Ok();
    }
    if (flags_.read.empty()) {
      return NotFound("edit: expected a saved session at " + flags_.session +
                      ", found none; --read FILE makes one from a text");
    }
    PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadText(flags_.read));
    AppendOptions append;
    append.cancel = &InterruptFlag::flag();
    std::unique_ptr<ProgressBar> bar;
    append.on_progress = [&](int64_t done, int64_t total) {
      if (bar == nullptr) bar = std::make_unique<ProgressBar>("reading", total, "tokens");
      bar->Set(done);
    };
    const std::vector<int32_t> tokens = Encode(text, /*whole=*/true);
    if (tokens.empty()) return InvalidArgument("edit: --read: expected text, found an empty file");
    PHASOR_RETURN_IF_ERROR(session_.Append(tokens, append));
    Record("read " + flags_.read, session_.n_tokens(), 0, 0, MillisecondsSince(start));
    return Status::Ok();
  }

  Status Apply() {
    for (const std::string& text : flags_.operations) {
      PHASOR_ASSIGN_OR_RETURN(const EditOperation op, ParseEditOperation(text));
      PHASOR_RETURN_IF_ERROR(Run(op, text).WithPrefix("edit: " + text));
    }
    if (!flags_.text.empty()) {
      PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadText(flags_.text));
      PHASOR_RETURN_IF_ERROR(Rewrite(text, "text " + flags_.text));
    }
    return Status::Ok();
  }

  Result<std::string> Answer() {
    PHASOR_RETURN_IF_ERROR(session_.Append(Encode(flags_.prompt, /*whole=*/false), {}));
    GenerateOptions options;
    options.max_tokens = flags_.n_predict;
    options.sampler = flags_.sampler;
    options.cancel = &InterruptFlag::flag();
    PHASOR_ASSIGN_OR_RETURN(GenerateResult result,
                            session_.Generate(options, [&](std::string_view piece) {
                              if (flags_.json) return;
                              std::fwrite(piece.data(), 1, piece.size(), stdout);
                              std::fflush(stdout);
                            }));
    if (!flags_.json) fmt::print("\n");
    return std::move(result.text);
  }

  void PrintTables() const {
    using Align = Table::Align;
    Table table({{"operation", Align::kLeft},
                 {"read", Align::kRight},
                 {"reused, exact", Align::kRight},
                 {"reused, approximate", Align::kRight},
                 {"tokens", Align::kRight},
                 {"ms", Align::kRight}});
    for (const Done& d : done_) {
      table.AddRow({OneLine(d.operation), fmt::format("{}", d.n_read),
                    fmt::format("{}", d.n_reused_exact), fmt::format("{}", d.n_reused_stale),
                    fmt::format("{}", d.n_tokens), fmt::format("{:.1f}", d.milliseconds)});
    }
    if (!flags_.quiet) fmt::print(stderr, "{}", table.Render(Table::Format::kPlain));
    if (!flags_.ledger) return;
    Table ledger({{"tokens", Align::kLeft},
                  {"in", Align::kLeft},
                  {"block", Align::kRight},
                  {"rows", Align::kLeft},
                  {"read at", Align::kRight},
                  {"stands at", Align::kRight},
                  {"shift", Align::kRight},
                  {"marks", Align::kLeft}});
    for (const Json& p : Ledger()) {
      const int64_t first = p["first_token"], n = p["n_tokens"], row = p["first_row"];
      ledger.AddRow({fmt::format("{}:{}", first, first + n), p["in"].get<std::string>(),
                     fmt::format("{}", p["block"].get<int>()), fmt::format("{}:{}", row, row + n),
                     fmt::format("{:g}", p["read_at"].get<double>()),
                     fmt::format("{:g}", p["stands_at"].get<double>()),
                     fmt::format("{:+g}", p["shift"].get<double>()),
                     p["marks"].get<std::string>()});
    }
    fmt::print("{}", ledger.Render(Table::Format::kMarkdown));
  }

  void PrintJson(const std::string& answer) const {
    const CacheStats stats = session_.cache_stats();
    Json j = {{"session", flags_.session},
              {"n_tokens", stats.n_tokens},
              {"n_stale_tokens", stats.n_stale_tokens},
              {"cache_bytes", stats.used_bytes},
              {"operations", Json::array()}};
    for (const Done& d : done_) {
      j["operations"].push_back({{"operation", d.operation},
                                 {"n_read", d.n_read},
                                 {"cached_tokens", d.n_reused_exact},
                                 {"approximate_tokens", d.n_reused_stale},
                                 {"n_tokens", d.n_tokens},
                                 {"ms", d.milliseconds}});
    }
    if (flags_.ledger) j["ledger"] = Ledger();
    if (!flags_.prompt.empty()) j["text"] = answer;
    fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  }

  // Tokens [begin, end) as text, one a line with its place.
  Status Show(const std::string& range) const {
    PHASOR_ASSIGN_OR_RETURN(const TokenRange r, ParseTokenRange(range, session_.n_tokens()));
    for (int64_t i = r.begin; i < r.end; ++i) {
      const int32_t id = session_.tokens()[i];
      fmt::print("{:8} {:8} {}\n", i, id,
                 OneLine(session_.model().tokenizer().TokenBytes(id, true)));
    }
    return Status::Ok();
  }

 private:
  Status Load() {
    Status status = session_.Load(flags_.session);
    if (status.ok()) return status;
    // The schedule is not taken from the file: it may hold several, and settings of one are no part
    // of the format.
    const auto info = ReadSpanFileInfo(flags_.session);
    if (!info.ok() ||
        info->header.fingerprint.rope_schedule == SessionFingerprint(session_).rope_schedule) {
      return status;
    }
    return Status(status.code(), status.message() + "; give the --rope flags it was made with");
  }

  static Result<std::string> ReadText(const std::string& path) {
    if (path != "-") return ReadFile(path);
    return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }

  std::vector<int32_t> Encode(const std::string& text, bool whole) const {
    EncodeOptions options;
    options.add_special = whole;
    return session_.model().tokenizer().Encode(text, options);
  }

  void Record(std::string operation, int64_t n_read, int64_t exact, int64_t stale, double ms) {
    done_.push_back({std::move(operation), n_read, exact, stale, session_.n_tokens(), ms});
  }

  ReplaceOptions Options() const {
    ReplaceOptions options;
    options.recompute = flags_.recompute;
    options.cancel = &InterruptFlag::flag();
    return options;
  }

  Status Rewrite(const std::string& text, const std::string& name) {
    PHASOR_ASSIGN_OR_RETURN(const RewriteReport r,
                            RewriteText(session_, Encode(text, /*whole=*/true), Options()));
    Record(fmt::format("{} ({} changes)", name, r.n_hunks), r.n_read, r.n_reused_exact,
           r.n_reused_stale, r.milliseconds);
    return Status::Ok();
  }

  // Every occurrence of one text becomes another; what differs is read.
  Status Substitute(const EditOperation& op, const std::string& name) {
    std::string text = session_.model().tokenizer().Decode(session_.tokens(), false);
    std::size_t n = 0;
    for (std::size_t at = 0; (at = text.find(op.text, at)) != std::string::npos; ++n) {
      text.replace(at, op.text.size(), op.new_text);
      at += op.new_text.size();
    }
    if (n == 0)
      return NotFound("expected \"" + OneLine(op.text) + "\" in the text, found it nowhere");
    return Rewrite(text, name);
  }

  Status Run(const EditOperation& op, const std::string& name) {
    using Kind = EditOperation::Kind;
    const auto start = std::chrono::steady_clock::now();
    const int64_t begin = op.range.begin, end = op.range.EndIn(session_.n_tokens());
    if (op.kind == Kind::kSubstitute) return Substitute(op, name);
    if (op.kind == Kind::kReplace || op.kind == Kind::kInsert) {
      PHASOR_ASSIGN_OR_RETURN(
          const ReplaceReport r,
          session_.Replace(begin, end, Encode(op.text, /*whole=*/false), Options()));
      Record(name, r.n_read, begin, r.n_reused, r.milliseconds);
      return Status::Ok();
    }
    Status status;
    int64_t exact = begin;
    if (op.kind == Kind::kErase) status = session_.Erase(begin, end);
    if (op.kind == Kind::kMove) status = session_.Move(begin, end, op.to);
    if (op.kind == Kind::kCopy) status = session_.Copy(begin, end, op.to);
    if (op.kind == Kind::kTruncate) status = session_.Truncate(begin);
    if (op.kind == Kind::kPin) status = session_.Pin(begin, end, true);
    if (op.kind == Kind::kUnpin) status = session_.Pin(begin, end, false);
    PHASOR_RETURN_IF_ERROR(status);
    if (op.kind == Kind::kMove) exact = std::min(begin, op.to);
    if (op.kind == Kind::kCopy) exact = op.to;
    if (op.kind == Kind::kPin || op.kind == Kind::kUnpin) exact = session_.n_tokens();
    exact = std::min(exact, session_.n_tokens());
    Record(name, 0, exact, session_.n_tokens() - exact, MillisecondsSince(start));
    return Status::Ok();
  }

  Json Ledger() const {
    Json out = Json::array();
    const KvCache& cache = session_.cache();
    int64_t token = 0;
    for (const KvPiece& p : cache.pieces()) {
      const double at = static_cast<double>(cache.store()->positions(p.kind, p.block)[p.first_row]);
      const auto shift = static_cast<double>(p.view.shift);
      std::string marks;
      for (const auto& [set, word] :
           {std::pair{p.sink, "sink"}, {p.pinned, "pinned"}, {p.stale, "approximate"}}) {
        if (set) marks += (marks.empty() ? "" : " ") + std::string(word);
      }
      out.push_back({{"first_token", token},
                     {"n_tokens", p.n_rows},
                     {"in", p.kind == KvBlockKind::kRows ? "rows" : "codes"},
                     {"block", p.block},
                     {"first_row", p.first_row},
                     {"read_at", at / kTicksPerPosition},
                     {"stands_at", (at + shift) / kTicksPerPosition},
                     {"shift", shift / kTicksPerPosition},
                     {"schedule", p.view.schedule},
                     {"marks", marks}});
      token += p.n_rows;
    }
    return out;
  }

  const EditFlags& flags_;
  Session& session_;
  std::vector<Done> done_;
};

int Edit(EditFlags& flags, bool types_given) {
  if (!flags.read.empty() && FileExists(flags.session) && flags.output.empty()) {
    return UsageError("edit: --read: " + flags.session +
                      " exists; expected another name, or -o for what is made");
  }
  for (const std::string& op : flags.operations) {
    if (auto parsed = ParseEditOperation(op); !parsed.ok()) {
      return UsageError(parsed.status().message());
    }
  }
  const bool exists = FileExists(flags.session);
  if (exists && flags.read.empty()) {
    auto info = ReadSpanFileInfo(flags.session);
    if (!info.ok()) return Fail(info.status());
    if (!types_given) {
      if (Status s = TakeTypes(info->header.fingerprint, &flags.cache); !s.ok()) return Fail(s);
    }
  }
  auto model = LoadModel(flags.model);
  if (!model.ok()) return Fail(model.status());
  auto options = ToSessionOptions(flags.cache, flags.rope, (*model)->config());
  if (!options.ok()) return Fail(options.status());
  auto session = Session::Create(**model, *options);
  if (!session.ok()) return Fail(session.status());
  if (std::string note = RopeNotice(flags.rope); !note.empty()) fmt::print(stderr, "{}\n", note);
  InterruptFlag::Install();
  Editor editor(flags, **session);
  if (Status s = editor.Open(exists); !s.ok()) return Fail(s);
  if (Status s = editor.Apply(); !s.ok()) return Fail(s);
  // Saved before the answer, which is not part of the document.
  const bool changed = !flags.read.empty() || !flags.operations.empty() || !flags.text.empty();
  const std::string target = flags.output.empty() ? flags.session : flags.output;
  if (changed || !flags.output.empty()) {
    if (Status s = (*session)->Save(target); !s.ok()) return Fail(s);
  }
  if (!flags.show.empty()) {
    if (Status s = editor.Show(flags.show); !s.ok()) return Fail(s);
  }
  std::string answer;
  if (!flags.prompt.empty()) {
    auto result = editor.Answer();
    if (!result.ok()) return Fail(result.status());
    answer = std::move(result).value();
  }
  if (flags.json) {
    editor.PrintJson(answer);
  } else {
    editor.PrintTables();
  }
  return 0;
}

}  // namespace

void AddEditSessionCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<EditFlags>();
  f->sampler.temperature = 0;
  CLI::App* c = app.add_subcommand(
      "edit", "edit a saved session: read a text once, then cut, move and rewrite it");
  AddModelFlags(c, &f->model, /*positional=*/false);
  AddCacheFlags(c, &f->cache);
  AddRopeFlags(c, &f->rope);
  c->add_option("session", f->session, "the saved session")->required();
  c->add_option("--read", f->read, "make the session from this text file (- for stdin)");
  c->add_option("--text", f->text,
                "make the session hold this text file (- for stdin): what changed is read");
  c->add_option(
       "-e,--edit", f->operations,
       "in order, tokens counted from 0: \"erase A:B\", \"move A:B TO\", \"copy A:B TO\", \"insert "
       "AT "
       "TEXT\", \"replace A:B TEXT\", \"sub OLD => NEW\" (every OLD of the text), \"truncate N\", "
       "\"pin A:B\", \"unpin A:B\"")
      ->allow_extra_args(false);
  c->add_option("--recompute", f->recompute,
                "share of the text behind a change that is read again with it (0 to 1)")
      ->check(Number(0, 1))
      ->capture_default_str();
  c->add_option("-o,--output", f->output, "save here instead of in place");
  c->add_option("-p,--prompt", f->prompt, "after the edits: append this and answer (not saved)");
  c->add_option("-n,--n-predict", f->n_predict, "most tokens to answer")
      ->capture_default_str()
      ->check(Integer(-1));
  c->add_option("--temp", f->sampler.temperature, "temperature of the answer, 0 is greedy")
      ->capture_default_str()
      ->check(Number());
  c->add_option("--show", f->show, "print tokens A:B with their places");
  c->add_flag("--ledger", f->ledger, "print where every piece of the text is and where it stands");
  c->add_flag("--json", f->json, "one JSON object");
  c->add_flag("-q,--quiet", f->quiet, "no table of what was done");
  c->callback([f, c, exit_code] {
    const bool types = c->count("--cache-type-k") + c->count("--cache-type-v") > 0;
    *exit_code = Edit(*f, types);
  });
}

}  // namespace phasor::cli
