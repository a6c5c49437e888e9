// What `phasor run` puts into a session before the prompt: a saved session, and documents read
// through the chunk store.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "cli/command.h"
#include "engine/document_store.h"
#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::cli {

struct DocumentFlags {
  std::vector<std::string> documents;  // text files, in order
  std::string chunk_store;             // folder; empty: DefaultChunkFolder()
  std::string reuse = "exact";         // "exact", "approximate" or "none"
  std::string load_session, save_session;
  std::string prompt_cache;  // both of them: loaded where it exists
};

void AddDocumentFlags(CLI::App* command, DocumentFlags* flags);

// What is wrong with flags that do not go together; empty: nothing.
std::string CheckDocumentFlags(const DocumentFlags& flags);

// "<user's cache folder>/chunks".
std::string DefaultChunkFolder();

struct DocumentLine {
  std::string path;
  DocumentReport report;
};

// What was there before the prompt.
struct Preamble {
  std::vector<DocumentLine> documents;
  // Of a loaded session; both 0 without one.
  int64_t n_loaded_exact = 0, n_loaded_stale = 0;
  // All that the session holds now was loaded.
  void CountLoaded(const Session& session);
};

// Loads and reads; cancelled by Ctrl-C. One warning on stderr for everything the store cannot give
// or keep. Errors name the file.
Result<Preamble> ReadPreamble(const DocumentFlags& flags, Session* session);

// Where the session is to be saved in the end; empty: nowhere.
std::string SavePath(const DocumentFlags& flags);

// {"cached_tokens", "approximate_tokens", "documents"}: exact hits and approximate ones, the tokens
// of a loaded session counted as what they are.
void AddPreambleJson(const Preamble& preamble, nlohmann::json* out);
// A table for stderr, one line a document; empty without documents.
std::string PreambleTable(const Preamble& preamble);

}  // namespace phasor::cli
