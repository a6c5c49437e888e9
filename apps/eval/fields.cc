#include "eval/fields.h"

#include <fmt/format.h>

#include <algorithm>

namespace phasor::eval {

using Json = nlohmann::json;

Fields::Fields(const Json& j, std::string where) : j_(j), where_(std::move(where)) {
  if (!j.is_object()) Fail("expected an object");
}

void Fields::String(const char* key, std::string* out, bool required) {
  const Json* value = Find(key, required);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(std::string(key) + ": expected a string");
  *out = value->get<std::string>();
}

void Fields::Integer(const char* key, int64_t least, int64_t* out, int64_t most) {
  const Json* value = Find(key, true);
  if (value == nullptr) return;
  // Numbers beyond int64_t are negative when read as one, and refused as those are.
  if (!value->is_number_integer() || value->get<int64_t>() < least ||
      value->get<int64_t>() > most) {
    return Fail(most == INT64_MAX
                    ? fmt::format("{}: expected an integer of at least {}", key, least)
                    : fmt::format("{}: expected an integer of {} to {}", key, least, most));
  }
  *out = value->get<int64_t>();
}

void Fields::OptionalInteger(const char* key, int64_t least, int64_t* out, int64_t most) {
  if (Find(key, false) != nullptr) Integer(key, least, out, most);
}

void Fields::OptionalNumber(const char* key, std::optional<double>* out) {
  const Json* value = Find(key, false);
  if (value == nullptr) return;
  if (!value->is_number()) return Fail(std::string(key) + ": expected a number");
  *out = value->get<double>();
}

void Fields::OptionalNumber(const char* key, double* out) {
  std::optional<double> value;
  OptionalNumber(key, &value);
  if (value) *out = *value;
}

void Fields::Strings(const char* key, std::vector<std::string>* out) {
  const Json* value = Find(key, true);
  if (value == nullptr) return;
  const bool good = value->is_array() && !value->empty() &&
                    std::all_of(value->begin(), value->end(),
                                [](const Json& entry) { return entry.is_string(); });
  if (!good) return Fail(std::string(key) + ": expected a list of strings");
  *out = value->get<std::vector<std::string>>();
}

void Fields::Numbers(const char* key, double least, double most, std::vector<double>* out) {
  const Json* value = Find(key, true);
  if (value == nullptr) return;
  const bool good =
      value->is_array() && !value->empty() &&
      std::all_of(value->begin(), value->end(), [&](const Json& entry) {
        return entry.is_number() && entry.get<double>() >= least && entry.get<double>() <= most;
      });
  if (!good)
    return Fail(fmt::format("{}: expected a list of numbers of {} to {}", key, least, most));
  *out = value->get<std::vector<double>>();
}

const Json& Fields::Member(const char* key, bool required) {
  static const Json none = Json::object();
  const Json* value = Find(key, required);
  return value == nullptr ? none : *value;
}

void Fields::Fail(const std::string& what) {
  if (status_.ok()) status_ = DataCorrupt(where_ + ": " + what);
}

Status Fields::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& [key, value] : j_.items()) {
    if (known_.count(key) != 0) continue;
    Fail(known_.empty()
             ? fmt::format("expected no fields, found {}", key)
             : fmt::format("expected fields out of {}, found {}", fmt::join(known_, ", "), key));
    break;
  }
  return status_;
}

const Json* Fields::Find(const char* key, bool required) {
  known_.insert(key);
  if (!status_.ok()) return nullptr;
  const auto it = j_.find(key);
  if (it != j_.end()) return &*it;
  if (required) Fail(std::string(key) + ": expected this field, found none");
  return nullptr;
}

}  // namespace phasor::eval
