// KvCodec: how one KV head of one layer is stored in the cache.
//
// Shapes: T tokens, D head size, P = D/2 pairs, g query heads that share this KV head.
//
// The cache is made of pages of kPageTokens tokens. A codec object is bound to one (layer, KV head,
// role) when it is made, is immutable afterwards and may be used from many threads. It never sees
// positions: keys arrive after RoPE. First tokens and newest tokens are kept by the cache in a
// 16-bit (or f32) *row codec*, so other codecs only ever see pages that will not change again.
//
// Rotation: a codec that stores vectors in another basis (Hadamard) implements Rotate. The cache
// applies it to K or V rows before anything is stored (window included), attention applies the key
// codec's Rotate to the queries and the value codec's Unrotate to its output. All other functions
// work in that basis. It is orthonormal for keys; for values any that Unrotate leads back from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "phasor/status.h"
#include "simd/line_fetcher.h"

namespace phasor {

inline constexpr int kPageTokens = 128;

enum class KvRole { kKey, kValue };

// Which two of a head's dimensions RoPE turns together, for the first n_rot dimensions.
enum class RopePairing {
  kInterleaved,  // pair j = (x[2j], x[2j+1]); GGUF files of the llama family
  kHalfSplit,    // pair j = (x[j], x[j + n_rot/2]); Hugging Face and GGUF qwen
};

struct KvCodecParams {
  int head_dim = 0;  // D
  int n_rot = 0;     // rotated dimensions, even, <= D; 0 when the model has no RoPE
  RopePairing pairing = RopePairing::kHalfSplit;
  KvRole role = KvRole::kKey;
  int layer = 0;
  int kv_head = 0;
  // RoPE frequency of each rotated pair [n_rot / 2], radians per token; empty: unknown.
  std::span<const float> omega_P = {};
  // Calibrated width classes; number and meaning are the codec's. Empty: uniform widths.
  std::span<const uint8_t> classes = {};
  // Keys: second moments of the queries as any page's codes meet them, [D, D], symmetric; their
  // unit does not matter. Rounding errors of one channel may then be made up for in others. Only
  // encoding reads them. Empty: unknown.
  std::span<const float> query_moments_DD = {};
  // Values: directions [n, D] that they favour, about orthonormal, and what their part in each is
  // multiplied by, [n], > 0, before they are stored. Empty: none.
  std::span<const float> direction_ND = {};
  std::span<const float> factor_N = {};
};

// One page of a batch: see KvCodec::ScorePage and AccumulatePage. next: wanted soon.
struct PageToScore {
  const std::byte* page;
  int n_tokens;
  float* score_GT;
  Upcoming next = {};
};
struct PageToAccumulate {
  const float* weight_GT;
  const std::byte* page;
  int n_tokens;
  Upcoming next = {};
};

class KvCodec {
 public:
  virtual ~KvCodec() = default;

  // Bytes of one page of this head, metadata included; the true cost that is reported to users.
  virtual std::size_t PageBytes() const = 0;

  // x_TD: [n_tokens, D] row-major; 1 <= n_tokens <= kPageTokens. `page`: PageBytes() bytes, 64-byte
  // aligned. Every byte of the page is written. Non-finite input never traps and decodes to finite
  // numbers (a NaN counts as 0, an infinity as the largest 16-bit number).
  virtual void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const = 0;

  // The stored vectors of tokens [0, n_tokens): [n_tokens, D].
  virtual void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const = 0;

  // Keys. Prepares q_GD [g, D] (already multiplied by the softmax scale) once per token; the
  // result, PreparedQueryBytes(g) bytes at 64-byte alignment, serves every page of this head.
  virtual std::size_t PreparedQueryBytes(int g) const = 0;
  virtual void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const = 0;
  // score[i * kPageTokens + t] = q_i . key_t for t < n_tokens; entries beyond are unspecified.
  virtual void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                         float* score_GT) const = 0;

  // Values. out_GD[i] += sum_t weight[i * kPageTokens + t] * value_t over t < n_tokens.
  // Weights are >= 0.
  virtual void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                              float* out_GD) const = 0;

  // The same for several pages, fetching what comes next meanwhile. Default: one after the other,
  // fetching first.
  virtual void ScorePages(const std::byte* prepared, int g,
                          std::span<const PageToScore> pages) const {
    for (const PageToScore& p : pages) {
      Fetch(p.next);
      ScorePage(prepared, g, p.page, p.n_tokens, p.score_GT);
    }
  }
  virtual void AccumulatePages(int g, std::span<const PageToAccumulate> pages,
                               float* out_GD) const {
    for (const PageToAccumulate& p : pages) {
      Fetch(p.next);
      AccumulatePage(p.weight_GT, g, p.page, p.n_tokens, out_GD);
    }
  }

  // Change of basis of n rows of D floats, in place. Default: identity.
  virtual bool HasRotation() const { return false; }
  virtual void Rotate(float* x_ND, int n) const {}
  virtual void Unrotate(float* x_ND, int n) const {}

 private:
  static void Fetch(Upcoming next) {
    if (next.n_bytes > 0) LineFetcher(next, 1).Step();
  }
};

// A codec whose tokens are stored row by row, so that single tokens can be appended: what the
// newest and the first tokens are kept in.
class RowKvCodec : public KvCodec {
 public:
  // Writes tokens [first, first + n) of the page.
  virtual void EncodeRows(const float* x_ND, int first, int n, std::byte* page) const = 0;
};

// What the shelf says about a codec; one constant entry per id in src/registry/kv_codec_table.cc.
struct KvCodecInfo {
  const char* id;       // flag value, JSON value, file stem
  const char* summary;  // one line
  const char* source;   // paper or project, with arXiv id where there is one
  bool for_keys;
  bool for_values;
  bool exact;               // stores its input type without loss (f32 only relative to float)
  bool uses_calibration;    // reads KvCodecParams::classes
  double nominal_bits_64;   // bits per element at head size 64, metadata included
  double nominal_bits_128;  // the same at head size 128
  // Fails with kUnsupported where the head size or role does not fit.
  Result<std::unique_ptr<KvCodec>> (*make)(const char* id, const KvCodecParams& params);
  // Of the page's bytes: one more with every change, or saved pages would be misread.
  int layout = 1;
};

}  // namespace phasor
