#include "formats/tokenizer/pretokenizer.h"

#include <array>
#include <utility>

#include "base/check.h"
#include "formats/printable.h"
#include "formats/unicode.h"
#include "formats/utf8.h"

namespace phasor {
namespace {

// Published with the models (the GPT-2 one in openai/gpt-2's encoder).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// What llama.cpp does for pre = "default", in its four rounds.
constexpr std::array<std::string_view, 4> kDefaultPatterns = {
    R"([\p{P}\$\+<=>\^~\|]+)",
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))", R"(\p{N}+)",
    R"([0-9][0-9][0-9])"};

constexpr std::array<std::pair<std::string_view, std::string_view>, 18> kNames = {{
    {"gpt-2", "gpt-2"},
    {"gpt2", "gpt-2"},
    {"phi-2", "gpt-2"},
    {"mpt", "gpt-2"},
    {"olmo", "gpt-2"},
    {"llama-3", "llama-3"},
    {"llama3", "llama-3"},
    {"llama-v3", "llama-3"},
    {"llama-bpe", "llama-3"},
    {"qwen2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"smollm", "smollm"},
    {"starcoder", "smollm"},
    {"refact", "smollm"},
    {"codeshell", "smollm"},
    {"command-r", "smollm"},
    {"default", "default"},
    {"exaone", "smollm"},
}};

// Pieces from spans that are matches or not; empty pieces are left out.
class Emitter {
 public:
  Emitter(TextPiece piece, SplitBehavior behavior, bool invert, std::vector<TextPiece>* out)
      : piece_(piece), behavior_(behavior), invert_(invert), out_(out) {}

  // Spans must follow each other without gaps.
  void Add(std::size_t begin, std::size_t end, bool match) {
    match ^= invert_;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        Flush(begin);
        open_end_ = end;
        break;
      case SplitBehavior::kRemoved:
        Flush(begin);
        if (match) {
          open_begin_ = open_end_ = end;
        } else {
          open_end_ = end;
        }
        break;
      case SplitBehavior::kContiguous:
        if (match != previous_) Flush(begin);
        open_end_ = end;
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (!match || previous_) Flush(begin);
        open_end_ = end;
        break;
      case SplitBehavior::kMergedWithNext:
        // A match opens a piece; the text behind a match joins it.
        if (match || !previous_) Flush(begin);
        open_end_ = end;
        break;
    }
    previous_ = match;
  }
  void Finish() { Flush(piece_.text.size()); }

 private:
  void Flush(std::size_t next_begin) {
    if (open_end_ > open_begin_) {
      out_->push_back({piece_.text.substr(open_begin_, open_end_ - open_begin_),
                       piece_.text_start && open_begin_ == 0});
    }
    open_begin_ = open_end_ = next_begin;
  }

  TextPiece piece_;
  SplitBehavior behavior_;
  bool invert_;
  std::vector<TextPiece>* out_;
  std::size_t open_begin_ = 0, open_end_ = 0;
  bool previous_ = false;
};

class SplitStep : public PreTokenizerStep {
 public:
  SplitStep(Regex pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void Apply(TextPiece piece, PreTokenizerScratch* scratch,
             std::vector<TextPiece>* out) const override {
    scratch->matches.clear();
    pattern_.FindAll(piece.text, &scratch->regex, &scratch->matches);
    Emitter emitter(piece, behavior_, invert_, out);
    std::size_t done = 0;
    for (const ByteSpan& match : scratch->matches) {
      if (done < match.begin) emitter.Add(done, match.begin, false);
      emitter.Add(match.begin, match.end, true);
      done = match.end;
    }
    if (done < piece.text.size()) emitter.Add(done, piece.text.size(), false);
    emitter.Finish();
  }

 private:
  Regex pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Single characters of one kind.
class CharacterStep : public PreTokenizerStep {
 public:
  CharacterStep(bool (*is_match)(uint32_t), SplitBehavior behavior)
      : is_match_(is_match), behavior_(behavior) {
    for (uint32_t c = 0; c < 128; ++c) ascii_[c] = is_match(c);
  }
  void Apply(TextPiece piece, PreTokenizerScratch*, std::vector<TextPiece>* out) const override {
    Emitter emitter(piece, behavior_, false, out);
    std::size_t done = 0;
    for (std::size_t i = 0; i < piece.text.size();) {
      auto lead = static_cast<unsigned char>(piece.text[i]);
      std::size_t size = Utf8Length(piece.text[i]);
      if (lead < 128 ? ascii_[lead] : is_match_(DecodeUtf8(piece.text, i))) {
        if (done < i) emitter.Add(done, i, false);
        emitter.Add(i, i + size, true);
        done = i + size;
      }
      i += size;
    }
    if (done < piece.text.size()) emitter.Add(done, piece.text.size(), false);
    emitter.Finish();
  }

 private:
  bool (*is_match_)(uint32_t);
  SplitBehavior behavior_;
  bool ascii_[128];
};

class PrefixSpaceStep : public PreTokenizerStep {
 public:
  void Apply(TextPiece piece, PreTokenizerScratch* scratch,
             std::vector<TextPiece>* out) const override {
    if (piece.text.empty() || piece.text[0] != ' ') {
      scratch->rewritten.push_back(" " + std::string(piece.text));
      piece.text = scratch->rewritten.back();
    }
    out->push_back(piece);
  }
};

class MetaspaceStep : public PreTokenizerStep {
 public:
  MetaspaceStep(std::string replacement, PrependScheme prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}
  void Apply(TextPiece piece, PreTokenizerScratch* scratch,
             std::vector<TextPiece>* out) const override {
    std::string text;
    text.reserve(piece.text.size() + piece.text.size() / 2);
    for (char c : piece.text) {
      if (c == ' ') {
        text += replacement_;
      } else {
        text += c;
      }
    }
    bool wanted = prepend_ == PrependScheme::kAlways ||
                  (prepend_ == PrependScheme::kFirst && piece.text_start);
    if (wanted && !text.starts_with(replacement_)) text.insert(0, replacement_);
    scratch->rewritten.push_back(std::move(text));
    piece.text = scratch->rewritten.back();
    if (!split_) {
      out->push_back(piece);
      return;
    }
    Emitter emitter(piece, SplitBehavior::kMergedWithNext, false, out);
    std::size_t done = 0;
    for (std::size_t at = 0; (at = piece.text.find(replacement_, at)) != piece.text.npos;) {
      if (done < at) emitter.Add(done, at, false);
      emitter.Add(at, at + replacement_.size(), true);
      done = at += replacement_.size();
    }
    if (done < piece.text.size()) emitter.Add(done, piece.text.size(), false);
    emitter.Finish();
  }

 private:
  std::string replacement_;
  PrependScheme prepend_;
  bool split_;
};

Regex OwnPattern(std::string_view pattern) {
  auto regex = Regex::Compile(pattern);
  PHASOR_CHECK(regex.ok());
  return std::move(regex).value();
}

}  // namespace

Result<PreTokenizer> PreTokenizer::FromName(std::string_view name, std::string* family) {
  std::string known;
  family->clear();
  for (const auto& [alias, canonical] : kNames) {
    if (alias == name) *family = canonical;
    (known += known.empty() ? "" : ", ") += alias;
  }
  PreTokenizer result;
  if (*family == "gpt-2") {
    result.AddGpt2Pattern();
  } else if (*family == "smollm") {
    result.AddDigits(true);
    result.AddGpt2Pattern();
  } else if (*family == "llama-3") {
    result.AddSplit(OwnPattern(kLlama3Pattern), SplitBehavior::kIsolated, false);
  } else if (*family == "qwen2") {
    result.AddSplit(OwnPattern(kQwen2Pattern), SplitBehavior::kIsolated, false);
  } else if (*family == "default") {
    for (std::string_view pattern : kDefaultPatterns) {
      result.AddSplit(OwnPattern(pattern), SplitBehavior::kIsolated, false);
    }
  } else {
    return Unsupported("tokenizer: expected a pre-tokenizer of " + known + ", found " +
                       Printable(name));
  }
  return result;
}

void PreTokenizer::AddSplit(Regex pattern, SplitBehavior behavior, bool invert) {
  steps_.push_back(std::make_unique<SplitStep>(std::move(pattern), behavior, invert));
}

void PreTokenizer::AddDigits(bool individual) {
  steps_.push_back(std::make_unique<CharacterStep>(
      IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
}

void PreTokenizer::AddPunctuation(SplitBehavior behavior) {
  steps_.push_back(std::make_unique<CharacterStep>(IsPunctuation, behavior));
}

void PreTokenizer::AddWhitespaceSplit() {
  steps_.push_back(std::make_unique<CharacterStep>(IsUnicodeSpace, SplitBehavior::kRemoved));
}

void PreTokenizer::AddWhitespace() {
  AddWhitespaceSplit();
  steps_.push_back(std::make_unique<CharacterStep>(IsWordCharacter, SplitBehavior::kContiguous));
}

void PreTokenizer::AddPrefixSpace() { steps_.push_back(std::make_unique<PrefixSpaceStep>()); }

void PreTokenizer::AddMetaspace(std::string replacement, PrependScheme prepend, bool split) {
  steps_.push_back(std::make_unique<MetaspaceStep>(std::move(replacement), prepend, split));
}

void PreTokenizer::AddGpt2Pattern() {
  AddSplit(OwnPattern(kGpt2Pattern), SplitBehavior::kIsolated, false);
}

void PreTokenizer::Split(std::string_view text, bool text_start,
                         PreTokenizerScratch* scratch) const {
  scratch->pieces.clear();
  if (text.empty()) return;
  scratch->pieces.push_back({text, text_start});
  for (const auto& step : steps_) {
    scratch->next.clear();
    for (const TextPiece& piece : scratch->pieces) step->Apply(piece, scratch, &scratch->next);
    std::swap(scratch->pieces, scratch->next);
  }
}

}  // namespace phasor
