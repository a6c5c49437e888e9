// A cheap pass over untrusted JSON before anything builds a tree of it.
#pragma once

#include <string>
#include <string_view>

#include "phasor/status.h"

namespace phasor {

// Far above what model folders hold, far below what a recursive walk of the tree can take.
inline constexpr int kMaxJsonDepth = 64;

// Ok when `text` is one valid JSON object nested at most kMaxJsonDepth deep. Builds nothing, so
// the memory it takes does not depend on the text. kDataCorrupt with "<where>: ..." otherwise.
Status CheckJsonObject(std::string_view text, const std::string& where);

}  // namespace phasor
