// The parts of a tokenizer, joined: added tokens, normalizer, pre-tokenizer, model, specials.
//
// gguf.cc and json.cc fill in the parts; nothing here knows file formats.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "formats/tokenizer.h"
#include "formats/tokenizer/added_tokens.h"
#include "formats/tokenizer/normalizer.h"
#include "formats/tokenizer/piece_model.h"
#include "formats/tokenizer/pretokenizer.h"

namespace phasor {

// What decoding a sequence takes off its start and end.
struct DecodeTrim {
  // At most so many spaces of the whole text (the Strip decoder).
  int left_spaces = 0, right_spaces = 0;
  // Every space mark of the first token (the Metaspace decoder).
  bool first_token_spaces = false;
};

struct TokenizerParts {
  std::string kind;
  std::vector<AddedToken> added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<PieceModel> model;
  std::vector<std::string> token_bytes;         // by id: what the token adds to the text
  std::vector<bool> special;                    // by id
  std::vector<int32_t> prefix_ids, suffix_ids;  // added with add_special
  DecodeTrim trim;
  int32_t bos_id = -1, eos_id = -1;
  std::unordered_set<int32_t> end_ids;
  std::string chat_template;
};

// Marks end tokens by their well-known texts among special tokens, and eos itself.
void AddWellKnownEnds(TokenizerParts* parts);

class PipelineTokenizer : public Tokenizer {
 public:
  // parts.model is set, and every id in parts is below token_bytes.size() == special.size().
  explicit PipelineTokenizer(TokenizerParts parts);

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string TokenBytes(int32_t id, bool skip_special) const override;
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(parts_.token_bytes.size()); }
  int32_t bos_id() const override { return parts_.bos_id; }
  int32_t eos_id() const override { return parts_.eos_id; }
  bool add_bos() const override;
  bool add_eos() const override;
  bool IsEndOfGeneration(int32_t id) const override { return parts_.end_ids.count(id) != 0; }
  bool IsSpecial(int32_t id) const override { return InRange(id) && parts_.special[id]; }
  std::string_view kind() const override { return parts_.kind; }
  const std::string& chat_template() const override { return parts_.chat_template; }

 private:
  // One per Encode call in progress; kept for the next one, so that words stay cached.
  struct Workspace {
    PreTokenizerScratch pre_tokenizer;
    ModelScratch model;
    std::string normalized;
    std::vector<AddedTokenSpan> spans, normalized_spans;
  };
  struct Section {
    std::string_view text;
    bool text_start, section_start, match_special;
  };

  bool InRange(int32_t id) const { return id >= 0 && id < vocab_size(); }
  std::unique_ptr<Workspace> TakeWorkspace() const;
  void ReturnWorkspace(std::unique_ptr<Workspace> workspace) const;
  // A section is the text between two added tokens.
  void EncodeSection(Section section, Workspace* ws, std::vector<int32_t>* ids) const;
  void EncodeValid(Section section, Workspace* ws, std::vector<int32_t>* ids) const;
  void EncodePieces(std::string_view text, bool text_start, Workspace* ws,
                    std::vector<int32_t>* ids) const;
  void EncodeDamage(std::string_view bytes, Workspace* ws, std::vector<int32_t>* ids) const;

  TokenizerParts parts_;
  AddedTokenMatcher raw_tokens_, normalized_tokens_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> free_;
};

}  // namespace phasor
