// Byte pair encoding by merge rank: byte-level vocabularies (GPT-2, Llama 3, Qwen 2, SmolLM) and
// character ones with byte fallback (tokenizer.json of Llama 1 and 2).
//
// Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; the
// details (unknown characters, ignore_merges) are those of Hugging Face's BPE model.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/tokenizer/piece_model.h"
#include "phasor/status.h"

namespace phasor {

struct BpeOptions {
  bool byte_level = true;      // tokens are written in ByteLetter letters, pieces are bytes
  bool byte_fallback = false;  // unknown characters become <0xXX> tokens
  bool ignore_merges = false;  // a piece that is a token stays whole even if merges miss it
  bool fuse_unk = false;       // neighbouring unknown characters become one token
  int32_t unk_id = -1;         // -1: unknown characters are dropped
};

// (left id, right id) -> (rank, id of the result); open addressing.
class MergeTable {
 public:
  struct Entry {
    uint64_t key;
    uint32_t rank;
    int32_t id;
  };
  void Reserve(std::size_t n_merges);
  // The last of two equal pairs wins.
  void Insert(int32_t left, int32_t right, uint32_t rank, int32_t id);
  const Entry* Find(int32_t left, int32_t right) const {
    uint64_t key = Key(left, right);
    for (std::size_t slot = Slot(key);; slot = (slot + 1) & mask_) {
      const Entry& e = entries_[slot];
      if (e.key == key) return &e;
      if (e.key == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~0ull;  // ids are never negative
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  std::size_t Slot(uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15ull) >> 32) & mask_;
  }
  std::vector<Entry> entries_{{kEmpty, 0, -1}};
  std::size_t mask_ = 0;
};

class BpeModel : public PieceModel {
 public:
  // `index` holds the tokens the merges speak of; merges are in order of rank. kDataCorrupt when a
  // merge names a token that does not exist.
  static Result<std::unique_ptr<BpeModel>> Create(
      TokenIndex index, const std::vector<std::pair<std::string, std::string>>& merges,
      const BpeOptions& options);

  void Encode(std::string_view piece, ModelScratch* scratch,
              std::vector<int32_t>* ids) const override;
  int32_t ByteId(uint8_t byte) const override { return byte_ids_[byte]; }

 private:
  BpeModel() = default;
  void EncodeWord(std::string_view word, ModelScratch* scratch, std::vector<int32_t>* ids) const;
  bool HasBytes(std::string_view text) const;
  void AddCharacters(std::string_view word, std::vector<MergeSymbol>* symbols) const;
  void MergeShort(std::vector<MergeSymbol>* symbols) const;
  int32_t WholeToken(std::string_view word) const;

  TokenIndex index_;
  MergeTable merges_;
  BpeOptions options_;
  std::array<int32_t, 256> byte_ids_{};
  bool cut_at_spaces_ = false;
};

}  // namespace phasor
