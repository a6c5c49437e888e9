// From template source to its tree.
#pragma once

#include <string_view>

#include "formats/jinja/ast.h"

namespace phasor::jinja {

// Nesting of brackets, operators, filters and statements; real templates stay below 40.
inline constexpr int kMaxParseDepth = 150;

// Throws TemplateError with a line number.
Block Parse(std::string_view source);

}  // namespace phasor::jinja
