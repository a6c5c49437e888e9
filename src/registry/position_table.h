// Every position method phasor has. One line per method in position_table.cc.
#pragma once

#include <span>
#include <string_view>

#include "contracts/position_method.h"

namespace phasor {

std::span<const PositionMethodInfo* const> PositionMethods();
const PositionMethodInfo* FindPositionMethod(std::string_view id);  // null: unknown
// kInvalidArgument lists the known ids.
Result<PhaseTable> MakePhaseTable(const RopeParams& params);

}  // namespace phasor
