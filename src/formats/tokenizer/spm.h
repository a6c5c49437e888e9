// SentencePiece vocabularies: BPE by score (the "llama" kind of GGUF) and unigram.
//
// Sources: Kudo and Richardson 2018, "SentencePiece"; Kudo 2018, "Subword Regularization" (the
// unigram model and its Viterbi search). Ties and unknown characters follow Hugging Face.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer/piece_model.h"
#include "phasor/status.h"

namespace phasor {

// What one token is, in both models.
struct ScoredToken {
  std::string text;
  double score = 0;
  bool usable =
      true;  // may come out of ordinary text (not control, unknown, unused or byte tokens)
};

// Adjacent symbols whose joined text is a token merge, the highest score first. Characters that are
// no token become byte tokens, or unk_id where those are missing.
class SpmModel : public PieceModel {
 public:
  // byte_ids: token of each byte, -1 where there is none.
  static Result<std::unique_ptr<SpmModel>> Create(const std::vector<ScoredToken>& tokens,
                                                  const std::array<int32_t, 256>& byte_ids,
                                                  int32_t unk_id);
  void Encode(std::string_view piece, ModelScratch* scratch,
              std::vector<int32_t>* ids) const override;
  int32_t ByteId(uint8_t byte) const override { return byte_ids_[byte]; }

 private:
  SpmModel() = default;
  void EncodeWord(std::string_view word, ModelScratch* scratch, std::vector<int32_t>* ids) const;

  TokenIndex index_;
  std::vector<uint32_t> ranks_;  // by id; lower merges first
  std::array<int32_t, 256> byte_ids_{};
  int32_t unk_id_ = -1;
  std::size_t max_token_bytes_ = 0;
  bool cut_at_spaces_ = false;
};

// The segmentation with the highest sum of scores (log probabilities).
class UnigramModel : public PieceModel {
 public:
  struct Options {
    int32_t unk_id = -1;
    bool byte_fallback = false;
    bool fuse_unk = true;
  };
  static Result<std::unique_ptr<UnigramModel>> Create(const std::vector<ScoredToken>& tokens,
                                                      const std::array<int32_t, 256>& byte_ids,
                                                      const Options& options);
  void Encode(std::string_view piece, ModelScratch* scratch,
              std::vector<int32_t>* ids) const override;
  int32_t ByteId(uint8_t byte) const override { return byte_ids_[byte]; }

 private:
  struct Node {  // of a trie over bytes, children sorted by byte
    int32_t token = -1;
    int32_t first_child = 0;
    int32_t n_children = 0;
    uint8_t byte = 0;
  };
  struct Best {  // the best way to reach a place
    double score = 0;
    int32_t begin = -1, id = -1;
  };
  UnigramModel() = default;
  void BuildTrie(const std::vector<ScoredToken>& tokens);
  int32_t Child(int32_t node, uint8_t byte) const;
  void Relax(std::string_view piece, std::size_t begin, std::vector<Best>* best) const;
  void AddUnknown(std::string_view text, std::vector<int32_t>* ids) const;

  std::vector<Node> trie_;
  std::array<int32_t, 256> roots_{};
  std::vector<double> scores_;
  std::array<int32_t, 256> byte_ids_{};
  double unk_score_ = 0;
  Options options_;
};

}  // namespace phasor
