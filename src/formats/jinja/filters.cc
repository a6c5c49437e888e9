// The filters: value | name(args).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

using Filter = std::function<Value(const Value& input, CallValues args, Budget* budget)>;

Value MapText(const Value& input, CallValues args, Budget* budget, const char* name,
              std::string (*map)(std::string_view)) {
  BoundArgs bound(name, std::move(args), {});
  return Value::String(map(Str(input, budget)), input.is_markup());
}

Value Trim(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("trim", std::move(args), {"chars"});
  std::string text = Str(input, budget);
  bool has_chars = bound.Find(0) != nullptr && !bound.Find(0)->IsNone();
  return Value::String(std::string(has_chars ? StripChars(text, bound.Text(0, ""), Side::kBoth)
                                             : Strip(text, Side::kBoth)),
                       input.is_markup());
}

Value LengthFilter(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("length", std::move(args), {});
  if (input.IsString()) budget->Step(static_cast<int64_t>(input.text().size() / 64));
  return Value::Int(Length(input));
}

Value Join(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("join", std::move(args), {"d", "attribute"});
  std::vector<std::string> parts;
  for (const Value& item : Iterate(input, budget)) {
    const Value* attribute = bound.Find(1);
    bool whole = attribute == nullptr || attribute->IsNone();
    parts.push_back(Str(whole ? item : GetPath(item, *attribute, budget), budget));
  }
  std::string separator = bound.Find(0) != nullptr ? Str(*bound.Find(0), budget) : "";
  return Value::String(CheckedJoin(separator, parts, budget));
}

Value Replace(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("replace", std::move(args), {"old", "new", "count"});
  bool all = bound.Find(2) == nullptr || bound.Find(2)->IsNone();
  return Value::String(CheckedReplace(Str(input, budget), Str(bound.Need(0), budget),
                                      Str(bound.Need(1), budget), all ? -1 : bound.Int(2, -1),
                                      budget));
}

Value Default(const Value& input, CallValues args, Budget*) {
  BoundArgs bound("default", std::move(args), {"default_value", "boolean"});
  bool replace = input.IsUndefined() || (bound.Bool(1, false) && !Truthy(input));
  if (!replace) return input;
  return bound.Find(0) != nullptr ? *bound.Find(0) : Value::String("");
}

Value ToJsonFilter(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("tojson", std::move(args), {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.Bool(0, false);
  style.sort_keys = bound.Bool(3, false);
  if (bound.Find(1) != nullptr && !bound.Find(1)->IsNone()) {
    int64_t width = bound.Find(1)->IsString() ? 0 : bound.Int(1, 0);
    style.indent =
        bound.Find(1)->IsString()
            ? bound.Find(1)->text()
            : std::string(static_cast<std::size_t>(std::clamp<int64_t>(width, 0, 64)), ' ');
    style.item_separator = ",";
  }
  if (bound.Find(2) != nullptr && !bound.Find(2)->IsNone()) {
    std::vector<Value> both = Iterate(*bound.Find(2), budget);
    if (both.size() != 2) Fail("tojson: expected two separators");
    style.item_separator = Str(both[0], budget);
    style.key_separator = Str(both[1], budget);
  }
  return Value::String(ToJson(input, style, budget));
}

Value First(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("first", std::move(args), {});
  bool once = input.IsSeq() && input.seq().flavor == Seq::Flavor::kIterator;
  if (once && input.seq().next < input.seq().items.size()) {
    return input.seq().items[input.seq().next++];
  }
  std::vector<Value> items = Iterate(input, budget);
  return items.empty() ? Value::MakeUndefined("first: the sequence is empty") : items.front();
}

Value Last(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("last", std::move(args), {});
  std::vector<Value> items = Iterate(input, budget);
  return items.empty() ? Value::MakeUndefined("last: the sequence is empty") : items.back();
}

Value Reverse(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("reverse", std::move(args), {});
  if (input.IsString()) {
    std::string out;
    std::vector<std::string_view> chars = SplitChars(input.text());
    for (auto c = chars.rbegin(); c != chars.rend(); ++c) out += *c;
    return Value::String(std::move(out));
  }
  std::vector<Value> items = Iterate(input, budget);
  std::reverse(items.begin(), items.end());
  return Value::Iterator(std::move(items));
}

// The whole text as a number, or nullopt.
std::optional<double> ParseFloat(std::string_view text) {
  std::string stripped(Strip(text, Side::kBoth));
  if (stripped.empty() || stripped.find_first_of("xXpP") != std::string::npos) return std::nullopt;
  char* end = nullptr;
  double value = std::strtod(stripped.c_str(), &end);
  if (end != stripped.c_str() + stripped.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> ParseInt(std::string_view text, int base) {
  std::string stripped(Strip(text, Side::kBoth));
  std::size_t digits = !stripped.empty() && (stripped[0] == '-' || stripped[0] == '+');
  if (digits == stripped.size() || IsSpaceChar(static_cast<unsigned char>(stripped[digits]))) {
    return std::nullopt;
  }
  // strtoll knows the prefix 0x only.
  const char prefix = base == 2 ? 'b' : base == 8 ? 'o' : '\0';
  if (prefix != '\0' && stripped.size() > digits + 1 && (stripped[digits + 1] | 32) == prefix) {
    stripped.erase(digits, 2);
  }
  char* end = nullptr;
  errno = 0;
  long long value = std::strtoll(stripped.c_str(), &end, base);
  if (errno != 0 || end != stripped.c_str() + stripped.size()) return std::nullopt;
  return value;
}

Value IntFilter(const Value& input, CallValues args, Budget*) {
  BoundArgs bound("int", std::move(args), {"default", "base"});
  Value fallback = bound.Find(0) != nullptr ? *bound.Find(0) : Value::Int(0);
  if (input.IsUndefined()) Fail(input.UndefinedMessage());
  if (input.IsInteger()) return Value::Int(input.int_value());
  std::optional<double> number;
  if (input.IsString()) {
    int64_t base = bound.Int(1, 10);
    if (base < 2 || base > 36) return fallback;
    if (auto integer = ParseInt(input.text(), static_cast<int>(base))) return Value::Int(*integer);
    number = ParseFloat(input.text());
  } else if (input.IsNumber()) {
    number = input.number();
  }
  if (!number || !(std::fabs(*number) < 9.2e18)) return fallback;
  return Value::Int(static_cast<int64_t>(*number));
}

Value FloatFilter(const Value& input, CallValues args, Budget*) {
  BoundArgs bound("float", std::move(args), {"default"});
  if (input.IsUndefined()) Fail(input.UndefinedMessage());
  if (input.IsNumber()) return Value::Float(input.number());
  if (input.IsString()) {
    if (auto number = ParseFloat(input.text())) return Value::Float(*number);
  }
  return bound.Find(0) != nullptr ? *bound.Find(0) : Value::Float(0);
}

Value Round(const Value& input, CallValues args, Budget*) {
  BoundArgs bound("round", std::move(args), {"precision", "method"});
  int64_t precision = std::clamp<int64_t>(bound.Int(0, 0), -300, 300);
  std::string method = bound.Text(1, "common");
  if (input.IsUndefined()) Fail(input.UndefinedMessage());
  if (!input.IsNumber()) Fail(std::string("round: expected a number, found ") + TypeName(input));
  double value = input.number(), scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value::Float(std::ceil(value * scale) / scale);
  if (method == "floor") return Value::Float(std::floor(value * scale) / scale);
  if (method != "common") Fail("round: expected common, ceil or floor, found '" + method + "'");
  if (input.IsInteger() && precision >= 0) return Value::Int(input.int_value());
  if (!std::isfinite(value)) return input;
  if (precision < 0) {
    double rounded = std::nearbyint(value * scale) / scale;
    if (!input.IsInteger()) return Value::Float(rounded);
    if (!(std::fabs(rounded) < 9.2e18)) Fail("round: result is too large");
    return Value::Int(static_cast<int64_t>(rounded));
  }
  char buffer[700];  // printf rounds the exact binary value to even, as Python does
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), value);
  return Value::Float(std::strtod(buffer, nullptr));
}

Value Abs(const Value& input, CallValues args, Budget*) {
  BoundArgs bound("abs", std::move(args), {});
  if (input.IsUndefined()) Fail(input.UndefinedMessage());
  if (!input.IsNumber()) Fail(std::string("abs: expected a number, found ") + TypeName(input));
  if (!input.IsInteger()) return Value::Float(std::fabs(input.number()));
  int64_t value = input.int_value();
  if (value == std::numeric_limits<int64_t>::min()) Fail("abs: result is too large");
  return Value::Int(std::abs(value));
}

Value Indent(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("indent", std::move(args), {"width", "first", "blank"});
  const Value* width = bound.Find(0);
  std::string pad =
      width != nullptr && width->IsString()
          ? width->text()
          : std::string(static_cast<std::size_t>(std::clamp<int64_t>(bound.Int(0, 4), 0, 1000)),
                        ' ');
  bool blank = bound.Bool(2, false);
  std::vector<std::string> lines = SplitLines(Str(input, budget) + "\n");
  std::string out = bound.Bool(1, false) ? pad : "";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += pad;
    out += lines[i];
    if (out.size() > Budget::kMaxOutputBytes) budget->Bytes(out.size());
  }
  return Value::String(std::move(out), input.is_markup());
}

Value Items(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("items", std::move(args), {});
  std::vector<Value> items;
  if (!input.IsUndefined() && !input.IsDict()) {
    Fail(std::string("items: expected a dict, found ") + TypeName(input));
  }
  if (input.IsDict()) {
    budget->Bytes(input.dict().entries.size() * 2 * sizeof(Value));
    for (const auto& [key, value] : input.dict().entries) {
      items.push_back(Value::Tuple({key, value}));
    }
  }
  return Value::Iterator(std::move(items));
}

// Text in lower case, anything else as it is: how Jinja compares when case does not count.
Value FoldCase(const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.IsString()) return value;
  return Value::String(Lower(value.text()));
}

// Sorts by keys computed once; equal keys keep their order, also in reverse.
std::vector<Value> SortByKeys(std::vector<std::pair<Value, Value>> keyed, bool reverse,
                              Budget* budget) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? Compare(b.first, a.first, budget) < 0 : Compare(a.first, b.first, budget) < 0;
  });
  std::vector<Value> sorted;
  for (auto& [key, value] : keyed) sorted.push_back(std::move(value));
  return sorted;
}

Value DictSort(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("dictsort", std::move(args), {"case_sensitive", "by", "reverse"});
  if (!input.IsDict()) Fail(std::string("dictsort: expected a dict, found ") + TypeName(input));
  std::string by = bound.Text(1, "key");
  if (by != "key" && by != "value") Fail("dictsort: expected by='key' or 'value'");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.dict().entries) {
    keyed.emplace_back(FoldCase(by == "key" ? key : value, bound.Bool(0, false)),
                       Value::Tuple({key, value}));
  }
  return Value::List(SortByKeys(std::move(keyed), bound.Bool(2, false), budget));
}

Value Sort(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("sort", std::move(args), {"reverse", "case_sensitive", "attribute"});
  bool case_sensitive = bound.Bool(1, false);
  const Value* attribute = bound.Find(2);
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : Iterate(input, budget)) {
    Value key = FoldCase(item, case_sensitive);
    if (attribute != nullptr && attribute->IsString()) {
      std::vector<Value> keys;
      for (const std::string& path : Split(attribute->text(), ",", -1)) {
        keys.push_back(FoldCase(GetPath(item, Value::String(path), budget), case_sensitive));
      }
      key = keys.size() == 1 ? keys[0] : Value::Tuple(std::move(keys));
    } else if (attribute != nullptr && !attribute->IsNone()) {
      key = FoldCase(GetItem(item, *attribute, budget), case_sensitive);
    }
    keyed.emplace_back(std::move(key), std::move(item));
  }
  return Value::List(SortByKeys(std::move(keyed), bound.Bool(0, false), budget));
}

Value Unique(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("unique", std::move(args), {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : Iterate(input, budget)) {
    budget->Step();
    const Value* attribute = bound.Find(1);
    Value key =
        attribute != nullptr && !attribute->IsNone() ? GetPath(item, *attribute, budget) : item;
    key = FoldCase(key, bound.Bool(0, false));
    if (seen.Find(key) != nullptr) continue;
    seen.Set(key, Value::None());
    out.push_back(item);
  }
  return Value::Iterator(std::move(out));
}

Value MinMax(const Value& input, CallValues args, Budget* budget, const char* name, int sign) {
  BoundArgs bound(name, std::move(args), {"case_sensitive", "attribute"});
  std::optional<std::pair<Value, Value>> best;
  for (const Value& item : Iterate(input, budget)) {
    const Value* attribute = bound.Find(1);
    Value key = FoldCase(attribute == nullptr ? item : GetPath(item, *attribute, budget),
                         bound.Bool(0, false));
    if (!best || Compare(key, best->first, budget) * sign > 0) best.emplace(key, item);
  }
  return best ? best->second : Value::MakeUndefined(std::string(name) + ": the sequence is empty");
}

Value Sum(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("sum", std::move(args), {"attribute", "start"});
  Value total = bound.Find(1) != nullptr ? *bound.Find(1) : Value::Int(0);
  for (const Value& item : Iterate(input, budget)) {
    const Value* attribute = bound.Find(0);
    bool whole = attribute == nullptr || attribute->IsNone();
    total = Arithmetic("+", total, whole ? item : GetPath(item, *attribute, budget), budget);
  }
  return total;
}

Value Batch(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("batch", std::move(args), {"linecount", "fill_with"});
  bound.Need(0);
  int64_t size = bound.Int(0, 1);
  if (size < 1) Fail("batch: expected a size of at least 1, found " + std::to_string(size));
  std::vector<Value> out, row;
  for (Value& item : Iterate(input, budget)) {
    row.push_back(std::move(item));
    if (static_cast<int64_t>(row.size()) == size) {
      out.push_back(Value::List(std::exchange(row, {})));
    }
  }
  if (!row.empty()) {
    const Value* fill = bound.Find(1);
    if (fill != nullptr && !fill->IsNone()) {
      budget->Bytes(static_cast<std::size_t>(std::min<int64_t>(size, 1 << 30)) * sizeof(Value));
      row.resize(static_cast<std::size_t>(size), *fill);
    }
    out.push_back(Value::List(std::move(row)));
  }
  return Value::Iterator(std::move(out));
}

Value GroupBy(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("groupby", std::move(args), {"attribute"});
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : Iterate(input, budget)) {
    Value key = GetPath(item, bound.Need(0), budget);
    keyed.emplace_back(FoldCase(key, false), Value::Tuple({key, item}));
  }
  std::vector<Value> sorted = SortByKeys(std::move(keyed), false, budget), groups;
  for (std::size_t i = 0; i < sorted.size();) {
    Value key = sorted[i].seq().items[0];
    std::vector<Value> members;
    for (; i < sorted.size(); ++i) {
      const Value& other = sorted[i].seq().items[0];
      if (!Equals(FoldCase(key, false), FoldCase(other, false), budget)) break;
      members.push_back(sorted[i].seq().items[1]);
    }
    groups.push_back(Value::Tuple({key, Value::List(std::move(members))}));
  }
  return Value::List(std::move(groups));
}

// map(attribute=..., default=...) or map('filter', args).
Value Map(const Value& input, CallValues args, Budget* budget) {
  std::vector<Value> out;
  if (!Truthy(input)) return Value::Iterator({});  // Jinja takes none as an empty sequence here
  if (args.positional.empty()) {
    BoundArgs bound("map", std::move(args), {"attribute", "default"});
    bound.Need(0);
    for (const Value& item : Iterate(input, budget)) {
      Value value = GetPath(item, *bound.Find(0), budget);
      out.push_back(value.IsUndefined() && bound.Find(1) != nullptr ? *bound.Find(1) : value);
    }
    return Value::Iterator(std::move(out));
  }
  if (!args.positional[0].IsString()) Fail("map: expected the name of a filter");
  std::string name = args.positional[0].text();
  args.positional.erase(args.positional.begin());
  for (const Value& item : Iterate(input, budget)) {
    out.push_back(ApplyFilter(name, item, args, budget));
  }
  return Value::Iterator(std::move(out));
}

// select, reject, selectattr, rejectattr: [attribute,] [test, args].
Value Select(const Value& input, CallValues args, Budget* budget, const char* filter,
             bool by_attribute, bool keep) {
  if (!Truthy(input)) return Value::Iterator({});  // also for none, as Jinja
  Value path;
  if (by_attribute) {
    if (args.positional.empty()) Fail(std::string(filter) + ": expected an attribute, found none");
    path = args.positional[0];
    args.positional.erase(args.positional.begin());
  }
  std::string test;
  if (!args.positional.empty()) {
    if (!args.positional[0].IsString()) {
      Fail(std::string(filter) + ": expected the name of a test, found " +
           TypeName(args.positional[0]));
    }
    test = args.positional[0].text();
    args.positional.erase(args.positional.begin());
  }
  std::vector<Value> out;
  for (const Value& item : Iterate(input, budget)) {
    Value subject = by_attribute ? GetPath(item, path, budget) : item;
    budget->Step();
    bool passes = test.empty() ? Truthy(subject) : ApplyTest(test, subject, args, budget);
    if (passes == keep) out.push_back(item);
  }
  return Value::Iterator(std::move(out));
}

Value UrlEncode(const Value& input, CallValues args, Budget* budget) {
  BoundArgs bound("urlencode", std::move(args), {});
  std::string out;
  char buffer[8];
  for (char c : Str(input, budget)) {
    auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("-_.~/").find(c) != std::string_view::npos) {
      out += c;
    } else {
      std::snprintf(buffer, sizeof buffer, "%%%02X", byte);
      out += buffer;
    }
  }
  return Value::String(std::move(out));
}

using FilterTable = std::unordered_map<std::string, Filter>;

void AddTextFilters(FilterTable* table) {
  auto text = [&](const char* name, std::string (*map)(std::string_view)) {
    (*table)[name] = [name, map](const Value& input, CallValues args, Budget* budget) {
      return MapText(input, std::move(args), budget, name, map);
    };
  };
  text("upper", Upper);
  text("lower", Lower);
  text("capitalize", Capitalize);
  text("title", TitleFilter);
  (*table)["trim"] = Trim;
  (*table)["replace"] = Replace;
  (*table)["indent"] = Indent;
  (*table)["urlencode"] = UrlEncode;
  (*table)["tojson"] = ToJsonFilter;
  (*table)["join"] = Join;
  (*table)["string"] = [](const Value& input, CallValues args, Budget* budget) {
    return input.IsString() ? input : Value::String(Str(input, budget));
  };
  (*table)["safe"] = [](const Value& input, CallValues args, Budget* budget) {
    return Value::String(Str(input, budget), true);
  };
  (*table)["escape"] = (*table)["e"] = [](const Value& input, CallValues args, Budget* budget) {
    return input.is_markup() ? input : Value::String(HtmlEscape(Str(input, budget)), true);
  };
  (*table)["format"] = [](const Value& input, CallValues args, Budget* budget) {
    return Value::String(FormatPercent(Str(input, budget), args.positional, budget));
  };
  (*table)["wordcount"] = [](const Value& input, CallValues args, Budget* budget) {
    budget->Bytes(Str(input, budget).size() * 2);
    return Value::Int(static_cast<int64_t>(Split(Str(input, budget), "", -1).size()));
  };
  (*table)["center"] = [](const Value& input, CallValues args, Budget* budget) {
    if (args.positional.empty() && args.named.empty()) args.positional = {Value::Int(80)};
    Value method = FindMethod(Value::String(Str(input, budget)), "center", budget);
    return method.callable().fn(std::move(args.positional), std::move(args.named));
  };
}

void AddSequenceFilters(FilterTable* table) {
  (*table)["length"] = (*table)["count"] = LengthFilter;
  (*table)["default"] = (*table)["d"] = Default;
  (*table)["first"] = First;
  (*table)["last"] = Last;
  (*table)["list"] = [](const Value& input, CallValues args, Budget* budget) {
    return Value::List(Iterate(input, budget));
  };
  (*table)["reverse"] = Reverse;
  (*table)["items"] = Items;
  (*table)["dictsort"] = DictSort;
  (*table)["sort"] = Sort;
  (*table)["unique"] = Unique;
  (*table)["batch"] = Batch;
  (*table)["groupby"] = GroupBy;
  (*table)["sum"] = Sum;
  (*table)["map"] = Map;
  (*table)["attr"] = [](const Value& input, CallValues args, Budget* budget) {
    BoundArgs bound("attr", std::move(args), {"name"});
    if (input.IsDict()) return FindMethod(input, bound.Text(0, ""), budget);
    return GetAttribute(input, Str(bound.Need(0), budget), budget);
  };
  (*table)["min"] = [](const Value& input, CallValues args, Budget* budget) {
    return MinMax(input, std::move(args), budget, "min", -1);
  };
  (*table)["max"] = [](const Value& input, CallValues args, Budget* budget) {
    return MinMax(input, std::move(args), budget, "max", 1);
  };
  struct SelectKind {
    const char* name;
    bool by_attribute, keep;
  };
  for (SelectKind kind :
       {SelectKind{"select", false, true}, SelectKind{"reject", false, false},
        SelectKind{"selectattr", true, true}, SelectKind{"rejectattr", true, false}}) {
    (*table)[kind.name] = [kind](const Value& input, CallValues args, Budget* budget) {
      return Select(input, std::move(args), budget, kind.name, kind.by_attribute, kind.keep);
    };
  }
}

const FilterTable& Filters() {
  static const FilterTable* table = [] {
    auto* filters = new FilterTable;
    AddTextFilters(filters);
    AddSequenceFilters(filters);
    (*filters)["int"] = IntFilter;
    (*filters)["float"] = FloatFilter;
    (*filters)["round"] = Round;
    (*filters)["abs"] = Abs;
    return filters;
  }();
  return *table;
}

}  // namespace

std::string CheckedReplace(std::string_view text, std::string_view from, std::string_view to,
                           int64_t max_count, Budget* budget) {
  std::size_t count = 0;
  if (from.empty()) {
    count = text.size() + 1;
  } else {
    for (std::size_t at = text.find(from); at != std::string_view::npos;
         at = text.find(from, at + from.size())) {
      ++count;
    }
  }
  if (max_count >= 0) count = std::min(count, static_cast<std::size_t>(max_count));
  budget->Step(static_cast<int64_t>(text.size() / 16));
  budget->Bytes(text.size() + count * to.size());
  return ReplaceAll(text, from, to, static_cast<long>(max_count));
}

std::string CheckedJoin(std::string_view separator, const std::vector<std::string>& parts,
                        Budget* budget) {
  std::size_t size = parts.size() * separator.size();
  for (const std::string& part : parts) size += part.size();
  budget->Bytes(size);
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

Value ApplyFilter(const std::string& name, const Value& input, CallValues args, Budget* budget) {
  auto filter = Filters().find(name);
  if (filter == Filters().end()) {
    throw TemplateError{"unsupported filter '" + name + "'", 0, StatusCode::kUnsupported};
  }
  budget->Step(input.IsString() ? 1 + static_cast<int64_t>(input.text().size() / 64) : 1);
  Value result = filter->second(input, std::move(args), budget);
  if (result.IsString()) budget->Bytes(result.text().size());
  return result;
}

}  // namespace phasor::jinja
