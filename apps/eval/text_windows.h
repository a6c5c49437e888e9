// Cutting a text into evaluation windows, and the depth buckets results are reported by.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tokenizer.h"

namespace phasor::eval {

// Windows of at most n_ctx tokens. Where the model asks for BOS, every window starts with it (and
// it counts towards n_ctx). Every token but a window's first is scored. A last window of a single
// token, which scores nothing, is dropped.
std::vector<std::vector<int32_t>> TextWindows(const Tokenizer& tokenizer, const std::string& text,
                                              int64_t n_ctx, int64_t max_tokens);

// Depth buckets 0-512, -1k, -2k, -4k, ... up to n_ctx; the bucket of the token at `position`.
int DepthBucket(int64_t position);
std::string DepthBucketName(int bucket);  // "0-512", "512-1k", "1k-2k", ...

// Slices of a window as decoding would freeze the cache: n_sink + 128 tokens first, then 128 each,
// so that every query sees exactly the 16-bit window it would see when tokens come one by one.
std::vector<int64_t> DecodeAlignedSlices(int64_t n_tokens, int n_sink);

}  // namespace phasor::eval
