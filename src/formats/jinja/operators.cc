// Arithmetic, "..." % values, and the global functions.
#include <cmath>
#include <cstdio>
#include <ctime>
#include <limits>

#include "formats/jinja/builtins.h"
#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // the sandbox's limit

[[noreturn]] void BadOperands(const std::string& op, const Value& a, const Value& b) {
  if (a.IsUndefined()) Fail(a.UndefinedMessage());
  if (b.IsUndefined()) Fail(b.UndefinedMessage());
  Fail("expected operands that '" + op + "' can take, found " + TypeName(a) + " and " +
       TypeName(b));
}

[[noreturn]] void Overflow(const std::string& op) {
  throw TemplateError{"'" + op + "': expected a result within 64 bits, found a larger one", 0,
                      StatusCode::kOutOfRange};
}

Value IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) Fail("'**': found zero to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if (exponent % 2 == 1 && __builtin_mul_overflow(result, base, &result)) Overflow("**");
    exponent /= 2;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) Overflow("**");
  }
  return Value::Int(result);
}

Value IntArithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+" || op == "-" || op == "*") {
    bool overflow = op == "+"   ? __builtin_add_overflow(a, b, &result)
                    : op == "-" ? __builtin_sub_overflow(a, b, &result)
                                : __builtin_mul_overflow(a, b, &result);
    if (overflow) Overflow(op);
    return Value::Int(result);
  }
  if (op == "**") return IntPower(a, b);
  if (b == 0) Fail("'" + op + "': found a division by zero");
  if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {  // the one quotient that does not fit
    if (op == "%") return Value::Int(0);
    if (__builtin_sub_overflow(int64_t{0}, a, &result)) Overflow(op);
    return Value::Int(result);
  }
  int64_t quotient = a / b, remainder = a % b;
  if (remainder != 0 && (remainder < 0) != (b < 0)) {  // Python rounds down
    --quotient;
    remainder += b;
  }
  return Value::Int(op == "//" ? quotient : remainder);
}

Value FloatArithmetic(const std::string& op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return Value::Float(std::pow(a, b));
  if (b == 0) Fail("'" + op + "': found a division by zero");
  if (op == "/") return Value::Float(a / b);
  if (op == "//") return Value::Float(std::floor(a / b));
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  return Value::Float(remainder);
}

Value Repeat(const Value& value, int64_t count, Budget* budget) {
  count = std::max<int64_t>(count, 0);
  if (value.IsString()) {
    const std::string& text = value.text();
    if (!text.empty() && count > static_cast<int64_t>(Budget::kMaxOutputBytes)) {
      count = static_cast<int64_t>(Budget::kMaxOutputBytes) + 1;  // Bytes() refuses it
    }
    budget->Bytes(text.size() * static_cast<std::size_t>(count));
    std::string out;
    out.reserve(text.size() * static_cast<std::size_t>(count));
    for (int64_t i = 0; i < count && !text.empty(); ++i) out += text;
    return Value::String(std::move(out), value.is_markup());
  }
  const std::vector<Value>& items = value.seq().items;
  if (items.empty()) count = 0;
  count = std::min<int64_t>(count, static_cast<int64_t>(Budget::kMaxOutputBytes));
  budget->Bytes(items.size() * sizeof(Value) * static_cast<std::size_t>(count));
  std::vector<Value> out;
  for (int64_t i = 0; i < count; ++i) out.insert(out.end(), items.begin(), items.end());
  return value.seq().flavor == Seq::Flavor::kTuple ? Value::Tuple(std::move(out))
                                                   : Value::List(std::move(out));
}

Value AddText(const Value& a, const Value& b, Budget* budget) {
  bool markup = a.is_markup() || b.is_markup();
  auto part = [&](const Value& v) { return v.is_markup() ? v.text() : HtmlEscape(v.text()); };
  budget->Bytes(a.text().size() + b.text().size());
  return Value::String(markup ? part(a) + part(b) : a.text() + b.text(), markup);
}

Value AddSeqs(const Value& a, const Value& b, Budget* budget) {
  std::vector<Value> items = a.seq().items;
  items.insert(items.end(), b.seq().items.begin(), b.seq().items.end());
  budget->Bytes(items.size() * sizeof(Value));
  return a.seq().flavor == Seq::Flavor::kTuple ? Value::Tuple(std::move(items))
                                               : Value::List(std::move(items));
}

bool IsListOrTuple(const Value& v) {
  return v.IsSeq() &&
         (v.seq().flavor == Seq::Flavor::kList || v.seq().flavor == Seq::Flavor::kTuple);
}

// One conversion of FormatPercent: "%" flags width .precision type.
std::string FormatOne(const std::string& spec, const Value& value, Budget* budget) {
  char type = spec.back();
  char buffer[512];
  if (type == 's' || type == 'r') {
    std::string text = type == 's' ? Str(value, budget) : Repr(value, budget);
    std::string pattern = spec.substr(0, spec.size() - 1) + "s";
    if (pattern == "%s") return text;
    std::string out(text.size() + 256, '\0');
    int size = std::snprintf(out.data(), out.size(), pattern.c_str(), text.c_str());
    out.resize(static_cast<std::size_t>(std::max(0, size)));
    return out;
  }
  if (!value.IsNumber()) {
    Fail(std::string("'%': expected a number for %") + type + ", found " + TypeName(value));
  }
  std::string head = spec.substr(0, spec.size() - 1);
  int size = 0;
  if (type == 'd' || type == 'i' || type == 'x') {
    double number = value.number();
    if (!value.IsInteger() && !(std::fabs(number) < 9e18)) Overflow("%");
    long long integer =
        value.IsInteger() ? value.int_value() : static_cast<long long>(std::trunc(number));
    size = std::snprintf(buffer, sizeof buffer, (head + "ll" + type).c_str(), integer);
  } else {
    size = std::snprintf(buffer, sizeof buffer, (head + type).c_str(), value.number());
  }
  return std::string(buffer, static_cast<std::size_t>(std::min<int>(size, sizeof buffer - 1)));
}

Value Range(CallValues args, Budget* budget) {
  BoundArgs bound("range", std::move(args), {"start", "stop", "step"});
  bound.Need(0);
  int64_t start = bound.Int(0, 0), stop = bound.Int(1, 0), step = bound.Int(2, 1);
  if (bound.Find(1) == nullptr) stop = std::exchange(start, 0);
  if (step == 0) Fail("range: expected a step other than 0");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      throw TemplateError{
          "range: expected at most " + std::to_string(kMaxRange) + " numbers, found more", 0,
          StatusCode::kResourceExhausted};
    }
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  budget->Bytes(items.size() * sizeof(Value));
  return Value::List(std::move(items));
}

// dict(mapping or pairs, name=value ...)
Dict MakeDict(CallValues args, Budget* budget) {
  Dict dict;
  if (args.positional.size() > 1) Fail("dict: expected at most one argument, found more");
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.IsDict()) {
      dict = from.dict();
    } else {
      for (const Value& pair : Iterate(from, budget)) {
        std::vector<Value> both = Iterate(pair, budget);
        if (both.size() != 2) Fail("dict: expected pairs, found something else");
        dict.Set(both[0], both[1]);
      }
    }
  }
  for (auto& [name, value] : args.named) dict.Set(Value::String(name), std::move(value));
  budget->Bytes(dict.entries.size() * 4 * sizeof(Value));
  return dict;
}

Value MakeNamespace(CallValues args, Budget* budget,
                    std::vector<std::shared_ptr<Namespace>>* namespaces) {
  auto ns = std::make_shared<Namespace>();
  budget->Bytes(sizeof(Namespace));
  for (auto& [key, value] : MakeDict(std::move(args), budget).entries) {
    ns->attributes[Str(key, budget)] = std::move(value);
  }
  namespaces->push_back(ns);
  return Value::FromNamespace(std::move(ns));
}

Value StrftimeNow(CallValues args) {
  BoundArgs bound("strftime_now", std::move(args), {"format"});
  bound.Need(0);
  std::string format = bound.Text(0, "");
  if (format.size() > 1000) Fail("strftime_now: expected a format of at most 1000 bytes");
  std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(format.size() * 64 + 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value::String(std::move(out));
}

}  // namespace

Value Arithmetic(const std::string& op, const Value& a, const Value& b, Budget* budget) {
  if (op == "%" && a.IsString()) {
    if (b.IsUndefined()) Fail(b.UndefinedMessage());
    bool tuple = b.IsSeq() && b.seq().flavor == Seq::Flavor::kTuple;
    return Value::String(
        FormatPercent(a.text(), tuple ? b.seq().items : std::vector<Value>{b}, budget));
  }
  if (a.IsInteger() && b.IsInteger()) return IntArithmetic(op, a.int_value(), b.int_value());
  if (a.IsNumber() && b.IsNumber()) return FloatArithmetic(op, a.number(), b.number());
  if (op == "+" && a.IsString() && b.IsString()) return AddText(a, b, budget);
  if (op == "+" && IsListOrTuple(a) && IsListOrTuple(b) && a.seq().flavor == b.seq().flavor) {
    return AddSeqs(a, b, budget);
  }
  if (op == "*" && (a.IsString() || IsListOrTuple(a)) && b.IsInteger()) {
    return Repeat(a, b.int_value(), budget);
  }
  if (op == "*" && (b.IsString() || IsListOrTuple(b)) && a.IsInteger()) {
    return Repeat(b, a.int_value(), budget);
  }
  BadOperands(op, a, b);
}

std::string FormatPercent(std::string_view format, const std::vector<Value>& values,
                          Budget* budget) {
  std::string out;
  std::size_t used = 0;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    std::string spec = "%";
    auto take = [&](std::string_view allowed, std::size_t most) {
      std::size_t taken = 0;
      while (i + 1 < format.size() && taken < most &&
             allowed.find(format[i + 1]) != std::string_view::npos) {
        spec += format[++i];
        ++taken;
      }
    };
    take("-+ #0", 5);
    take("0123456789", 2);  // widths above 99 are refused below
    take(".", 1);
    if (spec.back() == '.') take("0123456789", 2);
    if (++i >= format.size()) Fail("'%': expected a conversion, found the end of the format");
    if (format[i] == '%') {
      out += '%';
      continue;
    }
    if (std::string_view("sdirfFgeEGx").find(format[i]) == std::string_view::npos) {
      Fail("'%': expected one of s d i r f F g e x, found " + std::string(1, format[i]));
    }
    if (used >= values.size()) Fail("'%': expected more values, found " + std::to_string(used));
    out += FormatOne(spec + format[i], values[used++], budget);
    if (out.size() > Budget::kMaxOutputBytes) budget->Bytes(out.size());
  }
  if (used < values.size()) {
    Fail("'%': expected " + std::to_string(used) + " values, found " +
         std::to_string(values.size()));
  }
  budget->Bytes(out.size());
  return out;
}

std::vector<std::pair<std::string, Value>> GlobalFunctions(
    Budget* budget, std::vector<std::shared_ptr<Namespace>>* namespaces) {
  std::vector<std::pair<std::string, Value>> table;
  auto add = [&](const char* name, std::function<Value(CallValues)> fn) {
    table.emplace_back(
        name, Value::Function(
                  name, [fn = std::move(fn)](std::vector<Value> positional, NamedValues named) {
                    return fn({std::move(positional), std::move(named)});
                  }));
  };
  add("range", [budget](CallValues args) { return Range(std::move(args), budget); });
  add("dict",
      [budget](CallValues args) { return Value::FromDict(MakeDict(std::move(args), budget)); });
  add("namespace", [budget, namespaces](CallValues args) {
    return MakeNamespace(std::move(args), budget, namespaces);
  });
  add("strftime_now", [](CallValues args) { return StrftimeNow(std::move(args)); });
  add("raise_exception", [budget](CallValues args) -> Value {
    BoundArgs bound("raise_exception", std::move(args), {"message"});
    Fail(Str(bound.Need(0), budget));
  });
  return table;
}

}  // namespace phasor::jinja
