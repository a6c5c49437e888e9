// Beam search: the k likeliest continuations at a time, each a fork of the session they share, so
// that the cache grows by the branches only and one pass reads the newest token of all of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace phasor {

struct BeamOptions {
  int n_beams = 4;           // 1: greedy
  int64_t max_tokens = 128;  // of a continuation, the end token not counted; at least 1
  // A continuation's score is its log-probability divided by its length, the end token counted, to
  // this power. 0: the sum alone, which favours short ones.
  double length_penalty = 1.0;
  bool ignore_eos = false;
  const std::atomic<bool>* cancel = nullptr;
};

struct BeamHypothesis {
  std::vector<int32_t> tokens;  // without the end token
  std::string text = {};
  double log_probability = 0;  // natural, the end token's included
  double score = 0;
  // kEndOfText; kLength or kContextFull where it was cut; kCancelled.
  FinishReason reason = FinishReason::kLength;
};

struct BeamResult {
  std::vector<BeamHypothesis> hypotheses;  // at most n_beams, best first; at least one
  int64_t n_read = 0;                      // tokens that went through the model
  int64_t n_branches = 0;                  // times that a line of text split
  double milliseconds = 0;
};

// Continues the session's text, which must not be empty; the session itself is left as it was. Ends
// when n_beams continuations have ended, or at max_tokens. An end token ends a line when it is
// among the n_beams likeliest next steps. Equal probabilities: lower token id first.
Result<BeamResult> BeamSearch(const BeamOptions& options, Session* session);

}  // namespace phasor
