#include "cli/run_documents.h"

#include <fmt/format.h>

#include <memory>
#include <span>
#include <utility>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/table.h"
#include "store/chunk_store.h"

namespace phasor::cli {
namespace {

DocumentReuse ParseReuse(const std::string& word) {
  if (word == "none") return DocumentReuse::kNone;
  return word == "approximate" ? DocumentReuse::kApproximate : DocumentReuse::kExact;
}

// BOS where the model asks for it. It is read apart from the documents, so that a document has the
// same tokens wherever it stands.
Status ReadBos(Session* session) {
  if (session->n_tokens() > 0) return Status::Ok();
  const Tokenizer& tokenizer = session->model().tokenizer();
  EncodeOptions encode;
  encode.add_special = true;
  const std::vector<int32_t> some = tokenizer.Encode("a", encode);
  if (some.empty() || some.front() != tokenizer.bos_id()) return Status::Ok();
  return session->Append(std::span(some).subspan(0, 1), {});
}

Status ReadOne(const std::string& path, DocumentReuse reuse, DocumentStore& store, Session* session,
               Preamble* preamble) {
  PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  EncodeOptions encode;
  encode.add_special = false;
  const std::vector<int32_t> tokens = session->model().tokenizer().Encode(text, encode);
  if (tokens.empty()) return InvalidArgument(path + ": expected text, found an empty file");
  std::unique_ptr<ProgressBar> bar;
  ReadDocumentOptions options;
  options.reuse = reuse;
  options.cancel = &InterruptFlag::flag();
  options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("reading", total, "tokens");
    bar->Set(done);
  };
  auto report = store.Read(tokens, options, session);
  if (!report.ok()) return report.status().WithPrefix(path);
  preamble->documents.push_back({path, std::move(report).value()});
  return Status::Ok();
}

}  // namespace

void Preamble::CountLoaded(const Session& session) {
  n_loaded_stale = session.cache_stats().n_stale_tokens;
  n_loaded_exact = session.n_tokens() - n_loaded_stale;
}

std::string CheckDocumentFlags(const DocumentFlags& flags) {
  if (flags.prompt_cache.empty()) return "";
  const bool session = !flags.load_session.empty() || !flags.save_session.empty();
  if (!session && flags.documents.empty()) return "";
  return fmt::format("--prompt-cache: expected no {} beside it, found one",
                     session ? "--load-session or --save-session" : "--document");
}

std::string DefaultChunkFolder() { return UserCacheDir() + "/chunks"; }

void AddDocumentFlags(CLI::App* command, DocumentFlags* f) {
  command
      ->add_option("--document", f->documents,
                   "text file to read before the prompt (repeatable, in order), through the chunk "
                   "store: what it holds is not read again")
      ->allow_extra_args(false);
  command->add_option("--chunk-store", f->chunk_store,
                      "folder of documents read before (default: chunks in the cache folder)");
  command
      ->add_option("--reuse", f->reuse,
                   "exact: a document with the same text before it; approximate: also one with "
                   "another text before it, which its keys and values then remember; none")
      ->check(OneOf({"exact", "approximate", "none"}))
      ->capture_default_str();
  command->add_option("--load-session", f->load_session, "go on after the text of a saved session");
  command->add_option("--save-session", f->save_session, "save the session here in the end");
  command->add_option("--prompt-cache", f->prompt_cache,
                      "load this session where it exists, read what of the prompt it does not "
                      "hold, and save it in the end");
}

Result<Preamble> ReadPreamble(const DocumentFlags& flags, Session* session) {
  Preamble preamble;
  const std::string& cache = flags.prompt_cache;
  const std::string load = !cache.empty() && FileExists(cache) ? cache : flags.load_session;
  if (!load.empty()) {
    PHASOR_RETURN_IF_ERROR(session->Load(load));
    preamble.CountLoaded(*session);
  }
  if (flags.documents.empty()) return preamble;
  const DocumentReuse reuse = ParseReuse(flags.reuse);
  ChunkStoreOptions chunk_options;
  if (reuse != DocumentReuse::kNone) {
    chunk_options.folder = flags.chunk_store.empty() ? DefaultChunkFolder() : flags.chunk_store;
  }
  PHASOR_ASSIGN_OR_RETURN(std::shared_ptr<ChunkStore> chunks, ChunkStore::Open(chunk_options));
  DocumentStoreOptions options;
  options.max_shared_bytes = 0;  // one session
  options.on_warning = [](const Status& s) {
    fmt::print(stderr, "phasor: warning: {}\n", OneLine(s.message()));
  };
  DocumentStore store(std::move(chunks), std::move(options));
  PHASOR_RETURN_IF_ERROR(ReadBos(session));
  for (const std::string& path : flags.documents) {
    PHASOR_RETURN_IF_ERROR(ReadOne(path, reuse, store, session, &preamble));
  }
  session->ResetTimings();  // the prompt's own
  return preamble;
}

std::string SavePath(const DocumentFlags& flags) {
  return flags.prompt_cache.empty() ? flags.save_session : flags.prompt_cache;
}

void AddPreambleJson(const Preamble& preamble, nlohmann::json* out) {
  int64_t n_cached = preamble.n_loaded_exact, n_approximate = preamble.n_loaded_stale;
  nlohmann::json documents = nlohmann::json::array();
  for (const DocumentLine& d : preamble.documents) {
    const DocumentReport& r = d.report;
    if (r.source == DocumentSource::kExact) n_cached += r.n_tokens;
    if (r.source == DocumentSource::kApproximate) n_approximate += r.n_tokens;
    documents.push_back({{"document", d.path},
                         {"source", DocumentSourceName(r.source)},
                         {"n_tokens", r.n_tokens},
                         {"ms", r.milliseconds},
                         {"bytes", r.bytes},
                         {"chunk", r.name}});
  }
  (*out)["cached_tokens"] = n_cached;
  (*out)["approximate_tokens"] = n_approximate;
  (*out)["documents"] = std::move(documents);
}

std::string PreambleTable(const Preamble& preamble) {
  if (preamble.documents.empty()) return "";
  using Align = Table::Align;
  Table table({{"document", Align::kLeft},
               {"source", Align::kLeft},
               {"tokens", Align::kRight},
               {"ms", Align::kRight},
               {"stored", Align::kRight}});
  for (const DocumentLine& d : preamble.documents) {
    table.AddRow({OneLine(d.path), DocumentSourceName(d.report.source),
                  fmt::format("{}", d.report.n_tokens),
                  fmt::format("{:.1f}", d.report.milliseconds),
                  HumanBytes(static_cast<double>(d.report.bytes))});
  }
  return table.Render(Table::Format::kPlain);
}

}  // namespace phasor::cli
