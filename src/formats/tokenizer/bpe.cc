#include "formats/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <limits>

#include "formats/printable.h"
#include "formats/utf8.h"

namespace phasor {
namespace {

// Up to here a plain scan for the best pair beats the heap.
constexpr std::size_t kShortWord = 24;

}  // namespace

void MergeTable::Reserve(std::size_t n_merges) {
  std::size_t size = std::bit_ceil(2 * n_merges + 1);
  entries_.assign(size, {kEmpty, 0, -1});
  mask_ = size - 1;
}

void MergeTable::Insert(int32_t left, int32_t right, uint32_t rank, int32_t id) {
  uint64_t key = Key(left, right);
  std::size_t slot = Slot(key);
  while (entries_[slot].key != kEmpty && entries_[slot].key != key) slot = (slot + 1) & mask_;
  entries_[slot] = {key, rank, id};
}

Result<std::unique_ptr<BpeModel>> BpeModel::Create(
    TokenIndex index, const std::vector<std::pair<std::string, std::string>>& merges,
    const BpeOptions& options) {
  std::unique_ptr<BpeModel> model(new BpeModel);
  model->merges_.Reserve(merges.size());
  MetaspaceCutter cutter;
  std::string joined;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined = left + right;
    auto l = index.find(left), r = index.find(right), result = index.find(joined);
    for (const auto& [it, text] : {std::pair{l, &left}, {r, &right}, {result, &joined}}) {
      if (it == index.end()) {
        return DataCorrupt("tokenizer: merge " + std::to_string(rank) +
                           ": expected tokens of the vocabulary, found " + Printable(*text));
      }
    }
    model->merges_.Insert(l->second, r->second, static_cast<uint32_t>(rank), result->second);
    cutter.AddToken(joined);
  }
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", b);
    auto it = options.byte_level      ? index.find(ByteLetter(static_cast<uint8_t>(b)))
              : options.byte_fallback ? index.find(std::string_view(name))
                                      : index.end();
    model->byte_ids_[b] = it == index.end() ? -1 : it->second;
  }
  // Whole-word look-up must see the whole piece.
  model->cut_at_spaces_ = !options.byte_level && !options.ignore_merges &&
                          cutter.allowed(index.find(kMetaspace) != index.end());
  model->index_ = std::move(index);
  model->options_ = options;
  return model;
}

void BpeModel::Encode(std::string_view piece, ModelScratch* scratch,
                      std::vector<int32_t>* ids) const {
  while (!piece.empty()) {
    std::size_t size = cut_at_spaces_ ? MetaspaceCutter::FirstPart(piece) : piece.size();
    std::string_view word = piece.substr(0, size);
    if (!scratch->cache.Find(word, ids)) {
      std::size_t before = ids->size();
      EncodeWord(word, scratch, ids);
      scratch->cache.Insert(word, ids->data() + before, ids->size() - before);
    }
    piece.remove_prefix(size);
  }
}

int32_t BpeModel::WholeToken(std::string_view word) const {
  if (!options_.byte_level) {
    auto it = index_.find(word);
    return it == index_.end() ? -1 : it->second;
  }
  std::string letters;
  for (char c : word) letters += ByteLetter(static_cast<uint8_t>(c));
  auto it = index_.find(letters);
  return it == index_.end() ? -1 : it->second;
}

void BpeModel::EncodeWord(std::string_view word, ModelScratch* scratch,
                          std::vector<int32_t>* ids) const {
  if (options_.ignore_merges) {
    int32_t id = WholeToken(word);
    if (id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  auto& symbols = scratch->symbols;
  symbols.clear();
  AddCharacters(word, &symbols);
  if (symbols.size() <= kShortWord) {
    MergeShort(&symbols);
  } else {
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      symbols[i].previous = static_cast<int32_t>(i) - 1;
      symbols[i].next = i + 1 < symbols.size() ? static_cast<int32_t>(i) + 1 : -1;
    }
    MergeSymbols(scratch, [this](const MergeSymbol& left, const MergeSymbol& right, uint32_t* rank,
                                 int32_t* id) {
      const MergeTable::Entry* e = merges_.Find(left.id, right.id);
      if (e == nullptr) return false;
      *rank = e->rank;
      *id = e->id;
      return true;
    });
  }
  for (const MergeSymbol& s : symbols) {
    if (s.size > 0) ids->push_back(s.id);
  }
}

bool BpeModel::HasBytes(std::string_view text) const {
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return ByteId(static_cast<uint8_t>(c)) >= 0; });
}

void BpeModel::AddCharacters(std::string_view word, std::vector<MergeSymbol>* symbols) const {
  auto add = [&](int32_t id, std::size_t begin, std::size_t size) {
    symbols->push_back({-1, -1, id, static_cast<uint32_t>(begin), static_cast<uint32_t>(size)});
  };
  bool last_was_unknown = false;
  for (std::size_t i = 0; i < word.size();) {
    std::size_t size = options_.byte_level ? 1 : Utf8Length(word[i]);
    int32_t id = -1;
    if (options_.byte_level) {
      id = byte_ids_[static_cast<uint8_t>(word[i])];
    } else if (auto it = index_.find(word.substr(i, size)); it != index_.end()) {
      id = it->second;
    }
    if (id >= 0) {
      add(id, i, size);
      last_was_unknown = false;
    } else if (options_.byte_fallback && HasBytes(word.substr(i, size))) {
      for (std::size_t b = i; b < i + size; ++b) add(ByteId(static_cast<uint8_t>(word[b])), b, 1);
    } else if (options_.unk_id >= 0) {
      if (!(options_.fuse_unk && last_was_unknown)) add(options_.unk_id, i, size);
      last_was_unknown = true;
    }
    i += size;
  }
}

void BpeModel::MergeShort(std::vector<MergeSymbol>* symbols) const {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  std::size_t n = symbols->size();
  int32_t id[kShortWord];
  const MergeTable::Entry* pair[kShortWord];  // of symbol i and i + 1
  for (std::size_t i = 0; i < n; ++i) id[i] = (*symbols)[i].id;
  for (std::size_t i = 0; i + 1 < n; ++i) pair[i] = merges_.Find(id[i], id[i + 1]);
  while (n > 1) {
    uint32_t best_rank = kNone;
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < n; ++i) {
      if (pair[i] != nullptr && pair[i]->rank < best_rank) {
        best_rank = pair[i]->rank;
        best = i;
      }
    }
    if (best_rank == kNone) break;
    id[best] = pair[best]->id;
    --n;
    for (std::size_t i = best + 1; i < n; ++i) id[i] = id[i + 1];
    for (std::size_t i = best + 1; i + 1 < n; ++i) pair[i] = pair[i + 1];
    if (best > 0) pair[best - 1] = merges_.Find(id[best - 1], id[best]);
    if (best + 1 < n) pair[best] = merges_.Find(id[best], id[best + 1]);
  }
  symbols->resize(n);
  for (std::size_t i = 0; i < n; ++i) (*symbols)[i] = {-1, -1, id[i], 0, 1};
}

}  // namespace phasor
