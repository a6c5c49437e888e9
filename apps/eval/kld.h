// Scores cache types on a text: perplexity, and KL divergence against a base cache, by depth.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "phasor/status.h"

namespace phasor::eval {

using Json = nlohmann::ordered_json;

struct CacheTypes {
  std::string k, v;  // cache codec ids
};

// "k:v,k:v,..." as in "polar:q4_head,q4_0:q4_0". With ";" in it, that separates, so that k and v
// may be lists ("frame4,f16:q4_head;q4_0:q4_0").
Result<std::vector<CacheTypes>> ParseCacheTypes(const std::string& text);

struct CacheEvalOptions {
  SessionOptions session;  // n_ctx, n_sink, n_recent; types and n_batch are set here
  std::vector<CacheTypes> types;
  std::optional<CacheTypes> base;  // without it: perplexity alone
  // Scores every token on the codes as decode does, instead of decoding pages for blocks of queries
  // as prefill does. The base is always read in blocks: its result is the yardstick.
  bool score_codes = false;
  std::function<void(int64_t done, int64_t total)> on_progress;  // in tokens of the text
  const std::atomic<bool>* cancel = nullptr;
};

// What is known of one scored token. The last three are 0 without a base.
struct TokenScore {
  int64_t position;  // of the token that was predicted
  float nll, base_nll, kl;
  bool same_top;
};

struct CacheScores {
  CacheTypes types;
  std::vector<TokenScore> tokens;
  double bits = 0, page_bits = 0;  // per element of K and V together, at the last window's end
};

// Reads every window with every cache type, slice by slice and the base first, so that all see the
// same text and only one slice of base logits is kept. Windows come from TextWindows.
Result<std::vector<CacheScores>> EvaluateCaches(const LoadedModel& model,
                                                const std::vector<std::vector<int32_t>>& windows,
                                                const CacheEvalOptions& options);

// One object per cache type: nll, ppl, ..., with a base also ppl_ratio, mean_kl, median_kl, kl_99,
// kl_999, max_kl, same_top; the same per depth bucket in "by_depth".
Json ScoreReport(const std::vector<CacheScores>& scores, bool with_base);
// Written to a temporary file and renamed.
Status SaveReport(const Json& report, const std::string& path);
// The report as a table: one row per cache type and depth. format: plain, md, csv or json.
std::string RenderScoreTable(const Json& report, bool with_base, const std::string& format);

}  // namespace phasor::eval
