#include "engine/beam_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "cache/compact_tail.h"

namespace phasor {
namespace {

// Blocks of rows that a line may hold before they are joined to one.
constexpr int kMaxTailPieces = 6;

struct Beam {
  std::unique_ptr<Session> session;
  std::vector<int32_t> tokens;
  double log_probability = 0;
};

struct Step {
  std::size_t beam = 0;
  int32_t token = 0;
  double log_probability = 0;  // of the whole line
};

bool Likelier(const Step& a, const Step& b) {
  if (a.log_probability != b.log_probability) return a.log_probability > b.log_probability;
  return std::pair(a.beam, a.token) < std::pair(b.beam, b.token);
}

class Search {
 public:
  Search(const BeamOptions& options, const Session& base)
      : options_(options), base_(base), tokenizer_(base.model().tokenizer()) {}

  Status Run() {
    PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Session> root, base_.Fork());
    beams_.push_back({std::move(root), {}, 0});
    for (int64_t length = 0; length < options_.max_tokens && !beams_.empty(); ++length) {
      if (options_.cancel != nullptr && options_.cancel->load()) {
        return Finish(FinishReason::kCancelled);
      }
      PHASOR_ASSIGN_OR_RETURN(const std::vector<Step> steps, LikeliestSteps());
      PHASOR_RETURN_IF_ERROR(Take(steps));
      // The last token of a line is chosen, not read.
      if (base_.n_tokens() + length >= base_.n_ctx()) return Finish(FinishReason::kContextFull);
      if (!Done() && length + 1 < options_.max_tokens) PHASOR_RETURN_IF_ERROR(Read());
    }
    return Finish(FinishReason::kLength);
  }

  BeamResult& result() { return result_; }

 private:
  bool Done() const { return static_cast<int>(result_.hypotheses.size()) >= options_.n_beams; }

  // The 2k likeliest steps over all beams: enough for k that go on however many of k lines end.
  Result<std::vector<Step>> LikeliestSteps() const {
    std::vector<Step> steps;
    const auto n_wanted = 2 * static_cast<std::size_t>(options_.n_beams);
    for (std::size_t b = 0; b < beams_.size(); ++b) {
      const std::span<const float> logits = beams_[b].session->logits();
      const std::size_t begin = steps.size();
      double top = -INFINITY, sum = 0;
      for (float x : logits) top = std::max(top, static_cast<double>(x));
      if (!std::isfinite(top)) {
        return DataCorrupt("beam search: expected finite logits, found none");
      }
      for (float x : logits) sum += std::isnan(x) ? 0.0 : std::exp(static_cast<double>(x) - top);
      const double log_sum = top + std::log(sum);
      for (std::size_t id = 0; id < logits.size(); ++id) {
        if (std::isnan(logits[id])) continue;
        steps.push_back(
            {b, static_cast<int32_t>(id), beams_[b].log_probability + (logits[id] - log_sum)});
      }
      const auto n_kept = std::min(n_wanted, steps.size() - begin);
      const auto from = steps.begin() + static_cast<std::ptrdiff_t>(begin);
      std::partial_sort(from, from + static_cast<std::ptrdiff_t>(n_kept), steps.end(), Likelier);
      steps.resize(begin + n_kept);
    }
    std::sort(steps.begin(), steps.end(), Likelier);
    if (steps.size() > n_wanted) steps.resize(n_wanted);
    return steps;
  }

  // The next beams, without their newest tokens read.
  Status Take(const std::vector<Step>& steps) {
    std::vector<Beam> next;
    const auto n_beams = static_cast<std::size_t>(options_.n_beams);
    std::vector<Step> kept;
    for (std::size_t rank = 0; rank < steps.size() && kept.size() < n_beams && !Done(); ++rank) {
      const Step& step = steps[rank];
      if (tokenizer_.IsEndOfGeneration(step.token) && !options_.ignore_eos) {
        if (rank < n_beams) {
          AddHypothesis(beams_[step.beam].tokens, step.log_probability, 1,
                        FinishReason::kEndOfText);
        }
        continue;
      }
      kept.push_back(step);
    }
    if (Done()) {
      beams_.clear();
      return Status::Ok();
    }
    // Forks first; the last line out of a beam takes its session over.
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const Step& step = kept[i];
      const bool splits = std::any_of(kept.begin() + static_cast<std::ptrdiff_t>(i) + 1, kept.end(),
                                      [&](const Step& later) { return later.beam == step.beam; });
      Beam beam{nullptr, beams_[step.beam].tokens, step.log_probability};
      beam.tokens.push_back(step.token);
      if (splits) {
        PHASOR_ASSIGN_OR_RETURN(beam.session, beams_[step.beam].session->Fork());
        ++result_.n_branches;
      } else {
        beam.session = std::move(beams_[step.beam].session);
      }
      next.push_back(std::move(beam));
    }
    beams_ = std::move(next);
    return Status::Ok();
  }

  Status Read() {
    if (beams_.empty()) return Status::Ok();
    std::vector<BatchAppend> items;
    for (Beam& beam : beams_) {
      items.push_back({beam.session.get(), std::span(beam.tokens).last(1)});
    }
    result_.n_read += static_cast<int64_t>(items.size());
    PHASOR_RETURN_IF_ERROR(AppendBatch(items));
    // Every branch begins a block; lines that branched often are joined, or they would hold a
    // block per token.
    for (Beam& beam : beams_) {
      PHASOR_RETURN_IF_ERROR(
          CompactTail(kMaxTailPieces, &beam.session->cache(), base_.model().pool()));
    }
    return Status::Ok();
  }

  void AddHypothesis(const std::vector<int32_t>& tokens, double log_probability, int n_end,
                     FinishReason reason) {
    const auto length = static_cast<double>(tokens.size()) + n_end;
    TokenStream stream(&tokenizer_);
    BeamHypothesis h;
    h.tokens = tokens;
    h.log_probability = log_probability;
    h.reason = reason;
    for (int32_t id : tokens) h.text += stream.Put(id);
    h.text += stream.Flush();
    h.score = log_probability / std::pow(std::max(length, 1.0), options_.length_penalty);
    result_.hypotheses.push_back(std::move(h));
  }

  // Lines that have not ended fill up what is left.
  Status Finish(FinishReason reason) {
    for (const Beam& beam : beams_) {
      if (!Done()) AddHypothesis(beam.tokens, beam.log_probability, 0, reason);
    }
    std::stable_sort(
        result_.hypotheses.begin(), result_.hypotheses.end(),
        [](const BeamHypothesis& a, const BeamHypothesis& b) { return a.score > b.score; });
    return Status::Ok();
  }

  const BeamOptions& options_;
  const Session& base_;
  const Tokenizer& tokenizer_;
  std::vector<Beam> beams_;  // likeliest first
  BeamResult result_;
};

}  // namespace

Result<BeamResult> BeamSearch(const BeamOptions& options, Session* session) {
  constexpr int kMaxBeams = 1024;
  if (options.n_beams < 1 || options.n_beams > kMaxBeams) {
    return InvalidArgument("beam search: expected from 1 to 1024 beams, found " +
                           std::to_string(options.n_beams));
  }
  if (options.max_tokens < 1 || !std::isfinite(options.length_penalty)) {
    return InvalidArgument(
        "beam search: expected at least 1 token and a finite length penalty, found " +
        std::to_string(options.max_tokens) + " and " + std::to_string(options.length_penalty));
  }
  if (session->n_tokens() == 0) {
    return InvalidArgument("beam search: expected a prompt before, found none");
  }
  const auto start = std::chrono::steady_clock::now();
  if (session->logits().empty()) PHASOR_RETURN_IF_ERROR(session->RefreshLogits());
  Search search(options, *session);
  PHASOR_RETURN_IF_ERROR(search.Run());
  BeamResult result = std::move(search.result());
  result.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace phasor
