#include "registry/position_table.h"

#include "position/position.h"

namespace phasor {
namespace {

constexpr const PositionMethodInfo* kTable[] = {
    &kRopeMethod,
    &kLinearMethod,
    &kLlama3Method,
    &kYarnMethod,
};

}  // namespace

std::span<const PositionMethodInfo* const> PositionMethods() { return kTable; }

Result<PhaseTable> MakePhaseTable(const RopeParams& params) {
  std::string known;
  for (const PositionMethodInfo* info : kTable) {
    if (params.method == info->id) return info->make(params);
    known += (known.empty() ? "" : ", ") + std::string(info->id);
  }
  return InvalidArgument("rope method: expected one of " + known + ", found " + params.method);
}

}  // namespace phasor
