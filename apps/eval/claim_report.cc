#include "eval/claim_report.h"

#include <fmt/format.h>

namespace phasor::eval {

using Json = nlohmann::ordered_json;

Result<Json> JudgeClaims(const Declaration& d, const Measurements& measured) {
  Json out = Json::array();
  for (const Claim& claim : d.claims) {
    PHASOR_ASSIGN_OR_RETURN(Verdict verdict, Judge(claim, measured));
    std::string found;
    for (const Condition& c : claim.reproduced_if) {
      PHASOR_ASSIGN_OR_RETURN(double value, ConditionValue(c, measured));
      if (!found.empty()) found += ", ";
      found += Describe(c, value);
    }
    out.push_back({{"claim", claim.id},
                   {"paper", claim.paper},
                   {"source", claim.source},
                   {"counts_as_reproduced", claim.here},
                   {"null_result", claim.null_result},
                   {"measured", found},
                   {"verdict", VerdictName(verdict)}});
  }
  return out;
}

std::string ClaimText(const Json& claims, bool markdown) {
  std::string out;
  for (const Json& c : claims) {
    const auto text = [&](const char* key) { return c[key].get<std::string>(); };
    if (markdown) {
      out += fmt::format("- **{}: {}**\n", text("claim"), text("verdict"));
    } else {
      out += fmt::format("{}: {}\n", text("claim"), text("verdict"));
    }
    out +=
        fmt::format("  {}paper: {} ({})\n", markdown ? "- " : "  ", text("paper"), text("source"));
    out += fmt::format("  {}counts as reproduced: {}; null: {}\n", markdown ? "- " : "  ",
                       text("counts_as_reproduced"), text("null_result"));
    out += fmt::format("  {}measured: {}\n", markdown ? "- " : "  ", text("measured"));
  }
  return out;
}

}  // namespace phasor::eval
