// What templates can call: filters, tests, methods of values and global functions. All throw
// TemplateError.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "formats/jinja/value.h"

namespace phasor::jinja {

struct CallValues {
  std::vector<Value> positional;
  NamedValues named;
};

// Arguments matched to parameter names; an unknown, doubled or surplus argument is an error that
// starts with `where`.
class BoundArgs {
 public:
  BoundArgs(std::string where, CallValues values, std::initializer_list<const char*> names);
  // nullptr: not given.
  const Value* Find(std::size_t i) const { return given_[i] ? &values_[i] : nullptr; }
  const Value& Need(std::size_t i) const;
  bool Bool(std::size_t i, bool fallback) const;
  int64_t Int(std::size_t i, int64_t fallback) const;
  std::string Text(std::size_t i, std::string fallback) const;  // strings only

 private:
  std::string where_;
  std::vector<const char*> names_;
  std::vector<Value> values_;
  std::vector<bool> given_;
};

Value ApplyFilter(const std::string& name, const Value& input, CallValues args, Budget* budget);
bool ApplyTest(const std::string& name, const Value& value, CallValues args, Budget* budget);

// object.name and object[key]. What is not there is undefined; looking into undefined is an error.
// Methods are bound to `budget`, which must outlive them.
Value GetAttribute(const Value& object, const std::string& name, Budget* budget);
Value GetItem(const Value& object, const Value& key, Budget* budget);
// "a.0.b" as a path of items, as filters take it.
Value GetPath(const Value& object, const Value& path, Budget* budget);
// object[start:stop:step]; none for a bound left out.
Value GetSlice(const Value& object, const Value& start, const Value& stop, const Value& step);

// A method of a string, sequence or dict; undefined when there is none of that name. Methods that
// would change a list or a dict are undefined, as in the sandbox of Hugging Face.
Value FindMethod(const Value& object, const std::string& name, Budget* budget);

// Each operator of + - * / // % **; the error names both operand types.
Value Arithmetic(const std::string& op, const Value& a, const Value& b, Budget* budget);
// Python's "..." % values, with d i s r f F g e x and flags, width and precision.
std::string FormatPercent(std::string_view format, const std::vector<Value>& values,
                          Budget* budget);

// range, dict, namespace, raise_exception, strftime_now. Namespaces made are put into
// `namespaces`, so that the caller can break cycles.
std::vector<std::pair<std::string, Value>> GlobalFunctions(
    Budget* budget, std::vector<std::shared_ptr<Namespace>>* namespaces);

// Text functions that check the size of what they are about to make.
std::string CheckedReplace(std::string_view text, std::string_view from, std::string_view to,
                           int64_t max_count, Budget* budget);
std::string CheckedJoin(std::string_view separator, const std::vector<std::string>& parts,
                        Budget* budget);

}  // namespace phasor::jinja
