// The verdicts on a declaration's claims, as a report.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/claims.h"
#include "phasor/status.h"

namespace phasor::eval {

// One object per claim: claim, paper, source, counts_as_reproduced, null_result, measured, verdict.
// kNotFound when a condition names something that was not measured.
Result<nlohmann::ordered_json> JudgeClaims(const Declaration& d, const Measurements& measured);
// The same as text, or as a Markdown list.
std::string ClaimText(const nlohmann::ordered_json& claims, bool markdown);

}  // namespace phasor::eval
