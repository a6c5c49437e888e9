// Tokenizers from GGUF metadata (tokenizer.ggml.*).
#include <algorithm>
#include <array>
#include <utility>

#include "formats/gguf.h"
#include "formats/printable.h"
#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/files.h"
#include "formats/tokenizer/pipeline.h"
#include "formats/tokenizer/spm.h"

namespace phasor {
namespace {

// tokenizer.ggml.token_type.
enum TokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

class GgufReader {
 public:
  explicit GgufReader(const GgufFile& file) : file_(file) {}

  Result<std::unique_ptr<Tokenizer>> Read() {
    PHASOR_ASSIGN_OR_RETURN(std::string model, file_.GetString(Key("model")));
    PHASOR_RETURN_IF_ERROR(ReadTokens());
    if (model == "gpt2") {
      PHASOR_RETURN_IF_ERROR(ReadBpe());
    } else if (model == "llama") {
      PHASOR_RETURN_IF_ERROR(ReadSentencePiece(false));
    } else if (model == "t5") {
      PHASOR_RETURN_IF_ERROR(ReadSentencePiece(true));
    } else {
      return Unsupported("tokenizer: expected tokenizer.ggml.model gpt2, llama or t5, found " +
                         Printable(model));
    }
    PHASOR_RETURN_IF_ERROR(ReadSpecials());
    return std::unique_ptr<Tokenizer>(std::make_unique<PipelineTokenizer>(std::move(parts_)));
  }

 private:
  static std::string Key(const char* name) { return std::string("tokenizer.ggml.") + name; }

  Status ReadTokens() {
    PHASOR_ASSIGN_OR_RETURN(tokens_, file_.GetStringArray(Key("tokens")));
    std::size_t n = tokens_->size();
    if (n == 0) return DataCorrupt("tokenizer: expected tokens, found an empty list");
    types_.assign(n, kNormal);
    if (file_.Has(Key("token_type"))) {
      PHASOR_ASSIGN_OR_RETURN(types_, file_.GetIntArray(Key("token_type")));
      if (types_.size() != n) return SizeMismatch("token_type", types_.size());
    }
    // End and start tokens are special even in files that mark them as ordinary.
    for (const char* name : {"bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id"}) {
      int32_t id = -1;
      PHASOR_RETURN_IF_ERROR(OptionalId(name, &id));
      if (id >= 0 && types_[id] == kNormal) types_[id] = kControl;
    }
    parts_.special.resize(n);
    for (std::size_t i = 0; i < n; ++i) {
      bool special = types_[i] == kControl || types_[i] == kUnknown;
      parts_.special[i] = special;
      if (special || types_[i] == kUserDefined) {
        AddedToken token;
        token.content = (*tokens_)[i];
        token.id = static_cast<int32_t>(i);
        token.special = special;
        parts_.added.push_back(std::move(token));
      }
    }
    return Status::Ok();
  }

  Status SizeMismatch(const std::string& name, std::size_t found) {
    return DataCorrupt("tokenizer: " + name + ": expected " + std::to_string(tokens_->size()) +
                       " entries as in tokens, found " + std::to_string(found));
  }

  Status OptionalId(const char* name, int32_t* id) {
    *id = -1;
    if (!file_.Has(Key(name))) return Status::Ok();
    PHASOR_ASSIGN_OR_RETURN(int64_t value, file_.GetInt(Key(name)));
    if (value == -1 || value == 0xFFFFFFFFll) return Status::Ok();  // both written for "none"
    if (value < 0 || value >= static_cast<int64_t>(tokens_->size())) {
      return DataCorrupt(std::string("tokenizer: ") + name + ": expected an id below " +
                         std::to_string(tokens_->size()) + ", found " + std::to_string(value));
    }
    *id = static_cast<int32_t>(value);
    return Status::Ok();
  }

  Result<bool> OptionalBool(const char* name, bool otherwise) {
    if (!file_.Has(Key(name))) return otherwise;
    return file_.GetBool(Key(name));
  }

  Status ReadBpe() {
    std::string pre = "default", family;
    if (file_.Has(Key("pre"))) {
      PHASOR_ASSIGN_OR_RETURN(pre, file_.GetString(Key("pre")));
    }
    PHASOR_ASSIGN_OR_RETURN(parts_.pre_tokenizer, PreTokenizer::FromName(pre, &family));
    parts_.kind = "bpe/" + family;
    // Qwen's own tokenizer composes first; GGUF has no field for that.
    if (pre == "qwen2") parts_.normalizer.AddForm(NormalForm::kNfc);
    default_add_bos_ = family == "llama-3";

    PHASOR_ASSIGN_OR_RETURN(const std::vector<std::string>* lines,
                            file_.GetStringArray(Key("merges")));
    std::vector<std::pair<std::string, std::string>> merges;
    merges.reserve(lines->size());
    for (const std::string& line : *lines) {
      std::size_t space = line.find(' ');
      if (space == line.npos) {
        return DataCorrupt("tokenizer: merge " + std::to_string(merges.size()) +
                           ": expected two tokens, found " + Printable(line));
      }
      merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    }
    TokenIndex index;
    index.reserve(tokens_->size());
    parts_.token_bytes.resize(tokens_->size());
    for (std::size_t i = 0; i < tokens_->size(); ++i) {
      const std::string& token = (*tokens_)[i];
      index.insert_or_assign(token, static_cast<int32_t>(i));
      if (types_[i] != kNormal || !BytesOfLetters(token, &parts_.token_bytes[i])) {
        parts_.token_bytes[i] = token;
      }
    }
    BpeOptions options;
    options.ignore_merges = family == "llama-3";
    PHASOR_ASSIGN_OR_RETURN(parts_.model, BpeModel::Create(std::move(index), merges, options));
    return Status::Ok();
  }

  Status ReadSentencePiece(bool unigram) {
    PHASOR_ASSIGN_OR_RETURN(std::vector<double> scores, file_.GetFloatArray(Key("scores")));
    if (scores.size() != tokens_->size()) return SizeMismatch("scores", scores.size());
    PHASOR_ASSIGN_OR_RETURN(bool space_prefix, OptionalBool("add_space_prefix", true));
    std::array<int32_t, 256> byte_ids;
    byte_ids.fill(-1);
    std::vector<ScoredToken> tokens(tokens_->size());
    parts_.token_bytes.resize(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::string& text = (*tokens_)[i];
      tokens[i] = {text, scores[i], types_[i] == kNormal || types_[i] == kUserDefined};
      int byte = types_[i] == kByte ? ByteOfToken(text) : -1;
      if (byte >= 0) {
        byte_ids[byte] = static_cast<int32_t>(i);
        parts_.token_bytes[i] = std::string(1, static_cast<char>(byte));
      } else {
        parts_.token_bytes[i] = parts_.special[i] ? text : MarksToSpaces(text);
      }
    }
    int32_t unk_id = -1;
    PHASOR_RETURN_IF_ERROR(OptionalId("unknown_token_id", &unk_id));
    parts_.kind = unigram ? "unigram" : "spm";
    parts_.trim.left_spaces = space_prefix ? 1 : 0;
    PHASOR_RETURN_IF_ERROR(AddSentencePieceNormalizer(unigram, space_prefix));
    if (unigram) {
      default_add_eos_ = true;
      UnigramModel::Options options;
      options.unk_id = unk_id;
      options.byte_fallback = byte_ids[0] >= 0;
      PHASOR_ASSIGN_OR_RETURN(parts_.model, UnigramModel::Create(tokens, byte_ids, options));
    } else {
      default_add_bos_ = true;
      PHASOR_ASSIGN_OR_RETURN(parts_.model, SpmModel::Create(tokens, byte_ids, unk_id));
    }
    return Status::Ok();
  }

  Status AddSentencePieceNormalizer(bool unigram, bool space_prefix) {
    if (file_.Has(Key("precompiled_charsmap"))) {
      auto it = file_.metadata().find(Key("precompiled_charsmap"));
      if (it->second.size() > 0) {
        return Unsupported(
            "tokenizer: expected a vocabulary without precompiled_charsmap, found one of " +
            std::to_string(it->second.size()) + " bytes");
      }
    }
    PHASOR_ASSIGN_OR_RETURN(bool trim, OptionalBool("remove_extra_whitespaces", unigram));
    auto replace = [&](Result<Regex> pattern, std::string_view content) -> Status {
      if (!pattern.ok()) return pattern.status();
      parts_.normalizer.AddReplace(std::move(pattern).value(), std::string(content));
      return Status::Ok();
    };
    if (trim) {
      PHASOR_RETURN_IF_ERROR(replace(Regex::Compile("\\A +| +\\z"), ""));
      PHASOR_RETURN_IF_ERROR(replace(Regex::Compile(" {2,}"), " "));
    }
    if (space_prefix) parts_.normalizer.AddPrepend(std::string(kMetaspace));
    return replace(Regex::Literal(" "), kMetaspace);
  }

  static std::string MarksToSpaces(const std::string& text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      if (std::string_view(text).substr(at).starts_with(kMetaspace)) {
        out += ' ';
        at += kMetaspace.size();
      } else {
        out += text[at++];
      }
    }
    return out;
  }

  Status ReadSpecials() {
    PHASOR_RETURN_IF_ERROR(OptionalId("bos_token_id", &parts_.bos_id));
    PHASOR_RETURN_IF_ERROR(OptionalId("eos_token_id", &parts_.eos_id));
    for (const char* name : {"eot_token_id", "eom_token_id"}) {
      int32_t id = -1;
      PHASOR_RETURN_IF_ERROR(OptionalId(name, &id));
      if (id >= 0) parts_.end_ids.insert(id);
    }
    AddWellKnownEnds(&parts_);
    PHASOR_ASSIGN_OR_RETURN(bool add_bos, OptionalBool("add_bos_token", default_add_bos_));
    PHASOR_ASSIGN_OR_RETURN(bool add_eos, OptionalBool("add_eos_token", default_add_eos_));
    if (add_bos && parts_.bos_id >= 0) parts_.prefix_ids.push_back(parts_.bos_id);
    if (add_eos && parts_.eos_id >= 0) parts_.suffix_ids.push_back(parts_.eos_id);
    if (file_.Has("tokenizer.chat_template")) {
      PHASOR_ASSIGN_OR_RETURN(parts_.chat_template, file_.GetString("tokenizer.chat_template"));
    }
    return Status::Ok();
  }

  const GgufFile& file_;
  const std::vector<std::string>* tokens_ = nullptr;
  std::vector<int64_t> types_;
  TokenizerParts parts_;
  bool default_add_bos_ = false, default_add_eos_ = false;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> TokenizerFromGgufMetadata(const GgufFile& file) {
  return GgufReader(file).Read();
}

}  // namespace phasor
