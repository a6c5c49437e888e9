// Values of the template language: Python's, as far as templates can tell.
//
// Strings, sequences and dicts are immutable and shared; as in the sandbox that Hugging Face uses,
// templates cannot change a list or a dict. The one mutable kind is the namespace. Everything here
// reports errors by throwing TemplateError, which ChatTemplate turns into a Status.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "phasor/status.h"

namespace phasor::jinja {

// An error in a template or in what it does. `line` is 1-based, 0: not known yet.
struct TemplateError {
  std::string message;
  int line = 0;
  StatusCode code = StatusCode::kInvalidArgument;
};
[[noreturn]] void Fail(std::string message);

// What one rendering may use; a hostile template ends with kResourceExhausted.
class Budget {
 public:
  static constexpr int64_t kMaxSteps = 20'000'000;        // expressions, elements looked at
  static constexpr int64_t kMaxIterations = 1'000'000;    // bodies of loops
  static constexpr int64_t kMaxBytes = int64_t{1} << 30;  // of all values ever made
  static constexpr std::size_t kMaxOutputBytes = std::size_t{64} << 20;  // of any one text

  void Step(int64_t n = 1);
  void Iteration();
  void Bytes(std::size_t n);  // also checks n as the size of one text
 private:
  int64_t steps_ = 0, iterations_ = 0, bytes_ = 0;
};

class Value;
struct Seq;
struct Dict;
struct Namespace;
struct LoopState;
struct Callable;

struct Text {
  std::string text;
  bool markup = false;  // marked by `safe` or `escape`: "+" escapes what is joined to it
};

enum class Kind {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSeq,
  kDict,
  kNamespace,
  kLoop,
  kCallable
};

class Value {
 public:
  Value() : data_(Undefined{}) {}
  static Value MakeUndefined(std::string hint);  // hint: what was looked up, for messages
  static Value None() { return Value(NoneType{}); }
  static Value Bool(bool b) { return Value(b); }
  static Value Int(int64_t i) { return Value(i); }
  static Value Float(double d) { return Value(d); }
  static Value String(std::string text, bool markup = false);
  static Value List(std::vector<Value> items);
  static Value Tuple(std::vector<Value> items);
  static Value Iterator(std::vector<Value> items);
  static Value FromSeq(Seq seq);  // checks the nesting
  static Value FromDict(Dict dict);
  static Value FromNamespace(std::shared_ptr<Namespace> ns) { return Value(std::move(ns)); }
  static Value FromLoop(std::shared_ptr<LoopState> loop) { return Value(std::move(loop)); }
  static Value Function(
      std::string name,
      std::function<Value(std::vector<Value>, std::vector<std::pair<std::string, Value>>)> fn);
  // From JSON; objects keep their order.
  static Value FromJson(const nlohmann::ordered_json& json);

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool IsUndefined() const { return kind() == Kind::kUndefined; }
  bool IsNone() const { return kind() == Kind::kNone; }
  bool IsBool() const { return kind() == Kind::kBool; }
  bool IsString() const { return kind() == Kind::kString; }
  bool IsSeq() const { return kind() == Kind::kSeq; }
  bool IsDict() const { return kind() == Kind::kDict; }
  bool IsInteger() const { return kind() == Kind::kInt || IsBool(); }  // bool is an int in Python
  bool IsNumber() const { return IsInteger() || kind() == Kind::kFloat; }

  // These need the right kind.
  bool bool_value() const { return std::get<bool>(data_); }
  int64_t int_value() const { return IsBool() ? bool_value() : std::get<int64_t>(data_); }
  double number() const {
    return kind() == Kind::kFloat ? std::get<double>(data_) : static_cast<double>(int_value());
  }
  const std::string& text() const { return std::get<TextPtr>(data_)->text; }
  bool is_markup() const { return IsString() && std::get<TextPtr>(data_)->markup; }
  const Seq& seq() const { return *std::get<SeqPtr>(data_); }
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Namespace& ns() const { return *std::get<std::shared_ptr<Namespace>>(data_); }
  LoopState& loop() const { return *std::get<std::shared_ptr<LoopState>>(data_); }
  const Callable& callable() const { return *std::get<CallablePtr>(data_); }
  std::string UndefinedMessage() const;

  // The object behind a shared value, nullptr for scalars; for identity.
  const void* identity() const;

 private:
  struct Undefined {
    std::shared_ptr<const std::string> hint;
  };
  struct NoneType {};
  using TextPtr = std::shared_ptr<const Text>;
  using SeqPtr = std::shared_ptr<const Seq>;
  using DictPtr = std::shared_ptr<const Dict>;
  using CallablePtr = std::shared_ptr<const Callable>;
  using Data = std::variant<Undefined, NoneType, bool, int64_t, double, TextPtr, SeqPtr, DictPtr,
                            std::shared_ptr<Namespace>, std::shared_ptr<LoopState>, CallablePtr>;
  template <typename T>
  explicit Value(T data) : data_(std::move(data)) {}
  Data data_;
};

// Nesting of lists and dicts; keeps every recursive walk and destructor shallow.
inline constexpr int kMaxValueDepth = 200;

struct Seq {
  enum class Flavor { kList, kTuple, kIterator, kView };
  std::vector<Value> items;
  Flavor flavor = Flavor::kList;
  const char* view_name = "";  // "dict_items", ... of a view
  int depth = 1;
  // An iterator can be read once, as a Python generator.
  mutable std::size_t next = 0;
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in insertion order
  std::unordered_map<std::string, std::size_t> index;
  int depth = 1;

  // Replaces or appends; an unhashable key is an error.
  void Set(const Value& key, Value value);
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
};

struct Namespace {
  std::unordered_map<std::string, Value> attributes;
};

struct LoopState {
  std::vector<Value> items;
  std::size_t position = 0;
  int depth = 1;
  std::optional<Value> last_changed;
};

using NamedValues = std::vector<std::pair<std::string, Value>>;
struct Callable {
  std::string name;
  std::function<Value(std::vector<Value>, NamedValues)> fn;
};

// "string", "list", ... for messages.
const char* TypeName(const Value& value);
bool Truthy(const Value& value);
bool Equals(const Value& a, const Value& b, Budget* budget);
// Same kind and value, or the same object: Python's `is`.
bool Same(const Value& a, const Value& b);
// <0, 0, >0; an error for kinds that Python cannot order.
int Compare(const Value& a, const Value& b, Budget* budget);
// `needle in haystack`.
bool Contains(const Value& haystack, const Value& needle, Budget* budget);
// len(); an error for values without one.
int64_t Length(const Value& value);
// The elements a for loop sees; uses up an iterator. Undefined has none.
std::vector<Value> Iterate(const Value& value, Budget* budget);

// str(), repr() and json.dumps().
std::string Str(const Value& value, Budget* budget);
std::string Repr(const Value& value, Budget* budget);
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level
  std::string item_separator = ", ", key_separator = ": ";
};
std::string ToJson(const Value& value, const JsonStyle& style, Budget* budget);

}  // namespace phasor::jinja
