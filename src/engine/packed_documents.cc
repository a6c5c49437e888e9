#include "engine/packed_documents.h"

#include <chrono>
#include <memory>

#include "base/check.h"
#include "engine/batched_read.h"
#include "registry/position_plan_table.h"

namespace phasor {
namespace {

std::vector<PlanSpan> Spans(std::span<const std::vector<int32_t>> documents, std::size_t n_anchor) {
  std::vector<PlanSpan> spans;
  if (n_anchor > 0) spans.push_back({.n_tokens = static_cast<int64_t>(n_anchor)});
  for (const std::vector<int32_t>& document : documents) {
    PlanSpan span{.n_tokens = static_cast<int64_t>(document.size())};
    span.document = 1 + static_cast<int>(&document - documents.data());
    spans.push_back(span);
  }
  return spans;
}

Status CheckRequest(std::span<const std::vector<int32_t>> documents, const PackOptions& options) {
  PHASOR_ASSIGN_OR_RETURN(const auto plan, MakePositionPlan(options.plan));
  if (plan->Sees({.document = 2}, {.document = 1}) || !plan->Sees({.document = 2}, {})) {
    return Unsupported(
        "packing: expected a plan that keeps documents apart (anchor, document_reset), found " +
        options.plan.id);
  }
  for (const std::vector<int32_t>& document : documents) {
    if (document.empty()) {
      return InvalidArgument(
          "packing: expected documents of at least one token, found none in "
          "document " +
          std::to_string(&document - documents.data() + 1));
    }
  }
  return Status::Ok();
}

Status Pack(std::span<const std::vector<int32_t>> documents, const PackOptions& options,
            std::span<const PlanSpan> spans, Session* session, PackReport* report) {
  PHASOR_ASSIGN_OR_RETURN(const auto plan, MakePositionPlan(options.plan));
  std::vector<PositionTicks> positions;
  for (const PlanSpan& span : spans) PHASOR_RETURN_IF_ERROR(plan->Extend(span, &positions));
  if (static_cast<int64_t>(positions.size()) > session->n_ctx()) {
    return OutOfRange("packing: expected at most " + std::to_string(session->n_ctx()) +
                      " tokens, found " + std::to_string(positions.size()));
  }
  const std::span<const PositionTicks> all(positions);
  std::size_t at = options.anchor.size();
  if (at > 0) {
    AppendOptions append;
    append.cancel = options.cancel;
    append.positions = all.subspan(0, at);
    PHASOR_RETURN_IF_ERROR(session->Append(options.anchor, append));
  }
  std::vector<std::unique_ptr<Session>> forks;
  std::vector<BatchAppend> items;
  for (const std::vector<int32_t>& document : documents) {
    PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Session> fork, session->Fork());
    items.push_back({fork.get(), document, all.subspan(at, document.size())});
    report->first_token.push_back(static_cast<int64_t>(at));
    at += document.size();
    forks.push_back(std::move(fork));
  }
  BatchedReadOptions read;
  read.n_batch = session->options().n_batch;
  read.cancel = options.cancel;
  read.on_logits = options.on_logits;
  PHASOR_RETURN_IF_ERROR(ReadBatched(items, read));
  const auto n_anchor = static_cast<int64_t>(options.anchor.size());
  for (std::size_t i = 0; i < forks.size(); ++i) {
    PHASOR_ASSIGN_OR_RETURN(const TextSpan span, forks[i]->Slice(n_anchor, forks[i]->n_tokens()));
    forks[i].reset();  // its blocks are the span's alone now
    // That a document sees nothing of those before it is the plan, so it is not stale.
    PHASOR_RETURN_IF_ERROR(
        session->Attach(span, {.position = items[i].positions.front(), .same_left_context = true}));
  }
  session->cache().SetNextPosition(plan->next_position());
  report->n_tokens = session->n_tokens();
  return Status::Ok();
}

}  // namespace

Result<PackReport> ReadPacked(std::span<const std::vector<int32_t>> documents,
                              const PackOptions& options, Session* session) {
  PHASOR_CHECK(session->n_tokens() == 0);
  PHASOR_RETURN_IF_ERROR(CheckRequest(documents, options));
  const auto start = std::chrono::steady_clock::now();
  const std::vector<PlanSpan> spans = Spans(documents, options.anchor.size());
  PackReport report;
  PHASOR_ASSIGN_OR_RETURN(report.n_pairs, CountAttendedPairs(options.plan, spans));
  if (Status s = Pack(documents, options, spans, session, &report); !s.ok()) {
    session->Clear();
    return s;
  }
  report.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace phasor
