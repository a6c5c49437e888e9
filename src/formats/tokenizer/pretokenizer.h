// Cuts a text into the pieces that a vocabulary is applied to.
//
// A tokenizer has a list of steps; each cuts the pieces of the one before further (Hugging Face's
// pre_tokenizer). The named ones are what GGUF calls tokenizer.ggml.pre.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer/regex.h"
#include "phasor/status.h"

namespace phasor {

// What a match becomes. kMergedWith*: joined with the text before or behind it.
enum class SplitBehavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };

struct TextPiece {
  std::string_view text;
  bool text_start = false;  // the first of the whole text
};

// Memory for one thread; holds text that steps had to rewrite until the next Clear.
struct PreTokenizerScratch {
  RegexScratch regex;
  std::vector<TextPiece> pieces, next;
  std::vector<ByteSpan> matches;
  std::deque<std::string> rewritten;
};

class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual void Apply(TextPiece piece, PreTokenizerScratch* scratch,
                     std::vector<TextPiece>* out) const = 0;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class PreTokenizer {
 public:
  PreTokenizer() = default;

  // By the GGUF name ("gpt-2", "llama-bpe", "qwen2", "smollm", "default", ...); kUnsupported with
  // the list of known names. `family` gets the canonical one of "gpt-2", "llama-3", "qwen2",
  // "smollm", "default".
  static Result<PreTokenizer> FromName(std::string_view name, std::string* family);

  void AddSplit(Regex pattern, SplitBehavior behavior, bool invert);
  void AddDigits(bool individual);
  void AddPunctuation(SplitBehavior behavior);
  void AddWhitespaceSplit();
  // Runs of word characters and runs of other signs; white space is dropped.
  void AddWhitespace();
  // A space in front of every piece that has none.
  void AddPrefixSpace();
  void AddMetaspace(std::string replacement, PrependScheme prepend, bool split);
  // The pattern of the ByteLevel step.
  void AddGpt2Pattern();

  bool empty() const { return steps_.empty(); }
  // Pieces of `text` (valid UTF-8), in scratch->pieces; they live as long as `text` and `scratch`.
  void Split(std::string_view text, bool text_start, PreTokenizerScratch* scratch) const;

 private:
  std::vector<std::unique_ptr<PreTokenizerStep>> steps_;
};

}  // namespace phasor
