// Strict reading of a JSON object: a field that is missing, of another kind or out of range is an
// error that names it, and so is a field that nobody asked for.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "phasor/status.h"

namespace phasor::eval {

// The first error stays and later reads do nothing: what they were to fill is left as it was.
class Fields {
 public:
  // j stays the caller's. where: what every message begins with.
  Fields(const nlohmann::json& j, std::string where);

  void String(const char* key, std::string* out, bool required = true);
  void Integer(const char* key, int64_t least, int64_t* out, int64_t most = INT64_MAX);
  void OptionalInteger(const char* key, int64_t least, int64_t* out, int64_t most = INT64_MAX);
  void OptionalNumber(const char* key, std::optional<double>* out);
  void OptionalNumber(const char* key, double* out);
  // Lists of at least one entry.
  void Strings(const char* key, std::vector<std::string>* out);
  void Numbers(const char* key, double least, double most, std::vector<double>* out);
  // A member of any kind, most often an object or a list; an empty object when it is not there.
  const nlohmann::json& Member(const char* key, bool required = true);

  void Fail(const std::string& what);
  const Status& status() const { return status_; }
  // kDataCorrupt: the first error, or a field that was not asked for.
  Status Finish();

 private:
  const nlohmann::json* Find(const char* key, bool required);

  const nlohmann::json& j_;
  std::string where_;
  std::set<std::string> known_;
  Status status_;
};

}  // namespace phasor::eval
