#include "eval/experiment.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace phasor::eval {
namespace {

constexpr const Experiment* kTable[] = {
    &kAnchorExperiment,
    &kUniEncoderExperiment,
    &kGpeExperiment,
    &kV2peExperiment,
};

}  // namespace

Result<const Experiment*> FindExperiment(const std::string& id) {
  std::string known;
  for (const Experiment* e : kTable) {
    if (id == e->id) return e;
    known += (known.empty() ? "" : ", ") + std::string(e->id);
  }
  return NotFound("reproduce: expected an experiment out of " + known + ", found " + id);
}

Status CheckCancelled(const ExperimentInput& input) {
  if (input.cancel == nullptr || !input.cancel->load()) return Status::Ok();
  return Cancelled("reproduce: stopped by Ctrl-C");
}

Result<std::unique_ptr<Session>> PlainSession(const LoadedModel& model, int64_t n_ctx,
                                              const char* cache_type) {
  SessionOptions options;
  options.n_ctx = n_ctx;
  options.type_k = options.type_v = cache_type;
  return Session::Create(model, options);
}

double RelativeDifference(std::span<const float> a, std::span<const float> b) {
  PHASOR_CHECK(a.size() == b.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

}  // namespace phasor::eval
