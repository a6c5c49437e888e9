// Runs a parsed template.
#pragma once

#include <string>

#include "formats/jinja/ast.h"

namespace phasor::jinja {

// Calls and blocks that may be active at once, whatever the template does.
inline constexpr int kMaxEvalDepth = 800;

// `context` is a dict with the variables of the template. Throws TemplateError; limits as in
// Budget. Thread-safe: the tree is only read.
std::string Render(const Block& block, const Value& context);

}  // namespace phasor::jinja
