// Small tokenizers written by hand, for tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "formats/tokenizer/piece_model.h"
#include "tests/support/gguf_builder.h"

namespace phasor::testing {

// A byte-level tokenizer.json: token b is byte b, then a few merges of ASCII text and one special.
inline nlohmann::json ByteTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int b = 0; b < 256; ++b) vocab[ByteLetter(static_cast<uint8_t>(b))] = b;
  nlohmann::json merges = nlohmann::json::array();
  int32_t next = 256;
  for (auto [left, right] : {std::pair{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}}) {
    vocab[std::string(left) + right] = next++;
    merges.push_back(std::string(left) + " " + right);
  }
  return {
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 260}, {"content", "<|im_end|>"}, {"special", true}, {"normalized", false}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

// A SentencePiece vocabulary as GGUF metadata: <unk> <s> </s>, 256 bytes, then a few pieces.
inline GgufBuilder SpmGguf() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  std::vector<float> scores(3, 0.0f);
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", b);
    tokens.push_back(name);
    types.push_back(6);
    scores.push_back(0.0f);
  }
  for (const char* piece : {"▁", "a", "b", "ab", "▁ab", "▁▁", "c"}) {
    tokens.push_back(piece);
    types.push_back(1);
    scores.push_back(-static_cast<float>(tokens.size()));
  }
  GgufBuilder b;
  b.Add("tokenizer.ggml.model", "llama").Add("tokenizer.ggml.tokens", tokens);
  b.Add("tokenizer.ggml.token_type", types).Add("tokenizer.ggml.scores", scores);
  b.Add("tokenizer.ggml.bos_token_id", uint32_t{1}).Add("tokenizer.ggml.eos_token_id", uint32_t{2});
  b.Add("tokenizer.ggml.unknown_token_id", uint32_t{0});
  return b;
}

}  // namespace phasor::testing
