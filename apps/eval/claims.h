// What a paper claims, what counts as reproducing it, and the verdict: reproduce/<id>.json.
//
// A declaration holds the paper ("paper"), what is run here ("quality": cache types against a base
// by depth; "speed": score time per key codec; or, of kind "parallel", "parallel": the flags of
// `eval parallel`), and a list of claims. A claim's verdict follows
// from conditions on what was measured, written down before the measuring:
//   {"metric": "mean_kl", "of": "polar44", "over": "q4_0", "at_most": 1.0}
// reads: the mean KL of polar44 divided by that of q4_0 is at most 1. Without "over" the value
// itself is compared. All of "null_if" hold (and there are some): null, the measurement shows no
// effect or could not show one. Else all of "reproduced_if" hold: reproduced. Else: not reproduced.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "phasor/status.h"

namespace phasor::eval {

// (metric, codec id) -> value.
using Measurements = std::map<std::pair<std::string, std::string>, double>;

struct Condition {
  std::string metric, of, over;  // over: empty for the value itself
  std::optional<double> at_least, at_most;
};

struct Claim {
  std::string id, paper, source, here, null_result;
  std::vector<Condition> reproduced_if, null_if;
};

// What a declaration of kind "parallel" runs; the names are those of the flags of `eval parallel`.
struct ParallelSettings {
  std::vector<std::string> tasks;
  int64_t cases = 0, contexts = 0, items = 0, questions = 0;
  std::vector<double> temperatures, scales;
  std::vector<double> lengths;
  int64_t context_tokens = 0, query_tokens = 0, generate = 0, rounds = 0, filled = 0;
};

struct Declaration {
  std::string id, title, reference, summary, note;
  std::string kind = "cache";  // or "parallel", which has settings in `parallel` and no others
  ParallelSettings parallel;
  std::string value_type, base_type;  // of the quality runs
  int64_t n_ctx = 0, max_tokens = 0;
  std::vector<std::string> key_types, speed_types;
  std::vector<Claim> claims;
};

enum class Verdict { kReproduced, kNotReproduced, kNull };
const char* VerdictName(Verdict verdict);  // "reproduced", "not reproduced", "null"

// kDataCorrupt names the file and the field at fault.
Result<Declaration> ParseDeclaration(const std::string& json, const std::string& name);
// Folders that may hold declarations, in the order tried: installed, then source tree.
std::vector<std::string> DeclarationFolders();
// Ids of the declarations in the first folder that exists, sorted.
std::vector<std::string> DeclarationIds();
// kNotFound lists the ids there are.
Result<Declaration> ReadDeclaration(const std::string& id);

// The condition's value; kNotFound when something it names was not measured.
Result<double> ConditionValue(const Condition& condition, const Measurements& measured);
bool Holds(const Condition& condition, double value);
Result<Verdict> Judge(const Claim& claim, const Measurements& measured);
// "mean_kl polar44 / q4_0 = 0.83 (<= 1)".
std::string Describe(const Condition& condition, double value);

}  // namespace phasor::eval
