// Bringing a session's text up to date with an edited version of it: what changed is read, the rest
// is reused at its new place (PIE, 2407.03157, applied to every hunk of a diff).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace phasor {

// One change: old tokens [begin, end) become `tokens`.
struct TextHunk {
  int64_t begin = 0, end = 0;
  std::vector<int32_t> tokens;
};

// The hunks that turn `before` into `after`, in order, none touching the next. Shortest edit script
// (Wu, Manber, Myers and Miller 1990, through the dtl library) between the common beginning and the
// common end.
std::vector<TextHunk> DiffTokens(std::span<const int32_t> before, std::span<const int32_t> after);

struct RewriteReport {
  int64_t n_hunks = 0, n_removed = 0, n_inserted = 0;
  int64_t n_read = 0;          // tokens that went through the model
  int64_t n_reused_exact = 0;  // before the first change: same left context
  int64_t n_reused_stale = 0;  // behind it: right place, approximate content
  double milliseconds = 0;
};

// Makes `session` hold `after`. ReplaceOptions::recompute is the share of every unchanged stretch
// behind a hunk that is read again with it; kReread reads everything from the first hunk on. On an
// error or a cancellation the session is as before. Pinned text is never changed
// (kInvalidArgument).
Result<RewriteReport> RewriteText(Session& session, std::span<const int32_t> after,
                                  const ReplaceOptions& options = {});

}  // namespace phasor
