// Reuse of cached text after an edit, compared with reading the edited text afresh (PIE, He et al.
// 2024, arXiv 2407.03157): divergence of what follows, tokens read and time, by method and by the
// distance from the edit to the end of the text.
//
// Methods, by id:
//   unedited     the cache as it was before the edit: what ignoring the edit costs
//   stay         the edit is read, the rest stays at its old positions (the paper's "conflict")
//   pie          the edit is read, the rest is moved to its new positions
//   reread       the edit and all of the rest are read: exact, shows the floor of noise
//   behind:S     pie, and the share S of the rest right behind the edit is read again
//   tail:S       pie, and the share S at the end of the text is read again
//   spread:S     pie, and the share S in blocks at even distances is read again
//   deviating:S  pie, and the share S in blocks whose values in the second layer the edit changed
//                most (after CacheBlend, 2405.16444) is read again. An oracle: the values it looks
//                at come from the fresh reading, which is not counted.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "eval/edit_documents.h"
#include "eval/kld.h"
#include "phasor/status.h"

namespace phasor::eval {

inline constexpr int64_t kEditBlockTokens = 16;  // of spread and deviating

struct EditMethod {
  std::string id;    // as given
  std::string name;  // without the share
  double share = 0;
};
// kInvalidArgument: an unknown name, a share that is missing, superfluous or not in (0, 1].
Result<EditMethod> ParseEditMethod(const std::string& id);
const std::vector<std::string>& DefaultEditMethods();

// Which of n_rest tokens are read again, as ascending ranges of indices that do not touch, about
// share * n_rest tokens in all. deviation [n_rest]: for "deviating", else unused.
std::vector<std::pair<int64_t, int64_t>> SelectTokens(const EditMethod& method, int64_t n_rest,
                                                      const std::vector<float>& deviation);

struct EditEvalOptions {
  SessionOptions session;  // cache types, n_sink, n_recent, n_batch; n_ctx is set here
  std::vector<EditMethod> methods;
  std::function<void(int64_t, int64_t)> on_progress;  // done and total steps
  const std::atomic<bool>* cancel = nullptr;
};

// One edit with one method.
struct EditResult {
  EditMethod method;
  std::string kind;
  double depth = 0;
  int64_t n_tokens = 0;          // of the edited text
  int64_t distance = 0;          // tokens between the edit and the end of the text
  int64_t n_read = 0;            // tokens that went through the model before the text could go on
  double milliseconds = 0;       // of the edit, logits of the last token included
  double full_milliseconds = 0;  // of reading the whole edited text
  std::vector<float> kl;         // of every predicted token against the fresh reading, nats
  int64_t n_same_top = 0;        // likeliest tokens that are those of the fresh reading
  bool same_line = false;        // greedy decoding gives the line of the fresh reading
};

Result<std::vector<EditResult>> EvaluateEdits(const LoadedModel& model,
                                              const std::vector<EditDocument>& documents,
                                              const EditEvalOptions& options);

// One object per method: over all edits, "by_kind", and "by_distance" (to the end of the text).
Json EditReport(const std::vector<EditResult>& results);
// The report as tables: by method and kind, and by method and distance. csv: one row per method and
// group of edits.
std::string RenderEditTables(const Json& report, const std::string& format);

// Time of edits in a long text against reading all of it, on random tokens.
struct EditSpeedOptions {
  SessionOptions session;
  std::vector<int64_t> n_tokens = {8192};
  std::vector<double> shares = {0, 0.05, 0.15};  // of the rest, read again behind the edit
  double depth = 0.5;
  double edit_share = 0.01;  // new tokens over the text's
  int n_rounds = 3;          // of the edits; the median counts. The text is read once.
  // The cache is filled with random keys and values (bench/synthetic_fill.h) and reading the text
  // is timed on four chunks at even depths, instead of reading all of it.
  bool sampled = false;
  std::function<void(int64_t, int64_t)> on_progress;  // done and total tokens
  const std::atomic<bool>* cancel = nullptr;
};
// One object per length and share: n_tokens, n_edit, share, n_read, milliseconds,
// full_milliseconds, speedup, time_saved.
Result<Json> MeasureEditSpeed(const LoadedModel& model, const EditSpeedOptions& options);
std::string RenderEditSpeedTable(const Json& report, const std::string& format);

}  // namespace phasor::eval
