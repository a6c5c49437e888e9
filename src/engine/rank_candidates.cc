#include "engine/rank_candidates.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>

#include "engine/batched_read.h"

namespace phasor {
namespace {

using Clock = std::chrono::steady_clock;

// In double: sums over many tokens are compared to 1e-4.
double LogProbability(std::span<const float> logits, int32_t id) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x) - top);
  return static_cast<double>(logits[static_cast<std::size_t>(id)]) - top - std::log(sum);
}

Status CheckCandidates(std::span<const int32_t> context,
                       std::span<const std::vector<int32_t>> candidates, const Session& session) {
  if (candidates.empty()) {
    return InvalidArgument("rank: expected at least one candidate, found none");
  }
  if (context.empty() && session.n_tokens() == 0) {
    return InvalidArgument("rank: expected a context, found none");
  }
  const int n_vocab = session.model().config().n_vocab;
  for (const std::vector<int32_t>& candidate : candidates) {
    const std::string name =
        "rank: candidate " + std::to_string(&candidate - candidates.data() + 1);
    if (candidate.empty()) {
      return InvalidArgument(name + ": expected at least one token, found none");
    }
    for (int32_t id : candidate) {
      if (id >= 0 && id < n_vocab) continue;
      return InvalidArgument(name + ": expected token ids from 0 to " +
                             std::to_string(n_vocab - 1) + ", found " + std::to_string(id));
    }
  }
  return Status::Ok();
}

void Order(bool per_token, Ranking* ranking) {
  const auto key = [&](int i) {
    const CandidateScore& s = ranking->scores[i];
    return per_token ? s.per_token() : s.log_likelihood;
  };
  ranking->order.resize(ranking->scores.size());
  std::iota(ranking->order.begin(), ranking->order.end(), 0);
  std::stable_sort(ranking->order.begin(), ranking->order.end(),
                   [&](int a, int b) { return key(a) > key(b); });
}

// Reads the context, so that the session's logits predict a candidate's first token.
Status ReadContext(std::span<const int32_t> context, const RankOptions& options, Session* session,
                   Ranking* ranking) {
  ranking->n_read += static_cast<int64_t>(context.size());
  if (!context.empty()) {
    AppendOptions append;
    append.cancel = options.cancel;
    return session->Append(context, append);
  }
  return session->logits().empty() ? session->RefreshLogits() : Status::Ok();
}

// Scores candidates [first, last) on forks of the session. Their first tokens' logits are there.
Status ScoreBranches(std::span<const std::vector<int32_t>> candidates, std::size_t first,
                     std::size_t last, const RankOptions& options, const Session& session,
                     Ranking* ranking) {
  std::vector<std::unique_ptr<Session>> forks;
  std::vector<BatchAppend> items;
  std::vector<std::size_t> candidate_of;
  for (std::size_t i = first; i < last; ++i) {
    const std::vector<int32_t>& candidate = candidates[i];
    CandidateScore& score = ranking->scores[i];
    score.n_tokens = static_cast<int64_t>(candidate.size());
    score.log_likelihood = LogProbability(session.logits(), candidate[0]);
    if (candidate.size() == 1) continue;
    PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Session> fork, session.Fork());
    items.push_back({fork.get(), std::span(candidate).first(candidate.size() - 1)});
    forks.push_back(std::move(fork));
    candidate_of.push_back(i);
    ranking->n_read += score.n_tokens - 1;
  }
  BatchedReadOptions read;
  read.n_batch = session.options().n_batch;
  read.cancel = options.cancel;
  read.on_logits = [&](int item, int64_t index, std::span<const float> logits) {
    const std::size_t i = candidate_of[static_cast<std::size_t>(item)];
    ranking->scores[i].log_likelihood +=
        LogProbability(logits, candidates[i][static_cast<std::size_t>(index) + 1]);
  };
  return ReadBatched(items, read);
}

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

Result<Ranking> RankCandidates(std::span<const int32_t> context,
                               std::span<const std::vector<int32_t>> candidates,
                               const RankOptions& options, Session* session) {
  PHASOR_RETURN_IF_ERROR(CheckCandidates(context, candidates, *session));
  const auto start = Clock::now();
  Ranking ranking;
  ranking.scores.resize(candidates.size());
  PHASOR_RETURN_IF_ERROR(ReadContext(context, options, session, &ranking));
  // Branches live for a pass, so that the blocks they take are bounded by its size.
  const auto n_batch = static_cast<std::size_t>(session->options().n_batch);
  for (std::size_t first = 0; first < candidates.size();) {
    std::size_t last = first, n = 0;
    while (last < candidates.size() && (last == first || n + candidates[last].size() <= n_batch)) {
      n += candidates[last++].size();
    }
    PHASOR_RETURN_IF_ERROR(ScoreBranches(candidates, first, last, options, *session, &ranking));
    first = last;
  }
  ranking.milliseconds = MillisecondsSince(start);
  Order(options.per_token, &ranking);
  return ranking;
}

Result<Ranking> RankSeparately(std::span<const int32_t> context,
                               std::span<const std::vector<int32_t>> candidates,
                               const RankOptions& options, const Session& session) {
  PHASOR_RETURN_IF_ERROR(CheckCandidates(context, candidates, session));
  const auto start = Clock::now();
  Ranking ranking;
  ranking.scores.resize(candidates.size());
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Session> own, session.Fork());
    PHASOR_RETURN_IF_ERROR(ReadContext(context, options, own.get(), &ranking));
    const std::vector<int32_t>& candidate = candidates[i];
    CandidateScore& score = ranking.scores[i];
    score.n_tokens = static_cast<int64_t>(candidate.size());
    score.log_likelihood = LogProbability(own->logits(), candidate[0]);
    if (candidate.size() == 1) continue;
    AppendOptions append;
    append.cancel = options.cancel;
    append.on_logits = [&](int64_t index, std::span<const float> logits) {
      score.log_likelihood +=
          LogProbability(logits, candidate[static_cast<std::size_t>(index) + 1]);
    };
    PHASOR_RETURN_IF_ERROR(own->Append(std::span(candidate).first(candidate.size() - 1), append));
    ranking.n_read += score.n_tokens - 1;
  }
  ranking.milliseconds = MillisecondsSince(start);
  Order(options.per_token, &ranking);
  return ranking;
}

}  // namespace phasor
