// Text to token ids and back, from GGUF metadata or a Hugging Face tokenizer.json.
//
// Kinds: byte-level BPE (pre-tokenizers gpt-2, llama-3, qwen2, smollm and what tokenizer.json
// spells out), SentencePiece unigram and BPE with byte fallback. Results equal the Hugging Face
// tokenizer token by token (tests/golden).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "phasor/status.h"

namespace phasor {

class GgufFile;

// What bytes that are no UTF-8 become.
enum class InvalidUtf8 {
  // One token per byte where the vocabulary has bytes, otherwise U+FFFD. Such bytes cut the text:
  // what is before and behind them is encoded as if it stood alone.
  kKeepBytes,
  // U+FFFD for every maximal subpart, before anything else: what Hugging Face sees when the text
  // was read with errors="replace".
  kReplace,
};

struct EncodeOptions {
  bool add_special = true;    // BOS / EOS where the model asks for them
  bool parse_special = true;  // text such as "<|im_start|>" becomes its token
  InvalidUtf8 invalid_utf8 = InvalidUtf8::kKeepBytes;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  static Result<std::unique_ptr<Tokenizer>> FromGguf(const GgufFile& file);
  // `folder` holds tokenizer.json and perhaps tokenizer_config.json, special_tokens_map.json and
  // generation_config.json.
  static Result<std::unique_ptr<Tokenizer>> FromHfFolder(const std::string& folder);

  // The same from text in memory; the second may be empty.
  static Result<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                     std::string_view tokenizer_config_json);

  // Any bytes are accepted (see InvalidUtf8). A valid character whose bytes the vocabulary lacks is
  // dropped where the model has no unknown token, as Hugging Face does. Thread safe.
  virtual std::vector<int32_t> Encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;
  // The bytes token `id` adds to the text; empty for an id out of range, and for special tokens
  // when skip_special is set.
  virtual std::string TokenBytes(int32_t id, bool skip_special) const = 0;
  // Whole sequences: differs from joining TokenBytes only by SentencePiece's dropped first space.
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // -1: none
  virtual int32_t eos_id() const = 0;  // -1: none
  virtual bool add_bos() const = 0;
  virtual bool add_eos() const = 0;
  virtual bool IsEndOfGeneration(int32_t id) const = 0;  // eos, eot, eom
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::string_view kind() const = 0;  // "bpe/smollm", "spm", "unigram", ...
  // Jinja source; empty when the model has none.
  virtual const std::string& chat_template() const = 0;
};

// Turns a stream of tokens into valid UTF-8 that always ends at a character border; bytes that can
// no longer become a character come out as U+FFFD.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer* tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // Text that is complete after this token; may be empty.
  std::string Put(int32_t id);
  // What is left, with U+FFFD for an unfinished character.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace phasor
