// phasor chunks: what the chunk store holds, whether it is whole, and what may go.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file.h"
#include "base/table.h"
#include "cli/command.h"
#include "cli/run_documents.h"
#include "store/chunk_store.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ChunksFlags {
  std::string action = "list", argument, folder;
  bool json = false;
};

// An entry and what its header says, or why it cannot be used.
struct Row {
  ChunkEntry entry;
  std::optional<SpanHeader> header;
  Status status;
};

// "2G", "500M", "64K" and plain bytes, in powers of 1024.
Result<uint64_t> ParseSize(const std::string& text) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  int shift = 0;
  if (stop + 1 == end) {
    const std::size_t unit = std::string("KMGT").find(*stop);
    if (unit != std::string::npos) shift = 10 * static_cast<int>(unit + 1);
  }
  const bool good =
      error == std::errc() && (stop == end || shift > 0) && value <= (UINT64_MAX >> shift);
  if (good) return value << shift;
  return InvalidArgument("expected a size such as 500M or 2G, found " +
                         (text.empty() ? "none" : text));
}

std::string Types(const SpanFingerprint& f) {
  std::string types;
  for (const SpanLayerCodecs& layer : f.layers) {
    const std::string type = layer.key_codec + ":" + layer.value_codec;
    if (types.empty()) types = type;
    if (types != type) return types + ", ...";  // others in later layers
  }
  return types;
}

std::string Utc(int64_t ns) {
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm utc{};
  char text[32] = "";
  if (gmtime_r(&seconds, &utc) != nullptr) {
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  }
  return text;
}

// Most recently used first. `verify`: the whole of every entry is read.
Result<std::vector<Row>> Look(const ChunkStore& store, const std::string& folder, bool verify) {
  PHASOR_ASSIGN_OR_RETURN(const std::vector<ChunkEntry> entries, store.List());
  std::vector<Row> rows;
  for (const ChunkEntry& entry : entries) {
    Row row{entry, {}, {}};
    auto info = ReadSpanFileInfo(folder + "/" + entry.name + ".span");
    if (!info.ok() && info.status().code() == StatusCode::kNotFound) continue;  // evicted by now
    if (info.ok()) {
      row.header = std::move(info->header);
    } else {
      row.status = info.status();
    }
    if (row.status.ok() && verify) row.status = store.Verify(entry.name);
    rows.push_back(std::move(row));
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return a.entry.last_used_ns > b.entry.last_used_ns;
  });
  return rows;
}

void PrintJson(const std::vector<Row>& rows, const std::string& folder, bool verified) {
  Json j = {{"chunk_store", folder}, {"bytes", uint64_t{0}}, {"chunks", Json::array()}};
  uint64_t bytes = 0;
  for (const Row& row : rows) {
    bytes += row.entry.bytes;
    Json c = {{"name", row.entry.name},
              {"bytes", row.entry.bytes},
              {"last_used", Utc(row.entry.last_used_ns)},
              {"pinned", row.entry.pinned}};
    if (row.header.has_value()) {
      c["n_tokens"] = row.header->tokens.size();
      c["left_context"] =
          row.header->left_context.known ? Json(row.header->left_context.n_tokens) : Json(nullptr);
      c["model_hash"] = row.header->fingerprint.model_hash;
      c["cache_types"] = Types(row.header->fingerprint);
    }
    if (verified || !row.status.ok()) c["whole"] = row.status.ok();
    if (!row.status.ok()) c["error"] = row.status.message();
    j["chunks"].push_back(std::move(c));
  }
  j["bytes"] = bytes;
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

void PrintTable(const std::vector<Row>& rows, const std::string& folder, bool verified) {
  using Align = Table::Align;
  Table table({{"name", Align::kLeft},
               {"tokens", Align::kRight},
               {"after", Align::kRight},
               {"size", Align::kRight},
               {"types", Align::kLeft},
               {"model", Align::kLeft},
               {"last used", Align::kLeft},
               {"marks", Align::kLeft}});
  uint64_t bytes = 0;
  for (const Row& row : rows) {
    bytes += row.entry.bytes;
    std::string marks = row.entry.pinned ? "pinned" : "";
    const std::string state = row.status.ok() ? (verified ? "whole" : "") : "damaged";
    if (!state.empty()) marks += (marks.empty() ? "" : " ") + state;
    std::string tokens, after, types, model;
    if (row.header.has_value()) {
      const SpanContext& left = row.header->left_context;
      tokens = fmt::format("{}", row.header->tokens.size());
      after = left.known ? fmt::format("{}", left.n_tokens) : "?";
      types = OneLine(Types(row.header->fingerprint));
      model = OneLine(row.header->fingerprint.model_hash.substr(0, 8));
    }
    table.AddRow({row.entry.name, tokens, after, HumanBytes(static_cast<double>(row.entry.bytes)),
                  types, model, Utc(row.entry.last_used_ns), marks});
  }
  fmt::print("{}\n{} in {} chunks, {}\n", table.Render(Table::Format::kPlain),
             HumanBytes(static_cast<double>(bytes)), rows.size(), OneLine(folder));
}

// list and verify. Damaged entries make verify fail, with the first of them in the message.
int ListOrVerify(const ChunksFlags& flags, const ChunkStore& store) {
  const bool verify = flags.action == "verify";
  auto rows = Look(store, flags.folder, verify);
  if (!rows.ok()) return Fail(rows.status());
  flags.json ? PrintJson(*rows, flags.folder, verify) : PrintTable(*rows, flags.folder, verify);
  const auto damaged = [](const Row& row) { return !row.status.ok(); };
  const auto n_damaged = std::count_if(rows->begin(), rows->end(), damaged);
  if (!verify || n_damaged == 0) return 0;
  std::fflush(stdout);
  const auto first = std::find_if(rows->begin(), rows->end(), damaged);
  return Fail(DataCorrupt(fmt::format("chunks: expected whole entries, found {} damaged of {}: {}",
                                      n_damaged, rows->size(), first->status.message())));
}

Status Change(const ChunksFlags& flags, ChunkStore& store) {
  const std::string& name = flags.argument;
  if (flags.action == "remove") return store.Remove(name);
  if (flags.action == "pin") return store.Pin(name);
  if (flags.action == "unpin") return store.Unpin(name);
  PHASOR_ASSIGN_OR_RETURN(const uint64_t max_bytes, ParseSize(flags.argument));
  return store.Prune(max_bytes);
}

int Chunks(ChunksFlags& flags) {
  const bool lists = flags.action == "list" || flags.action == "verify";
  if (lists != flags.argument.empty()) {
    return UsageError(fmt::format("chunks {}: expected {}, found {}", flags.action,
                                  lists                     ? "no name"
                                  : flags.action == "prune" ? "a size such as 500M or 2G"
                                                            : "the name of an entry",
                                  lists ? flags.argument : "none"));
  }
  if (flags.action == "prune") {
    if (auto size = ParseSize(flags.argument); !size.ok()) {
      return UsageError("chunks prune: " + size.status().message());
    }
  }
  const bool given = !flags.folder.empty();
  if (!given) flags.folder = DefaultChunkFolder();
  // Looking must not make a folder out of a name typed wrong.
  if (given && !IsDirectory(flags.folder)) {
    return Fail(NotFound("chunks: expected a folder at " + flags.folder + ", found none"));
  }
  auto store = ChunkStore::Open({.folder = flags.folder});
  if (!store.ok()) return Fail(store.status());
  if (lists) return ListOrVerify(flags, **store);
  const auto bytes = [&] {
    uint64_t sum = 0;
    if (auto entries = (*store)->List(); entries.ok()) {
      for (const ChunkEntry& e : *entries) sum += e.bytes;
    }
    return sum;
  };
  const uint64_t before = bytes();
  if (Status s = Change(flags, **store); !s.ok()) return Fail(s);
  const uint64_t after = bytes();
  if (flags.json) {
    fmt::print("{}\n", Json({{"chunk_store", flags.folder},
                             {"action", flags.action},
                             {"argument", flags.argument},
                             {"bytes", after},
                             {"bytes_before", before}})
                           .dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{} {}: {} left of {}\n", flags.action, OneLine(flags.argument),
               HumanBytes(static_cast<double>(after)), HumanBytes(static_cast<double>(before)));
  }
  return 0;
}

}  // namespace

void AddChunksCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<ChunksFlags>();
  CLI::App* c = app.add_subcommand(
      "chunks", "the documents that `phasor run --document` has read: list, check, remove, pin");
  c->add_option("action", f->action,
                "list; verify (reads every entry); remove NAME; prune SIZE (evicts what was least "
                "recently used); pin NAME (never evicted); unpin NAME")
      ->check(OneOf({"list", "verify", "remove", "prune", "pin", "unpin"}))
      ->capture_default_str();
  c->add_option("argument", f->argument, "name of an entry, or a size: bytes, 500M, 2G");
  c->add_option("--chunk-store", f->folder, "folder (default: chunks in the cache folder)");
  c->add_flag("--json", f->json, "one JSON object");
  c->callback([f, exit_code] { *exit_code = Chunks(*f); });
}

}  // namespace phasor::cli
