#include "store/chunk_store.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "formats/printable.h"
#include "store/span_header.h"

namespace phasor {
namespace {

std::vector<int64_t> Distances(const SpanHeader& header) {
  std::vector<int64_t> positions = SpanPositions(header);
  const int64_t first = positions.empty() ? 0 : positions.front();
  for (int64_t& p : positions) p -= first;  // |p| <= 2^62: the difference fits
  return positions;
}

std::vector<int64_t> Distances(const ChunkQuery& query) {
  if (!query.distances.empty()) return {query.distances.begin(), query.distances.end()};
  std::vector<int64_t> distances(query.tokens.size());
  for (std::size_t i = 0; i < distances.size(); ++i) {
    distances[i] = static_cast<int64_t>(i) * kPositionOne;
  }
  return distances;
}

ChunkKey MakeKey(const SpanFingerprint& fingerprint, std::span<const int32_t> tokens,
                 std::span<const int64_t> distances, const SpanContext& left_context) {
  std::vector<std::byte> fingerprint_bytes;
  AppendFingerprint(fingerprint, &fingerprint_bytes);
  const auto add_content = [&](Hasher128& hasher) {
    hasher.AddBytes(fingerprint_bytes);
    hasher.AddBytes(std::as_bytes(tokens));
    hasher.AddBytes(std::as_bytes(distances));
  };
  ChunkKey key;
  Hasher128 content;
  content.AddString("phasor chunk content");
  add_content(content);
  key.content = content.Finish();
  if (left_context.known) {
    Hasher128 context;
    context.AddString("phasor chunk context");
    add_content(context);
    context.AddNumber(left_context.n_tokens);
    context.AddBytes(std::as_bytes(std::span(left_context.hash.bytes)));
    key.context = context.Finish();
  }
  return key;
}

// The entry is the span that its name stands for.
Status CheckName(const SpanFile& span, const std::string& name) {
  const std::string found = KeyOf(span.header()).Name();
  if (found == name) return Status::Ok();
  return DataCorrupt(span.name() + ": expected the span of its name, found that of " + found);
}

// The entry holds what was asked for, whatever the hashes say.
Status CheckContent(const SpanFile& span, const ChunkQuery& query) {
  PHASOR_RETURN_IF_ERROR(span.CheckFits(*query.fingerprint));
  const SpanHeader& header = span.header();
  if (std::ranges::equal(header.tokens, query.tokens) && Distances(header) == Distances(query)) {
    return Status::Ok();
  }
  return DataCorrupt(span.name() + ": expected the tokens asked for, found others of equal hash");
}

Status NoEntry(const std::string& name) {
  return NotFound("chunk store: expected an entry " + Printable(name) + ", found none");
}

}  // namespace

ChunkKey KeyOf(const ChunkQuery& query) {
  PHASOR_CHECK(query.fingerprint != nullptr);
  return MakeKey(*query.fingerprint, query.tokens, Distances(query), query.left_context);
}

ChunkKey KeyOf(const SpanHeader& header) {
  return MakeKey(header.fingerprint, header.tokens, Distances(header), header.left_context);
}

Result<std::unique_ptr<ChunkStore>> ChunkStore::Open(const ChunkStoreOptions& options) {
  std::unique_ptr<ChunkStore> store(new ChunkStore(options));
  if (!options.folder.empty()) {
    PHASOR_ASSIGN_OR_RETURN(ChunkFolder folder, ChunkFolder::Open(options.folder));
    store->folder_.emplace(std::move(folder));
  }
  return store;
}

std::shared_ptr<const SpanFile> ChunkStore::FindResident(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto it = resident_.find(name);
  if (it == resident_.end()) return nullptr;
  it->second.last_used = ++n_uses_;
  return it->second.span;
}

void ChunkStore::KeepResident(const std::string& name, std::shared_ptr<const SpanFile> span) {
  {
    const std::lock_guard lock(mutex_);
    Resident& resident = resident_[name];
    resident.span = std::move(span);
    resident.last_used = ++n_uses_;
  }
  // On disk an entry too large to be kept open is opened anew each time.
  (void)EvictResident(options_.max_memory_bytes, folder_ ? "" : name);
}

Status ChunkStore::EvictResident(uint64_t max_bytes, const std::string& keep) {
  const std::lock_guard lock(mutex_);
  uint64_t total = 0;
  for (const auto& [name, r] : resident_) total += r.span->size_bytes();
  while (total > max_bytes) {
    auto oldest = resident_.end();
    for (auto it = resident_.begin(); it != resident_.end(); ++it) {
      if (it->second.pinned || it->first == keep) continue;
      if (oldest == resident_.end() || it->second.last_used < oldest->second.last_used) oldest = it;
    }
    if (oldest == resident_.end()) {
      return ResourceExhausted("chunk store: expected at most " + std::to_string(max_bytes) +
                               " bytes in memory, found " + std::to_string(total) + " pinned");
    }
    total -= oldest->second.span->size_bytes();
    resident_.erase(oldest);
  }
  return Status::Ok();
}

Result<std::shared_ptr<const SpanFile>> ChunkStore::OpenEntry(const std::string& name) {
  if (!IsChunkName(name)) return NoEntry(name);
  std::shared_ptr<const SpanFile> span = FindResident(name);
  if (span == nullptr) {
    if (!folder_) return NoEntry(name);
    auto opened = SpanFile::Open(folder_->PathOf(name));
    if (!opened.ok() && opened.status().code() == StatusCode::kNotFound) return NoEntry(name);
    if (!opened.ok()) return opened.status();
    PHASOR_RETURN_IF_ERROR(CheckName(**opened, name));
    span = std::move(opened).value();
    KeepResident(name, span);
  }
  if (folder_) folder_->Touch(name);
  return span;
}

Status ChunkStore::CheckBudget(uint64_t new_bytes, const std::string& name) const {
  const uint64_t budget = folder_ ? options_.max_disk_bytes : options_.max_memory_bytes;
  PHASOR_ASSIGN_OR_RETURN(const std::vector<ChunkEntry> entries, List());
  uint64_t pinned_bytes = 0;
  for (const ChunkEntry& e : entries) pinned_bytes += e.pinned && e.name != name ? e.bytes : 0;
  if (pinned_bytes <= budget && new_bytes <= budget - pinned_bytes) return Status::Ok();
  return ResourceExhausted("chunk store: expected at most " + std::to_string(budget) +
                           " bytes, found " + std::to_string(new_bytes) + " for a new entry and " +
                           std::to_string(pinned_bytes) + " that are pinned");
}

Status ChunkStore::PutInMemory(const std::string& name, const SpanSource& source) {
  PHASOR_ASSIGN_OR_RETURN(AlignedBuffer<std::byte> image, SpanImage(source));
  PHASOR_ASSIGN_OR_RETURN(std::shared_ptr<const SpanFile> span,
                          SpanFile::FromImage(std::move(image), name));
  KeepResident(name, std::move(span));
  return Status::Ok();
}

Status ChunkStore::PutOnDisk(const std::string& name, const SpanSource& source) {
  PHASOR_RETURN_IF_ERROR(WriteSpanFile(folder_->PathOf(name), source));
  folder_->Touch(name);
  // Others may have pinned more in the meantime; the entry is safe all the same.
  auto evicted = folder_->Evict(options_.max_disk_bytes, name);
  if (!evicted.ok() && evicted.status().code() != StatusCode::kResourceExhausted) {
    return evicted.status();
  }
  return Status::Ok();
}

Result<std::string> ChunkStore::Put(const SpanSource& source) {
  const SpanHeader& header = source.header();
  PHASOR_RETURN_IF_ERROR(ValidateSpanHeader(header, "span"));
  const std::string name = KeyOf(header).Name();
  if (Verify(name).ok()) {
    // Counts as a use. It may be evicted right here, and then is written again.
    if (OpenEntry(name).ok() && (!folder_ || FileExists(folder_->PathOf(name)))) return name;
  }
  PHASOR_RETURN_IF_ERROR(CheckBudget(SpanFileBytes(header), name));
  PHASOR_RETURN_IF_ERROR(folder_ ? PutOnDisk(name, source) : PutInMemory(name, source));
  return name;
}

// Most recently used first.
Result<std::vector<ChunkEntry>> ChunkStore::ListByContent(const Hash128& content) const {
  const std::string prefix = content.Hex() + "-";
  PHASOR_ASSIGN_OR_RETURN(std::vector<ChunkEntry> entries,
                          folder_ ? folder_->List(prefix) : List());
  std::erase_if(entries, [&](const ChunkEntry& e) { return !e.name.starts_with(prefix); });
  std::sort(entries.begin(), entries.end(), [](const ChunkEntry& a, const ChunkEntry& b) {
    return std::tie(b.last_used_ns, a.name) < std::tie(a.last_used_ns, b.name);
  });
  return entries;
}

Result<ChunkHit> ChunkStore::FindApproximate(const ChunkQuery& query, const ChunkKey& key) {
  PHASOR_ASSIGN_OR_RETURN(const std::vector<ChunkEntry> entries, ListByContent(key.content));
  for (const ChunkEntry& entry : entries) {
    const std::string& name = entry.name;
    // The exact entry may appear after it was looked for; it is not an approximate one.
    if (query.left_context.known && name == key.Name()) continue;
    auto span = OpenEntry(name);
    if (!span.ok() && span.status().code() == StatusCode::kNotFound) continue;  // evicted by now
    if (!span.ok()) return span.status();
    PHASOR_RETURN_IF_ERROR(CheckContent(**span, query));
    return ChunkHit{ChunkMatch::kApproximate, name, std::move(span).value()};
  }
  return NotFound("chunk store: expected an entry with these " +
                  std::to_string(query.tokens.size()) + " tokens, found none (" +
                  key.content.Hex() + ")");
}

Result<ChunkHit> ChunkStore::Find(const ChunkQuery& query) {
  if (!query.distances.empty() && query.distances.size() != query.tokens.size()) {
    return InvalidArgument("chunk store: distances: expected " +
                           std::to_string(query.tokens.size()) + ", found " +
                           std::to_string(query.distances.size()));
  }
  const ChunkKey key = KeyOf(query);
  if (query.left_context.known) {
    auto span = OpenEntry(key.Name());
    if (span.ok()) {
      PHASOR_RETURN_IF_ERROR(CheckContent(**span, query));
      if (!((*span)->header().left_context == query.left_context)) {
        return DataCorrupt((*span)->name() +
                           ": expected the left context asked for, found another of equal hash");
      }
      return ChunkHit{ChunkMatch::kExact, key.Name(), std::move(span).value()};
    }
    if (span.status().code() != StatusCode::kNotFound) return span.status();
  }
  if (query.allow_approximate) return FindApproximate(query, key);
  return NotFound("chunk store: expected an entry with these " +
                  std::to_string(query.tokens.size()) +
                  " tokens and this left context, found none (" + key.Name() + ")");
}

Result<std::shared_ptr<const SpanFile>> ChunkStore::Load(const std::string& name,
                                                         const SpanFingerprint& fingerprint) {
  PHASOR_ASSIGN_OR_RETURN(std::shared_ptr<const SpanFile> span, OpenEntry(name));
  PHASOR_RETURN_IF_ERROR(span->CheckFits(fingerprint));
  return span;
}

Result<std::vector<ChunkEntry>> ChunkStore::List() const {
  if (folder_) return folder_->List();
  const std::lock_guard lock(mutex_);
  std::vector<ChunkEntry> entries;
  for (const auto& [name, r] : resident_) {
    entries.push_back({name, r.span->size_bytes(), r.last_used, r.pinned});
  }
  return entries;
}

Status ChunkStore::Verify(const std::string& name) const {
  if (!IsChunkName(name)) return NoEntry(name);
  if (folder_) {
    auto span = SpanFile::Open(folder_->PathOf(name));
    if (!span.ok() && span.status().code() == StatusCode::kNotFound) return NoEntry(name);
    if (!span.ok()) return span.status();
    return CheckName(**span, name);
  }
  std::shared_ptr<const SpanFile> span;
  {
    const std::lock_guard lock(mutex_);
    const auto it = resident_.find(name);
    if (it == resident_.end()) return NoEntry(name);
    span = it->second.span;
  }
  return span->Recheck();
}

Status ChunkStore::Remove(const std::string& name) {
  if (folder_) {
    const Status status = folder_->Remove(name);
    // Gone from the disk in either case.
    if (!status.ok() && status.code() != StatusCode::kNotFound) return status;
    const std::lock_guard lock(mutex_);
    resident_.erase(name);
    return status;
  }
  const std::lock_guard lock(mutex_);
  const auto it = resident_.find(name);
  if (it == resident_.end()) return NoEntry(name);
  if (it->second.pinned) {
    return InvalidArgument("chunk store: " + name +
                           ": expected an entry that is not pinned, found a pinned one");
  }
  resident_.erase(it);
  return Status::Ok();
}

Status ChunkStore::SetPinned(const std::string& name, bool pinned) {
  if (folder_) return pinned ? folder_->Pin(name) : folder_->Unpin(name);
  const std::lock_guard lock(mutex_);
  const auto it = resident_.find(name);
  if (it == resident_.end()) return NoEntry(name);
  it->second.pinned = pinned;
  return Status::Ok();
}

Status ChunkStore::Pin(const std::string& name) { return SetPinned(name, true); }
Status ChunkStore::Unpin(const std::string& name) { return SetPinned(name, false); }

Status ChunkStore::Prune(uint64_t max_bytes) {
  if (!folder_) return EvictResident(max_bytes, "");
  PHASOR_ASSIGN_OR_RETURN(const std::vector<std::string> evicted, folder_->Evict(max_bytes, ""));
  const std::lock_guard lock(mutex_);
  for (const std::string& name : evicted) resident_.erase(name);
  return Status::Ok();
}

uint64_t ChunkStore::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  uint64_t total = 0;
  for (const auto& [name, r] : resident_) total += r.span->size_bytes();
  return total;
}

}  // namespace phasor
