#include "formats/jinja/value.h"

#include <cmath>
#include <limits>

#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

int DepthOf(const Value& value) {
  if (value.IsSeq()) return value.seq().depth;
  if (value.IsDict()) return value.dict().depth;
  return 0;
}

void CheckDepth(int depth) {
  if (depth > kMaxValueDepth) {
    throw TemplateError{"expected values nested at most " + std::to_string(kMaxValueDepth) +
                            " deep, found deeper ones",
                        0, StatusCode::kResourceExhausted};
  }
}

// Two keys have the same string when Python calls them equal.
std::string HashKey(const Value& key) {
  switch (key.kind()) {
    case Kind::kString:
      return "s" + key.text();
    case Kind::kNone:
      return "n";
    case Kind::kBool:
    case Kind::kInt:
      return "i" + std::to_string(key.int_value());
    case Kind::kFloat: {
      double d = key.number();
      if (d == std::floor(d) && std::fabs(d) < 9e15) {
        return "i" + std::to_string(static_cast<int64_t>(d));
      }
      return "f" + ReprFloat(d);
    }
    case Kind::kSeq:
      if (key.seq().flavor == Seq::Flavor::kTuple) {
        std::string out = "t";
        for (const Value& item : key.seq().items) {
          std::string part = HashKey(item);
          out += std::to_string(part.size()) + ":" + part;
          if (out.size() > Budget::kMaxOutputBytes) Fail("dict key is too large");
        }
        return out;
      }
      break;
    default:
      break;
  }
  Fail(std::string("expected a dict key that can be hashed, found ") + TypeName(key));
}

int Sign(double d) { return d < 0 ? -1 : d > 0 ? 1 : 0; }

}  // namespace

void Fail(std::string message) { throw TemplateError{std::move(message)}; }

void Budget::Step(int64_t n) {
  steps_ += n;
  if (steps_ > kMaxSteps) {
    throw TemplateError{"expected at most " + std::to_string(kMaxSteps) + " steps, found more", 0,
                        StatusCode::kResourceExhausted};
  }
}

void Budget::Iteration() {
  if (++iterations_ > kMaxIterations) {
    throw TemplateError{
        "expected at most " + std::to_string(kMaxIterations) + " loop iterations, found more", 0,
        StatusCode::kResourceExhausted};
  }
}

void Budget::Bytes(std::size_t n) {
  if (n > kMaxOutputBytes) {
    throw TemplateError{
        "expected a text of at most " + std::to_string(kMaxOutputBytes) + " bytes, found more", 0,
        StatusCode::kResourceExhausted};
  }
  bytes_ += static_cast<int64_t>(n);
  if (bytes_ > kMaxBytes) {
    throw TemplateError{"expected at most " + std::to_string(kMaxBytes) +
                            " bytes of values in one rendering, found more",
                        0, StatusCode::kResourceExhausted};
  }
}

Value Value::MakeUndefined(std::string hint) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(hint))});
}

Value Value::String(std::string text, bool markup) {
  return Value(std::make_shared<const Text>(Text{std::move(text), markup}));
}

Value Value::FromSeq(Seq seq) {
  for (const Value& item : seq.items) seq.depth = std::max(seq.depth, DepthOf(item) + 1);
  CheckDepth(seq.depth);
  return Value(std::make_shared<const Seq>(std::move(seq)));
}

Value Value::List(std::vector<Value> items) {
  Seq seq;
  seq.items = std::move(items);
  return FromSeq(std::move(seq));
}

Value Value::Tuple(std::vector<Value> items) {
  Seq seq;
  seq.items = std::move(items);
  seq.flavor = Seq::Flavor::kTuple;
  return FromSeq(std::move(seq));
}

Value Value::Iterator(std::vector<Value> items) {
  Seq seq;
  seq.items = std::move(items);
  seq.flavor = Seq::Flavor::kIterator;
  return FromSeq(std::move(seq));
}

Value Value::FromDict(Dict dict) {
  for (const auto& [key, value] : dict.entries) {
    dict.depth = std::max({dict.depth, DepthOf(key) + 1, DepthOf(value) + 1});
  }
  CheckDepth(dict.depth);
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

Value Value::Function(std::string name, std::function<Value(std::vector<Value>, NamedValues)> fn) {
  return Value(std::make_shared<const Callable>(Callable{std::move(name), std::move(fn)}));
}

Value Value::FromJson(const nlohmann::ordered_json& json) {
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return Bool(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Int(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned: {
      auto number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Float(static_cast<double>(number));
      }
      return Int(static_cast<int64_t>(number));
    }
    case nlohmann::ordered_json::value_t::number_float:
      return Float(json.get<double>());
    case nlohmann::ordered_json::value_t::string:
      return String(json.get<std::string>());
    case nlohmann::ordered_json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(FromJson(item));
      return List(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      for (const auto& [key, value] : json.items()) dict.Set(String(key), FromJson(value));
      return FromDict(std::move(dict));
    }
    default:
      return None();
  }
}

std::string Value::UndefinedMessage() const {
  const auto& hint = std::get<Undefined>(data_).hint;
  return hint ? *hint : "value is undefined";
}

const void* Value::identity() const {
  switch (kind()) {
    case Kind::kString:
      return std::get<TextPtr>(data_).get();
    case Kind::kSeq:
      return std::get<SeqPtr>(data_).get();
    case Kind::kDict:
      return std::get<DictPtr>(data_).get();
    case Kind::kNamespace:
      return std::get<std::shared_ptr<Namespace>>(data_).get();
    case Kind::kLoop:
      return std::get<std::shared_ptr<LoopState>>(data_).get();
    case Kind::kCallable:
      return std::get<CallablePtr>(data_).get();
    default:
      return nullptr;
  }
}

void Dict::Set(const Value& key, Value value) {
  auto [found, inserted] = index.emplace(HashKey(key), entries.size());
  if (inserted) {
    entries.emplace_back(key, std::move(value));
  } else {
    entries[found->second].second = std::move(value);
  }
}

const Value* Dict::Find(const Value& key) const {
  auto found = index.find(HashKey(key));
  return found == index.end() ? nullptr : &entries[found->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  auto found = index.find("s" + std::string(key));
  return found == index.end() ? nullptr : &entries[found->second].second;
}

const char* TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "undefined";
    case Kind::kNone:
      return "none";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "string";
    case Kind::kSeq:
      switch (value.seq().flavor) {
        case Seq::Flavor::kList:
          return "list";
        case Seq::Flavor::kTuple:
          return "tuple";
        case Seq::Flavor::kIterator:
          return "iterator";
        case Seq::Flavor::kView:
          return value.seq().view_name;
      }
      return "sequence";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "namespace";
    case Kind::kLoop:
      return "loop";
    case Kind::kCallable:
      return "function";
  }
  return "value";
}

bool Truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.int_value() != 0;
    case Kind::kFloat:
      return value.number() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kSeq:  // a Python generator is true even when nothing will come out of it
      return value.seq().flavor == Seq::Flavor::kIterator || !value.seq().items.empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    default:
      return true;
  }
}

bool Equals(const Value& a, const Value& b, Budget* budget) {
  budget->Step();
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) return a.int_value() == b.int_value();
    return a.number() == b.number();
  }
  if (a.kind() != b.kind()) return false;
  if (a.identity() != nullptr && a.identity() == b.identity()) return true;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      budget->Step(static_cast<int64_t>(std::min(a.text().size(), b.text().size()) / 64));
      return a.text() == b.text();
    case Kind::kSeq: {
      const Seq &x = a.seq(), &y = b.seq();
      if (x.flavor != y.flavor || x.flavor == Seq::Flavor::kIterator) return false;
      if (x.items.size() != y.items.size()) return false;
      for (std::size_t i = 0; i < x.items.size(); ++i) {
        if (!Equals(x.items[i], y.items[i], budget)) return false;
      }
      return true;
    }
    case Kind::kDict: {
      if (a.dict().entries.size() != b.dict().entries.size()) return false;
      for (const auto& [key, value] : a.dict().entries) {
        const Value* other = b.dict().Find(key);
        if (other == nullptr || !Equals(value, *other, budget)) return false;
      }
      return true;
    }
    default:
      return false;
  }
}

bool Same(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kBool:
    case Kind::kInt:
      return a.int_value() == b.int_value();
    case Kind::kFloat:
      return a.number() == b.number();
    case Kind::kString:
      return a.text() == b.text();
    default:
      return a.identity() == b.identity();
  }
}

int Compare(const Value& a, const Value& b, Budget* budget) {
  budget->Step();
  if (a.IsUndefined()) Fail(a.UndefinedMessage());
  if (b.IsUndefined()) Fail(b.UndefinedMessage());
  if (a.IsInteger() && b.IsInteger()) {
    return a.int_value() < b.int_value() ? -1 : a.int_value() > b.int_value();
  }
  if (a.IsNumber() && b.IsNumber()) return Sign(a.number() - b.number());
  if (a.IsString() && b.IsString()) return a.text().compare(b.text());
  if (a.IsSeq() && b.IsSeq() && a.seq().flavor == b.seq().flavor) {
    const auto &x = a.seq().items, &y = b.seq().items;
    for (std::size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!Equals(x[i], y[i], budget)) return Compare(x[i], y[i], budget);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  Fail(std::string("expected values that can be ordered, found ") + TypeName(a) + " and " +
       TypeName(b));
}

bool Contains(const Value& haystack, const Value& needle, Budget* budget) {
  switch (haystack.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kString:
      if (!needle.IsString()) {
        Fail(std::string("expected a string on the left of 'in', found ") + TypeName(needle));
      }
      budget->Step(static_cast<int64_t>(haystack.text().size() / 16));
      return haystack.text().find(needle.text()) != std::string::npos;
    case Kind::kDict:
      return haystack.dict().Find(needle) != nullptr;
    case Kind::kSeq: {
      const Seq& seq = haystack.seq();
      bool once = seq.flavor == Seq::Flavor::kIterator;
      for (std::size_t i = once ? seq.next : 0; i < seq.items.size(); ++i) {
        if (once) seq.next = i + 1;
        if (Equals(seq.items[i], needle, budget)) return true;
      }
      return false;
    }
    default:
      Fail(std::string("expected a container on the right of 'in', found ") + TypeName(haystack));
  }
}

int64_t Length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(CountChars(value.text()));
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().entries.size());
    case Kind::kSeq:
      if (value.seq().flavor != Seq::Flavor::kIterator) {
        return static_cast<int64_t>(value.seq().items.size());
      }
      [[fallthrough]];
    default:
      Fail(std::string("expected a value with a length, found ") + TypeName(value));
  }
}

std::vector<Value> Iterate(const Value& value, Budget* budget) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      return items;
    case Kind::kString:
      budget->Step(static_cast<int64_t>(value.text().size()));
      for (std::string_view c : SplitChars(value.text())) {
        items.push_back(Value::String(std::string(c)));
      }
      budget->Bytes(items.size() * sizeof(Text));
      break;
    case Kind::kDict:
      for (const auto& [key, unused] : value.dict().entries) items.push_back(key);
      break;
    case Kind::kSeq: {
      const Seq& seq = value.seq();
      if (seq.flavor == Seq::Flavor::kIterator) {
        items.assign(seq.items.begin() + static_cast<std::ptrdiff_t>(seq.next), seq.items.end());
        seq.next = seq.items.size();
      } else {
        items = seq.items;
      }
      break;
    }
    default:
      Fail(std::string("expected a value to iterate over, found ") + TypeName(value));
  }
  budget->Bytes(items.size() * sizeof(Value));
  return items;
}

}  // namespace phasor::jinja
