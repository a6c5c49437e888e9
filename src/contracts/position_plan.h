// PositionPlan: from tokens with labels to the places where they stand, and to what each may see.
//
// A position method (position_method.h) says how far a position turns a key; a plan says which
// position a token has. Plans are asked span by span, in the order of the sequence, and may be
// asked for any pieces of a span: the positions do not depend on how the text was cut.
//
// Masks are not needed to carry out a plan: text that does not see other text is read on a fork of
// what it sees (src/engine/packed_documents.h, src/engine/two_streams.h). Sees() is the rule those
// forms are tested against, and what attended pairs are counted with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "contracts/position_method.h"
#include "phasor/status.h"

namespace phasor {

enum class SpanKind : uint8_t { kText, kImage };
enum class StreamRole : uint8_t { kSource, kTarget };

// A run of tokens with equal labels.
struct PlanSpan {
  int64_t n_tokens = 0;  // not negative
  SpanKind kind = SpanKind::kText;
  // Documents packed into one sequence are numbered from 1; 0 is what all of them share (an
  // anchor).
  int document = 0;
  StreamRole role = StreamRole::kSource;
  // Images: spans with the same number that follow each other are one image. Its tokens come expert
  // by expert, row by row, n_columns to a row and n_rows to an expert.
  int64_t image = 0;
  int n_rows = 1, n_columns = 1;
};

// What tokens of an image share one position (MouSi, 2401.17221).
enum class PositionSharing : uint8_t { kToken, kRow, kExpert };

struct PositionPlanOptions {
  std::string id = "sequential";
  PositionTicks target_start = 0;                   // gpe: phi
  int stride = 64;                                  // v2pe: of 256; a power of two from 1 to 256
  PositionSharing sharing = PositionSharing::kRow;  // shared_ids
};

// State of one sequence. An error changes nothing.
class PositionPlan {
 public:
  virtual ~PositionPlan() = default;

  // Appends the positions of the span's tokens, [n_tokens]. kInvalidArgument names a label that
  // the plan cannot place.
  virtual Status Extend(const PlanSpan& span, std::vector<PositionTicks>* positions) = 0;
  // Where text that goes on with the labels of the last span would stand; 0 before the first.
  virtual PositionTicks next_position() const = 0;
  // Whether a token of `query` sees one of `key` that comes before it in the sequence. Every token
  // sees itself.
  virtual bool Sees(const PlanSpan& query, const PlanSpan& key) const { return true; }
};

struct PositionPlanInfo {
  const char* id;
  const char* summary;
  const char* source;
  // kInvalidArgument for options out of range.
  Result<std::unique_ptr<PositionPlan>> (*make)(const PositionPlanOptions& options);
};

}  // namespace phasor
