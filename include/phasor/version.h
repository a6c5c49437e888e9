// The version of the installed library.
#pragma once

namespace phasor {

// "major.minor.patch", as in the CMake package; never null, static storage.
const char* Version();

}  // namespace phasor
