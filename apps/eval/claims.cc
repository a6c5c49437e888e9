#include "eval/claims.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace phasor::eval {
namespace {

using Json = nlohmann::json;
constexpr std::size_t kMaxBytes = 1 << 20;

// Reads fields of one object; the first error stays and later reads do nothing.
class Fields {
 public:
  Fields(const Json& j, std::string where) : j_(j), where_(std::move(where)) {
    if (!j.is_object()) Fail("expected an object");
  }

  void String(const char* key, std::string* out, bool required = true) {
    const Json* value = Find(key, required);
    if (value == nullptr) return;
    if (!value->is_string()) return Fail(std::string(key) + ": expected a string");
    *out = value->get<std::string>();
  }
  void Integer(const char* key, int64_t least, int64_t* out) {
    const Json* value = Find(key, true);
    if (value == nullptr) return;
    if (!value->is_number_integer() || value->get<int64_t>() < least) {
      return Fail(fmt::format("{}: expected an integer of at least {}", key, least));
    }
    *out = value->get<int64_t>();
  }
  void Number(const char* key, std::optional<double>* out) {
    const Json* value = Find(key, false);
    if (value == nullptr) return;
    if (!value->is_number()) return Fail(std::string(key) + ": expected a number");
    *out = value->get<double>();
  }
  void Strings(const char* key, std::vector<std::string>* out) {
    const Json* value = Find(key, true);
    if (value == nullptr) return;
    bool good = value->is_array() && !value->empty();
    for (const Json& entry : good ? *value : Json::array()) good = good && entry.is_string();
    if (!good) return Fail(std::string(key) + ": expected a list of strings");
    *out = value->get<std::vector<std::string>>();
  }
  void Numbers(const char* key, std::vector<double>* out) {
    const Json* value = Find(key, true);
    if (value == nullptr) return;
    bool good = value->is_array() && !value->empty();
    for (const Json& entry : good ? *value : Json::array()) good = good && entry.is_number();
    if (!good) return Fail(std::string(key) + ": expected a list of numbers");
    *out = value->get<std::vector<double>>();
  }
  // A member object or list; an empty object when it is not there.
  const Json& Member(const char* key) {
    static const Json none = Json::object();
    const Json* value = Find(key, true);
    return value == nullptr ? none : *value;
  }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = DataCorrupt(where_ + ": " + what);
  }
  const Status& status() const { return status_; }

 private:
  const Json* Find(const char* key, bool required) {
    if (!status_.ok()) return nullptr;
    const auto it = j_.find(key);
    if (it != j_.end()) return &*it;
    if (required) Fail(std::string(key) + ": expected this field, found none");
    return nullptr;
  }

  const Json& j_;
  std::string where_;
  Status status_;
};

Status ParseConditions(const Json& list, const std::string& where, std::vector<Condition>* out) {
  if (!list.is_array()) return DataCorrupt(where + ": expected a list of conditions");
  for (const Json& entry : list) {
    Fields f(entry, where);
    Condition c;
    f.String("metric", &c.metric);
    f.String("of", &c.of);
    f.String("over", &c.over, false);
    f.Number("at_least", &c.at_least);
    f.Number("at_most", &c.at_most);
    if (!c.at_least && !c.at_most) f.Fail("expected at_least or at_most, found neither");
    PHASOR_RETURN_IF_ERROR(f.status());
    out->push_back(std::move(c));
  }
  return Status::Ok();
}

Status ParseClaims(const Json& list, const std::string& name, std::vector<Claim>* out) {
  if (!list.is_array() || list.empty()) return DataCorrupt(name + ": claims: expected a list");
  for (const Json& entry : list) {
    const std::string where = fmt::format("{}: claim {}", name, out->size() + 1);
    Fields f(entry, where);
    Claim c;
    f.String("id", &c.id);
    f.String("paper", &c.paper);
    f.String("source", &c.source);
    f.String("here", &c.here);
    f.String("null_result", &c.null_result);
    const Json& reproduced = f.Member("reproduced_if");
    const Json& null = f.Member("null_if");
    PHASOR_RETURN_IF_ERROR(f.status());
    PHASOR_RETURN_IF_ERROR(
        ParseConditions(reproduced, where + ": reproduced_if", &c.reproduced_if));
    PHASOR_RETURN_IF_ERROR(ParseConditions(null, where + ": null_if", &c.null_if));
    if (c.reproduced_if.empty()) {
      return DataCorrupt(where + ": reproduced_if: expected at least one condition");
    }
    out->push_back(std::move(c));
  }
  return Status::Ok();
}

Status ParseCacheSettings(const Json& quality, const Json& speed, const std::string& name,
                          Declaration* d) {
  Fields q(quality, name + ": quality");
  q.Strings("key_types", &d->key_types);
  q.String("value_type", &d->value_type);
  q.String("base_type", &d->base_type);
  q.Integer("n_ctx", 2, &d->n_ctx);
  q.Integer("max_tokens", 2, &d->max_tokens);
  PHASOR_RETURN_IF_ERROR(q.status());
  Fields s(speed, name + ": speed");
  s.Strings("key_types", &d->speed_types);
  return s.status();
}

Status ParseParallelSettings(const Json& settings, const std::string& name, ParallelSettings* p) {
  Fields f(settings, name + ": parallel");
  f.Strings("tasks", &p->tasks);
  f.Integer("cases", 2, &p->cases);
  f.Integer("contexts", 1, &p->contexts);
  f.Integer("items", 1, &p->items);
  f.Integer("questions", 1, &p->questions);
  f.Numbers("temperatures", &p->temperatures);
  f.Numbers("scales", &p->scales);
  f.Numbers("lengths", &p->lengths);
  f.Integer("context_tokens", 1, &p->context_tokens);
  f.Integer("query_tokens", 1, &p->query_tokens);
  f.Integer("generate", 0, &p->generate);
  f.Integer("rounds", 1, &p->rounds);
  f.Integer("filled", 1, &p->filled);
  return f.status();
}

}  // namespace

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kReproduced:
      return "reproduced";
    case Verdict::kNotReproduced:
      return "not reproduced";
    case Verdict::kNull:
      return "null";
  }
  return "?";
}

Result<Declaration> ParseDeclaration(const std::string& json, const std::string& name) {
  const Json j = Json::parse(json, nullptr, false);
  if (!j.is_object() || j.value("format", Json()) != "phasor-reproduce") {
    return DataCorrupt(name + ": expected a JSON object with format \"phasor-reproduce\"");
  }
  Declaration d;
  Fields f(j, name);
  int64_t version = 0;
  f.Integer("version", 1, &version);
  f.String("id", &d.id);
  f.String("title", &d.title);
  f.String("reference", &d.reference);
  f.String("summary", &d.summary);
  f.String("note", &d.note);
  f.String("kind", &d.kind, false);
  const bool parallel = d.kind == "parallel";
  if (!parallel && d.kind != "cache") f.Fail("kind: expected cache or parallel");
  const Json& settings = f.Member(parallel ? "parallel" : "quality");
  const Json& speed = parallel ? settings : f.Member("speed");
  const Json& claims = f.Member("claims");
  PHASOR_RETURN_IF_ERROR(f.status());
  if (version != 1) {
    return Unsupported(fmt::format("{}: expected version 1, found {}", name, version));
  }
  PHASOR_RETURN_IF_ERROR(parallel ? ParseParallelSettings(settings, name, &d.parallel)
                                  : ParseCacheSettings(settings, speed, name, &d));
  PHASOR_RETURN_IF_ERROR(ParseClaims(claims, name, &d.claims));
  return d;
}

std::vector<std::string> DeclarationFolders() {
  // bin/phasor -> share/phasor when installed; build/<preset>/phasor -> reproduce in a checkout.
  std::vector<std::string> folders;
  std::error_code ec;
  const auto exe = std::filesystem::read_symlink("/proc/self/exe", ec);
  if (ec) return folders;
  for (const char* up : {"../share/phasor/reproduce", "../../reproduce"}) {
    folders.push_back((exe.parent_path() / up).lexically_normal().string());
  }
  return folders;
}

std::vector<std::string> DeclarationIds() {
  std::vector<std::string> ids;
  for (const std::string& folder : DeclarationFolders()) {
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ec)) {
      if (entry.path().extension() == ".json") ids.push_back(entry.path().stem().string());
    }
    if (!ids.empty()) break;
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

Result<Declaration> ReadDeclaration(const std::string& id) {
  const std::vector<std::string> ids = DeclarationIds();
  if (std::find(ids.begin(), ids.end(), id) == ids.end()) {
    return NotFound(fmt::format(
        "reproduce: expected one of {}, found {}",
        ids.empty() ? "(no declarations are installed)" : fmt::format("{}", fmt::join(ids, ", ")),
        id));
  }
  for (const std::string& folder : DeclarationFolders()) {
    const std::string path = folder + "/" + id + ".json";
    if (!FileExists(path)) continue;
    PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxBytes));
    return ParseDeclaration(text, path);
  }
  return NotFound("reproduce: " + id + ".json: expected a file, found none");
}

Result<double> ConditionValue(const Condition& c, const Measurements& measured) {
  const auto find = [&](const std::string& id) -> Result<double> {
    const auto it = measured.find({c.metric, id});
    if (it == measured.end()) {
      return NotFound("reproduce: expected a measured " + c.metric + " of " + id + ", found none");
    }
    return it->second;
  };
  PHASOR_ASSIGN_OR_RETURN(double value, find(c.of));
  if (c.over.empty()) return value;
  PHASOR_ASSIGN_OR_RETURN(double over, find(c.over));
  return value / over;
}

bool Holds(const Condition& c, double value) {
  return (!c.at_least || value >= *c.at_least) && (!c.at_most || value <= *c.at_most);
}

Result<Verdict> Judge(const Claim& claim, const Measurements& measured) {
  const auto all_hold = [&](const std::vector<Condition>& list) -> Result<bool> {
    bool all = !list.empty();
    for (const Condition& c : list) {
      PHASOR_ASSIGN_OR_RETURN(double value, ConditionValue(c, measured));
      all = all && Holds(c, value);
    }
    return all;
  };
  PHASOR_ASSIGN_OR_RETURN(bool null, all_hold(claim.null_if));
  if (null) return Verdict::kNull;
  PHASOR_ASSIGN_OR_RETURN(bool reproduced, all_hold(claim.reproduced_if));
  return reproduced ? Verdict::kReproduced : Verdict::kNotReproduced;
}

std::string Describe(const Condition& c, double value) {
  // Four digits, or as many as it takes to tell the value from a bound it misses.
  int digits = 4;
  const auto looks_like = [&](const std::optional<double>& bound) {
    return bound && value != *bound &&
           fmt::format("{:.{}g}", value, digits) == fmt::format("{:.{}g}", *bound, digits);
  };
  while (digits < 15 && (looks_like(c.at_least) || looks_like(c.at_most))) ++digits;
  std::string out = c.metric + " " + c.of;
  if (!c.over.empty()) out += " / " + c.over;
  out += fmt::format(" = {:.{}g} (", value, digits);
  if (c.at_least) out += fmt::format(">= {:g}", *c.at_least);
  if (c.at_least && c.at_most) out += ", ";
  if (c.at_most) out += fmt::format("<= {:g}", *c.at_most);
  return out + ")";
}

}  // namespace phasor::eval
