#include "registry/position_table.h"

#include "position/position.h"

namespace phasor {
namespace {

constexpr const PositionMethodInfo* kTable[] = {
    // clang-format off
    &kRopeMethod,
    &kLinearMethod,
    &kNtkMethod,
    &kDynamicNtkMethod,
    &kYarnMethod,
    &kLongRopeMethod,
    &kLlama3Method,
    &kGiraffePowerMethod,
    &kGiraffeTruncatedMethod,
    &kDpropeMethod,
    &kHopeMethod,
    &kNopeMethod,
    // clang-format on
};

}  // namespace

std::span<const PositionMethodInfo* const> PositionMethods() { return kTable; }

const PositionMethodInfo* FindPositionMethod(std::string_view id) {
  for (const PositionMethodInfo* info : kTable) {
    if (id == info->id) return info;
  }
  return nullptr;
}

Result<PhaseTable> MakePhaseTable(const RopeParams& params) {
  if (const PositionMethodInfo* info = FindPositionMethod(params.method)) return info->make(params);
  std::string known;
  for (const PositionMethodInfo* info : kTable) {
    known += (known.empty() ? "" : ", ") + std::string(info->id);
  }
  return InvalidArgument("rope method: expected one of " + known + ", found " + params.method);
}

}  // namespace phasor
