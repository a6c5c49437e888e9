// Looking into values (attributes, items, slices, methods) and matching arguments to parameters.
#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/jinja/builtins.h"
#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

Value LoopAttribute(const LoopState& loop, const std::string& name, Budget* budget) {
  auto size = static_cast<int64_t>(loop.items.size());
  auto index0 = static_cast<int64_t>(loop.position);
  if (name == "index") return Value::Int(index0 + 1);
  if (name == "index0") return Value::Int(index0);
  if (name == "revindex") return Value::Int(size - index0);
  if (name == "revindex0") return Value::Int(size - index0 - 1);
  if (name == "first") return Value::Bool(index0 == 0);
  if (name == "last") return Value::Bool(index0 + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "depth") return Value::Int(loop.depth);
  if (name == "depth0") return Value::Int(loop.depth - 1);
  if (name == "previtem") {
    if (index0 == 0) return Value::MakeUndefined("there is no previous item");
    return loop.items[loop.position - 1];
  }
  if (name == "nextitem") {
    if (index0 + 1 >= size) return Value::MakeUndefined("there is no next item");
    return loop.items[loop.position + 1];
  }
  return Value::MakeUndefined("the loop has no attribute '" + name + "'");
}

Value LoopMethod(const Value& object, const std::string& name, Budget* budget) {
  if (name == "cycle") {
    return Value::Function("cycle", [object](std::vector<Value> values, NamedValues) {
      if (values.empty()) Fail("loop.cycle: expected at least one argument, found none");
      return values[object.loop().position % values.size()];
    });
  }
  return Value::Function("changed", [object, budget](std::vector<Value> values, NamedValues) {
    Value now = Value::Tuple(std::move(values));
    auto& last = object.loop().last_changed;
    bool changed = !last || !Equals(*last, now, budget);
    last = now;
    return Value::Bool(changed);
  });
}

Value Missing(const Value& object, const std::string& name) {
  return Value::MakeUndefined(std::string("'") + TypeName(object) + " object' has no attribute '" +
                              name + "'");
}

int64_t ClampIndex(int64_t index, int64_t low, int64_t high) {
  return std::clamp(index, low, high);
}

// The indices that Python's slice(start, stop, step).indices(length) visits.
std::vector<std::size_t> SliceIndices(int64_t length, const Value& start, const Value& stop,
                                      const Value& step) {
  auto number = [](const Value& v, int64_t fallback) {
    if (v.IsNone()) return fallback;
    if (!v.IsInteger()) Fail(std::string("expected an integer in a slice, found ") + TypeName(v));
    return v.int_value();
  };
  int64_t by = number(step, 1);
  if (by == 0) Fail("expected a slice step other than 0");
  int64_t low = by < 0 ? -1 : 0, high = by < 0 ? length - 1 : length;
  auto bound = [&](const Value& v, int64_t fallback) {
    int64_t i = number(v, fallback);
    if (!v.IsNone() && i < 0) i = i < -length ? low : i + length;
    return ClampIndex(i, low, high);
  };
  int64_t begin = bound(start, by < 0 ? high : low), end = bound(stop, by < 0 ? low : high);
  by = ClampIndex(by, -length - 1, length + 1);
  std::vector<std::size_t> indices;
  for (int64_t i = begin; by < 0 ? i > end : i < end; i += by) {
    indices.push_back(static_cast<std::size_t>(i));
  }
  return indices;
}

}  // namespace

BoundArgs::BoundArgs(std::string where, CallValues values, std::initializer_list<const char*> names)
    : where_(std::move(where)), names_(names), values_(names.size()), given_(names.size(), false) {
  if (values.positional.size() > names_.size()) {
    Fail(where_ + ": expected at most " + std::to_string(names_.size()) + " arguments, found " +
         std::to_string(values.positional.size()));
  }
  for (std::size_t i = 0; i < values.positional.size(); ++i) {
    values_[i] = std::move(values.positional[i]);
    given_[i] = true;
  }
  for (auto& [name, value] : values.named) {
    auto found = std::find_if(names_.begin(), names_.end(),
                              [&, key = name](const char* known) { return key == known; });
    auto i = static_cast<std::size_t>(found - names_.begin());
    if (i == names_.size() || given_[i]) {
      Fail(where_ + ": found unexpected argument '" + name + "'");
    }
    values_[i] = std::move(value);
    given_[i] = true;
  }
}

const Value& BoundArgs::Need(std::size_t i) const {
  if (!given_[i]) Fail(where_ + ": expected argument '" + names_[i] + "', found none");
  return values_[i];
}

bool BoundArgs::Bool(std::size_t i, bool fallback) const {
  return given_[i] ? Truthy(values_[i]) : fallback;
}

int64_t BoundArgs::Int(std::size_t i, int64_t fallback) const {
  if (!given_[i]) return fallback;
  if (!values_[i].IsInteger()) {
    Fail(where_ + ": expected an integer for '" + names_[i] + "', found " + TypeName(values_[i]));
  }
  return values_[i].int_value();
}

std::string BoundArgs::Text(std::size_t i, std::string fallback) const {
  if (!given_[i]) return fallback;
  if (!values_[i].IsString()) {
    Fail(where_ + ": expected a string for '" + names_[i] + "', found " + TypeName(values_[i]));
  }
  return values_[i].text();
}

Value GetAttribute(const Value& object, const std::string& name, Budget* budget) {
  switch (object.kind()) {
    case Kind::kUndefined:
      Fail(object.UndefinedMessage());
    case Kind::kNamespace: {
      auto found = object.ns().attributes.find(name);
      if (found != object.ns().attributes.end()) return found->second;
      return Missing(object, name);
    }
    case Kind::kLoop:
      if (name == "cycle" || name == "changed") return LoopMethod(object, name, budget);
      return LoopAttribute(object.loop(), name, budget);
    case Kind::kCallable:
      if (name == "name") return Value::String(object.callable().name);
      return Missing(object, name);
    default:
      break;
  }
  Value method = FindMethod(object, name, budget);
  if (!method.IsUndefined()) return method;
  if (object.IsDict()) {
    if (const Value* found = object.dict().Find(name)) return *found;
  }
  return method;
}

Value GetItem(const Value& object, const Value& key, Budget* budget) {
  if (object.IsUndefined()) Fail(object.UndefinedMessage());
  if (object.IsDict() && !key.IsSeq() && !key.IsDict()) {
    if (key.IsUndefined()) return Missing(object, "");
    if (const Value* found = object.dict().Find(key)) return *found;
  }
  if (key.IsInteger() && (object.IsSeq() || object.IsString())) {
    if (object.IsSeq() && object.seq().flavor != Seq::Flavor::kList &&
        object.seq().flavor != Seq::Flavor::kTuple) {
      return Missing(object, std::to_string(key.int_value()));
    }
    if (object.IsString()) budget->Step(static_cast<int64_t>(object.text().size() / 16));
    int64_t length = Length(object), index = key.int_value();
    if (index < 0) index += length;
    if (index < 0 || index >= length) return Missing(object, std::to_string(key.int_value()));
    if (object.IsSeq()) return object.seq().items[static_cast<std::size_t>(index)];
    return Value::String(std::string(SplitChars(object.text())[static_cast<std::size_t>(index)]));
  }
  if (key.IsString() && !object.IsDict()) return GetAttribute(object, key.text(), budget);
  if (key.IsString()) return FindMethod(object, key.text(), budget);
  return Missing(object, Str(key, budget));
}

Value GetPath(const Value& object, const Value& path, Budget* budget) {
  if (!path.IsString()) return GetItem(object, path, budget);
  Value value = object;
  for (const std::string& part : Split(path.text(), ".", -1)) {
    bool is_index = !part.empty() && part.size() < 10 &&
                    part.find_first_not_of("0123456789") == std::string::npos;
    value = GetItem(value, is_index ? Value::Int(std::stoll(part)) : Value::String(part), budget);
  }
  return value;
}

Value GetSlice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.IsUndefined()) Fail(object.UndefinedMessage());
  if (object.IsString()) {
    std::vector<std::string_view> chars = SplitChars(object.text());
    std::string out;
    for (std::size_t i : SliceIndices(static_cast<int64_t>(chars.size()), start, stop, step)) {
      out += chars[i];
    }
    return Value::String(std::move(out));
  }
  if (!object.IsSeq() || object.seq().flavor == Seq::Flavor::kIterator ||
      object.seq().flavor == Seq::Flavor::kView) {
    return Value::MakeUndefined(std::string(TypeName(object)) + " cannot be sliced");
  }
  const std::vector<Value>& items = object.seq().items;
  std::vector<Value> picked;
  for (std::size_t i : SliceIndices(static_cast<int64_t>(items.size()), start, stop, step)) {
    picked.push_back(items[i]);
  }
  bool tuple = object.seq().flavor == Seq::Flavor::kTuple;
  return tuple ? Value::Tuple(std::move(picked)) : Value::List(std::move(picked));
}

}  // namespace phasor::jinja
