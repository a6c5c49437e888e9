#include "eval/text_windows.h"

#include <algorithm>

#include "contracts/kv_codec.h"

namespace phasor::eval {

std::vector<std::vector<int32_t>> TextWindows(const Tokenizer& tokenizer, const std::string& text,
                                              int64_t n_ctx, int64_t max_tokens) {
  const EncodeOptions options{.add_special = false, .parse_special = false};
  std::vector<int32_t> tokens = tokenizer.Encode(text, options);
  if (max_tokens > 0 && static_cast<int64_t>(tokens.size()) > max_tokens) tokens.resize(max_tokens);
  const bool bos = tokenizer.add_bos() && tokenizer.bos_id() >= 0;
  const int64_t per_window = std::max<int64_t>(1, n_ctx - (bos ? 1 : 0));
  std::vector<std::vector<int32_t>> windows;
  for (int64_t begin = 0; begin < static_cast<int64_t>(tokens.size()); begin += per_window) {
    const int64_t end = std::min<int64_t>(begin + per_window, static_cast<int64_t>(tokens.size()));
    std::vector<int32_t> window;
    if (bos) window.push_back(tokenizer.bos_id());
    window.insert(window.end(), tokens.begin() + begin, tokens.begin() + end);
    if (window.size() > 1) windows.push_back(std::move(window));
  }
  return windows;
}

int DepthBucket(int64_t position) {
  int bucket = 0;
  for (int64_t limit = 512; position >= limit; limit *= 2) ++bucket;
  return bucket;
}

std::string DepthBucketName(int bucket) {
  auto name = [](int64_t n) {
    return n >= 1024 ? std::to_string(n / 1024) + "k" : std::to_string(n);
  };
  const int64_t end = int64_t{512} << bucket;
  return name(bucket == 0 ? 0 : end / 2) + "-" + name(end);
}

std::vector<int64_t> DecodeAlignedSlices(int64_t n_tokens, int n_sink) {
  std::vector<int64_t> slices;
  for (int64_t done = 0; done < n_tokens;) {
    const int64_t n =
        std::min<int64_t>(done == 0 ? n_sink + kPageTokens : kPageTokens, n_tokens - done);
    slices.push_back(n);
    done += n;
  }
  return slices;
}

}  // namespace phasor::eval
