#include "synth/shapes.h"

#include <fmt/format.h>

#include <cmath>

namespace phasor::synth {
namespace {

constexpr int kByteTokens = 256, kSpecialTokens = 2, kLetters = 26;
// With at least one merge: other readers want that list, and not empty.
constexpr int kFewestTokens = kSpecialTokens + kByteTokens + 1;

void AppendUtf8(uint32_t code, std::string* out) {  // codes below 0x800 are all that is needed
  if (code < 0x80) {
    *out += static_cast<char>(code);
  } else {
    *out += static_cast<char>(0xc0 | code >> 6);
    *out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

// GPT-2's letters for bytes: printable ones stand for themselves, the rest get codes from 256 on.
std::vector<std::string> ByteLetters() {
  std::vector<std::string> letters(kByteTokens);
  uint32_t next = 256;
  for (int b = 0; b < kByteTokens; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    AppendUtf8(printable ? static_cast<uint32_t>(b) : next++, &letters[b]);
  }
  return letters;
}

void AddTokenizer(const Shape& shape, GgufHeader* header) {
  constexpr int32_t kNormal = 1, kControl = 3, kUnused = 5;
  std::vector<std::string> tokens = {"<|begin_of_text|>", "<|end_of_text|>"}, merges;
  std::vector<int32_t> types(kSpecialTokens, kControl);
  for (std::string& letter : ByteLetters()) tokens.push_back(std::move(letter));
  for (int i = 0; i < kLetters * kLetters; ++i) {
    if (static_cast<int>(tokens.size()) >= shape.n_vocab) break;
    const auto a = static_cast<char>('a' + i / kLetters), b = static_cast<char>('a' + i % kLetters);
    tokens.push_back({a, b});
    merges.push_back({a, ' ', b});
  }
  types.resize(tokens.size(), kNormal);
  while (static_cast<int>(tokens.size()) < shape.n_vocab) {
    tokens.push_back(fmt::format("<|unused_{}|>", tokens.size()));
  }
  types.resize(tokens.size(), kUnused);
  header->Add("tokenizer.ggml.model", GgufString("gpt2"));
  header->Add("tokenizer.ggml.pre", GgufString(shape.pre_tokenizer));
  header->Add("tokenizer.ggml.tokens", GgufStrings(std::move(tokens)));
  header->Add("tokenizer.ggml.token_type", GgufI32s(types));
  header->Add("tokenizer.ggml.merges", GgufStrings(std::move(merges)));
  header->Add("tokenizer.ggml.bos_token_id", GgufU32(0));
  header->Add("tokenizer.ggml.eos_token_id", GgufU32(1));
  header->Add("tokenizer.ggml.add_bos_token", GgufBool(true));
}

// general.file_type, which other programs print.
uint32_t FileType(DType weights) {
  switch (weights) {
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ5_0:
      return 8;
    case DType::kQ5_1:
      return 9;
    case DType::kQ4_K:
      return 14;
    case DType::kQ6_K:
      return 18;
    case DType::kBF16:
      return 32;
    default:
      return 0;
  }
}

}  // namespace

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {"tiny", "nothing; for tests", 2, 64, 192, 4, 2, 32, 512, true, 10000, 4096, "smollm"},
      {"smollm2-135m", "SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152, true, 100000, 8192,
       "smollm"},
      {"llama-1b", "Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128256, true, 500000, 131072,
       "llama-bpe"},
      {"llama-3b", "Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128, 128256, true, 500000, 131072,
       "llama-bpe"},
      {"llama-8b", "Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256, false, 500000, 131072,
       "llama-bpe"},
      {"llama-8b-8of32", "Llama-3.1-8B, 8 of its 32 layers", 8, 4096, 14336, 32, 8, 128, 128256,
       false, 500000, 131072, "llama-bpe"},
      {"danube-1.8b", "H2O-Danube2-1.8B (heads of 80)", 24, 2560, 6912, 32, 8, 80, 32000, false,
       10000, 8192, "llama-bpe"},
      {"phi-3-mini", "Phi-3-mini (heads of 96)", 32, 3072, 8192, 32, 32, 96, 32064, false, 10000,
       4096, "llama-bpe"},
      {"gemma-2b", "Gemma-2B's sizes (heads of 256, 8 per KV head)", 18, 2048, 16384, 8, 1, 256,
       256000, true, 10000, 8192, "llama-bpe"},
  };
  return shapes;
}

int64_t TensorPlan::n_elements() const {
  int64_t n = 1;
  for (int64_t d : dims) n *= d;
  return n;
}

Status CheckShape(const Shape& s) {
  if (s.n_heads % s.n_kv_heads != 0) {
    return InvalidArgument(fmt::format(
        "synth: heads: expected a multiple of the {} KV heads, found {}", s.n_kv_heads, s.n_heads));
  }
  if (s.head_dim % 2 != 0) {
    return InvalidArgument(
        fmt::format("synth: head size: expected an even number, found {}", s.head_dim));
  }
  if (s.n_vocab < kFewestTokens) {
    return InvalidArgument(fmt::format("synth: vocabulary: expected at least {} tokens, found {}",
                                       kFewestTokens, s.n_vocab));
  }
  return Status::Ok();
}

std::vector<TensorPlan> PlanTensors(const Shape& s, DType weights) {
  std::vector<TensorPlan> plan;
  auto matrix = [&](std::string name, int64_t cols, int64_t rows, double gain) {
    const auto sigma = static_cast<float>(gain / std::sqrt(static_cast<double>(cols)));
    plan.push_back({std::move(name), weights, {cols, rows}, sigma});
  };
  auto norm = [&](std::string name) {
    plan.push_back({std::move(name), DType::kF32, {s.d_model}, 0});
  };
  const int64_t q = int64_t{s.n_heads} * s.head_dim, kv = int64_t{s.n_kv_heads} * s.head_dim;
  const double residual = 1 / std::sqrt(2.0 * s.n_layers);
  constexpr double kLogitDeviation = 2;  // of a normed state times the output matrix
  matrix("token_embd.weight", s.d_model, s.n_vocab, kLogitDeviation);
  for (int l = 0; l < s.n_layers; ++l) {
    const std::string blk = fmt::format("blk.{}.", l);
    norm(blk + "attn_norm.weight");
    matrix(blk + "attn_q.weight", s.d_model, q, 1);
    matrix(blk + "attn_k.weight", s.d_model, kv, 1);
    matrix(blk + "attn_v.weight", s.d_model, kv, 1);
    matrix(blk + "attn_output.weight", q, s.d_model, residual);
    norm(blk + "ffn_norm.weight");
    matrix(blk + "ffn_gate.weight", s.d_model, s.d_ff, 1);
    matrix(blk + "ffn_up.weight", s.d_model, s.d_ff, 1);
    matrix(blk + "ffn_down.weight", s.d_ff, s.d_model, residual);
  }
  norm("output_norm.weight");
  if (!s.tied) matrix("output.weight", s.d_model, s.n_vocab, kLogitDeviation);
  return plan;
}

GgufHeader MakeHeader(const Shape& s, DType weights, uint64_t seed) {
  GgufHeader h;
  auto u32 = [&](const std::string& key, int64_t value) {
    h.Add(key, GgufU32(static_cast<uint32_t>(value)));
  };
  h.Add("general.architecture", GgufString("llama"));
  h.Add("general.name", GgufString(fmt::format("{}, random weights, seed {}", s.name, seed)));
  u32("general.file_type", FileType(weights));
  u32("general.quantization_version", 2);
  u32("llama.vocab_size", s.n_vocab);
  u32("llama.context_length", s.n_ctx);
  u32("llama.embedding_length", s.d_model);
  u32("llama.block_count", s.n_layers);
  u32("llama.feed_forward_length", s.d_ff);
  u32("llama.attention.head_count", s.n_heads);
  u32("llama.attention.head_count_kv", s.n_kv_heads);
  u32("llama.attention.key_length", s.head_dim);
  u32("llama.attention.value_length", s.head_dim);
  h.Add("llama.attention.layer_norm_rms_epsilon", GgufF32(1e-5f));
  u32("llama.rope.dimension_count", s.head_dim);
  h.Add("llama.rope.freq_base", GgufF32(static_cast<float>(s.rope_base)));
  AddTokenizer(s, &h);
  return h;
}

}  // namespace phasor::synth
