// The vocabulary part of a tokenizer: one piece of text to ids.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "phasor/status.h"

namespace phasor {

// U+2581, how SentencePiece vocabularies write a space.
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};
using TokenIndex = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

// Token "<0x0A>" for byte 10, or -1 when the text is not of that form.
int ByteOfToken(std::string_view token);

// The letter that byte-level vocabularies write for a byte (openai/gpt-2): printable Latin-1 for
// itself, the others from U+0100 on. As UTF-8.
const std::string& ByteLetter(uint8_t byte);
// Text in those letters to bytes; false when it holds anything else.
bool BytesOfLetters(std::string_view text, std::string* bytes);

// A symbol while neighbours are being merged. Indices into one vector; -1: none.
struct MergeSymbol {
  int32_t previous = -1, next = -1;
  int32_t id = -1;
  uint32_t begin = 0, size = 0;  // bytes of the piece; size 0: merged away
};

// A pair that could be merged; the lowest rank, then the leftmost, goes first.
struct MergeCandidate {
  uint32_t rank, position;
  uint32_t size;  // bytes of the pair: tells whether it still stands when it is taken
  int32_t id;     // of the result
};

// What short words were cut into: direct-mapped, bounded, forgets on collision.
class WordCache {
 public:
  static constexpr std::size_t kMaxWordBytes = 23, kMaxIds = 9;
  WordCache() : entries_(kEntries) {}
  // Appends the ids and returns true when `word` is known.
  bool Find(std::string_view word, std::vector<int32_t>* ids) const;
  void Insert(std::string_view word, const int32_t* ids, std::size_t n_ids);

 private:
  static constexpr std::size_t kEntries = 1 << 15;  // 2 MiB
  struct Entry {
    uint64_t text[3] = {};  // zero padded, the length in the last byte
    uint32_t n_ids = 0;
    int32_t ids[kMaxIds] = {};
  };
  static bool Key(std::string_view word, uint64_t key[3]);
  static std::size_t Slot(const uint64_t key[3]);
  std::vector<Entry> entries_;
};

// Memory for one thread.
struct ModelScratch {
  WordCache cache;
  std::vector<MergeSymbol> symbols;
  std::vector<MergeCandidate> heap;
};

class PieceModel {
 public:
  virtual ~PieceModel() = default;
  // Appends the ids of `piece`, valid UTF-8.
  virtual void Encode(std::string_view piece, ModelScratch* scratch,
                      std::vector<int32_t>* ids) const = 0;
  // Token for a single byte, -1 when the vocabulary has none.
  virtual int32_t ByteId(uint8_t byte) const = 0;
};

// True when no token holds a space mark behind another character, so that a piece may be cut
// before every mark without changing the result: whole texts become words, which are cacheable.
class MetaspaceCutter {
 public:
  void AddToken(std::string_view token);
  // Only when the mark itself is a token: an unknown one could join its neighbours.
  bool allowed(bool mark_is_token) const { return allowed_ && mark_is_token; }
  // End of the first part of `text`.
  static std::size_t FirstPart(std::string_view text);

 private:
  bool allowed_ = true;
};

// Merges until no candidate is left. lookup(left, right, &rank, &id) says whether two neighbouring
// symbols may become one. Time n log n in the symbols.
template <typename Lookup>
void MergeSymbols(ModelScratch* scratch, const Lookup& lookup) {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  heap.clear();
  auto later = [](const MergeCandidate& a, const MergeCandidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  auto candidate = [&](int32_t left, MergeCandidate* c) {
    int32_t right = symbols[left].next;
    if (right < 0 || !lookup(symbols[left], symbols[right], &c->rank, &c->id)) return false;
    c->position = static_cast<uint32_t>(left);
    c->size = symbols[left].size + symbols[right].size;
    return true;
  };
  MergeCandidate c;
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (candidate(static_cast<int32_t>(i), &c)) heap.push_back(c);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    MergeCandidate best = heap.back();
    heap.pop_back();
    MergeSymbol& left = symbols[best.position];
    // A pair that covers as many bytes from the same place is the same pair.
    if (left.size == 0 || left.next < 0 || left.size + symbols[left.next].size != best.size) {
      continue;
    }
    MergeSymbol& right = symbols[left.next];
    left.size = best.size;
    left.id = best.id;
    left.next = right.next;
    right.size = 0;
    if (left.next >= 0) symbols[left.next].previous = static_cast<int32_t>(best.position);
    auto push = [&](int32_t at) {
      if (at >= 0 && candidate(at, &c)) {
        heap.push_back(c);
        std::push_heap(heap.begin(), heap.end(), later);
      }
    };
    push(left.previous);
    push(static_cast<int32_t>(best.position));
  }
}

}  // namespace phasor
