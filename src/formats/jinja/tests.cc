// The tests: value is name(args).
#include <functional>
#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

using Test = std::function<bool(const Value& value, CallValues args, Budget* budget)>;
using TestTable = std::unordered_map<std::string, Test>;

Test Simple(const char* name, bool (*test)(const Value&)) {
  return [name, test](const Value& value, CallValues args, Budget*) {
    BoundArgs bound(name, std::move(args), {});
    return test(value);
  };
}

Test WithArgument(const char* name, bool (*test)(const Value&, const Value&, Budget*)) {
  return [name, test](const Value& value, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {"other"});
    return test(value, bound.Need(0), budget);
  };
}

int64_t Modulo(const Value& value, const Value& by, Budget* budget) {
  Value rest = Arithmetic("%", value, by, budget);
  if (!rest.IsNumber()) Fail("expected a number for this test");
  return rest.number() == 0 ? 0 : rest.number() == 1 ? 1 : 2;
}

bool IsIterable(const Value& v) {
  return v.IsUndefined() || v.IsString() || v.IsSeq() || v.IsDict();
}

bool IsSequence(const Value& v) {
  if (v.IsSeq()) {
    return v.seq().flavor == Seq::Flavor::kList || v.seq().flavor == Seq::Flavor::kTuple;
  }
  return v.IsUndefined() || v.IsString() || v.IsDict();
}

void AddTypeTests(TestTable* table) {
  auto add = [&](const char* name, bool (*test)(const Value&)) {
    (*table)[name] = Simple(name, test);
  };
  add("defined", [](const Value& v) { return !v.IsUndefined(); });
  add("undefined", [](const Value& v) { return v.IsUndefined(); });
  add("none", [](const Value& v) { return v.IsNone(); });
  add("string", [](const Value& v) { return v.IsString(); });
  add("number", [](const Value& v) { return v.IsNumber(); });
  add("integer", [](const Value& v) { return v.kind() == Kind::kInt; });
  add("float", [](const Value& v) { return v.kind() == Kind::kFloat; });
  add("boolean", [](const Value& v) { return v.IsBool(); });
  add("true", [](const Value& v) { return v.IsBool() && v.bool_value(); });
  add("false", [](const Value& v) { return v.IsBool() && !v.bool_value(); });
  add("mapping", [](const Value& v) { return v.IsDict(); });
  add("sequence", IsSequence);
  add("iterable", IsIterable);
  add("callable", [](const Value& v) { return v.kind() == Kind::kCallable; });
  add("escaped", [](const Value& v) { return v.is_markup(); });
}

void AddCompareTests(TestTable* table) {
  auto add = [&](std::initializer_list<const char*> names,
                 bool (*test)(const Value&, const Value&, Budget*)) {
    for (const char* name : names) (*table)[name] = WithArgument(name, test);
  };
  add({"eq", "==", "equalto"},
      [](const Value& a, const Value& b, Budget* budget) { return Equals(a, b, budget); });
  add({"ne", "!="},
      [](const Value& a, const Value& b, Budget* budget) { return !Equals(a, b, budget); });
  add({"lt", "<", "lessthan"},
      [](const Value& a, const Value& b, Budget* budget) { return Compare(a, b, budget) < 0; });
  add({"le", "<="},
      [](const Value& a, const Value& b, Budget* budget) { return Compare(a, b, budget) <= 0; });
  add({"gt", ">", "greaterthan"},
      [](const Value& a, const Value& b, Budget* budget) { return Compare(a, b, budget) > 0; });
  add({"ge", ">="},
      [](const Value& a, const Value& b, Budget* budget) { return Compare(a, b, budget) >= 0; });
  add({"in"},
      [](const Value& a, const Value& b, Budget* budget) { return Contains(b, a, budget); });
  add({"sameas"}, [](const Value& a, const Value& b, Budget*) { return Same(a, b); });
  add({"divisibleby"},
      [](const Value& a, const Value& b, Budget* budget) { return Modulo(a, b, budget) == 0; });
}

const TestTable& Tests() {
  static const TestTable* table = [] {
    auto* tests = new TestTable;
    AddTypeTests(tests);
    AddCompareTests(tests);
    auto parity = [&](const char* name, int64_t rest) {
      (*tests)[name] = [name, rest](const Value& value, CallValues args, Budget* budget) {
        BoundArgs bound(name, std::move(args), {});
        return Modulo(value, Value::Int(2), budget) == rest;
      };
    };
    parity("odd", 1);
    parity("even", 0);
    auto same_case = [&](const char* name, const char* method) {
      (*tests)[name] = [method](const Value& value, CallValues args, Budget* budget) {
        Value found = FindMethod(Value::String(Str(value, budget)), method, budget);
        return Truthy(found.callable().fn({}, {}));
      };
    };
    same_case("upper", "isupper");
    same_case("lower", "islower");
    return tests;
  }();
  return *table;
}

}  // namespace

bool ApplyTest(const std::string& name, const Value& value, CallValues args, Budget* budget) {
  auto test = Tests().find(name);
  if (test == Tests().end()) {
    throw TemplateError{"unsupported test '" + name + "'", 0, StatusCode::kUnsupported};
  }
  budget->Step();
  return test->second(value, std::move(args), budget);
}

}  // namespace phasor::jinja
