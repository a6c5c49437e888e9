#include "engine/rewrite.h"

#include <dtl/dtl.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace phasor {
namespace {

using Tokens = std::vector<int32_t>;

// Hunks of the middle part, whose first token is number `at` of the old text.
void DiffMiddle(const Tokens& before, const Tokens& after, int64_t at,
                std::vector<TextHunk>* hunks) {
  dtl::Diff<int32_t, Tokens> diff(before, after);
  diff.onHuge();
  diff.compose();
  bool open = false;
  for (const auto& [token, info] : diff.getSes().getSequence()) {
    if (info.type == dtl::SES_COMMON) {
      open = false;
      ++at;
      continue;
    }
    if (!open) hunks->push_back({.begin = at, .end = at, .tokens = {}});
    open = true;
    if (info.type == dtl::SES_DELETE) {
      hunks->back().end = ++at;
    } else {
      hunks->back().tokens.push_back(token);
    }
  }
}

}  // namespace

std::vector<TextHunk> DiffTokens(std::span<const int32_t> before, std::span<const int32_t> after) {
  std::size_t head = 0, tail = 0;
  const std::size_t shorter = std::min(before.size(), after.size());
  while (head < shorter && before[head] == after[head]) ++head;
  while (tail < shorter - head &&
         before[before.size() - 1 - tail] == after[after.size() - 1 - tail]) {
    ++tail;
  }
  const Tokens old_middle(before.begin() + static_cast<std::ptrdiff_t>(head),
                          before.end() - static_cast<std::ptrdiff_t>(tail));
  const Tokens new_middle(after.begin() + static_cast<std::ptrdiff_t>(head),
                          after.end() - static_cast<std::ptrdiff_t>(tail));
  std::vector<TextHunk> hunks;
  const auto at = static_cast<int64_t>(head);
  if (old_middle.empty() && new_middle.empty()) return hunks;
  if (old_middle.empty() || new_middle.empty()) {
    hunks.push_back({at, at + static_cast<int64_t>(old_middle.size()), new_middle});
  } else {
    DiffMiddle(old_middle, new_middle, at, &hunks);
  }
  return hunks;
}

Result<RewriteReport> RewriteText(Session& session, std::span<const int32_t> after,
                                  const ReplaceOptions& options) {
  if (after.empty()) return InvalidArgument("rewrite: expected a text, found none");
  const auto start = std::chrono::steady_clock::now();
  std::vector<TextHunk> hunks = DiffTokens(session.tokens(), after);
  RewriteReport report;
  report.n_hunks = static_cast<int64_t>(hunks.size());
  report.n_reused_exact = hunks.empty() ? session.n_tokens() : hunks.front().begin;
  PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> before, session.Fork());
  int64_t moved = 0;  // what earlier hunks added to the place of this one
  for (std::size_t i = 0; i < hunks.size(); ++i) {
    TextHunk& hunk = hunks[i];
    const int64_t next = i + 1 < hunks.size() ? hunks[i + 1].begin : before->n_tokens();
    report.n_removed += hunk.end - hunk.begin;
    report.n_inserted += static_cast<int64_t>(hunk.tokens.size());
    // The unchanged text up to the next hunk: its first part is read with this one.
    const bool all = options.rest == ReplaceOptions::Rest::kReread;
    const int64_t n_again =
        all ? next - hunk.end
            : std::llround(options.recompute * static_cast<double>(next - hunk.end));
    const auto from = before->tokens().begin() + hunk.end;
    hunk.tokens.insert(hunk.tokens.end(), from, from + n_again);
    ReplaceOptions replace = options;
    replace.recompute = 0;
    if (all) replace.rest = ReplaceOptions::Rest::kReposition;
    const auto done =
        session.Replace(hunk.begin + moved, hunk.end + n_again + moved, hunk.tokens, replace);
    if (!done.ok()) {
      session.TakeTextOf(*before);
      return done.status().WithPrefix("change " + std::to_string(i + 1) + " of " +
                                      std::to_string(hunks.size()));
    }
    report.n_read += done->n_read;
    moved += static_cast<int64_t>(hunk.tokens.size()) - (hunk.end + n_again - hunk.begin);
  }
  report.n_reused_stale = session.n_tokens() - report.n_reused_exact - report.n_read;
  report.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace phasor
