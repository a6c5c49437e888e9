// Methods of strings, sequences and dicts.
#include <algorithm>
#include <functional>
#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

using Method = std::function<Value(const Value& self, CallValues args, Budget* budget)>;
using MethodTable = std::unordered_map<std::string, Method>;

Value StringList(std::vector<std::string> parts, Budget* budget) {
  std::vector<Value> items;
  budget->Bytes(parts.size() * (sizeof(Value) + sizeof(Text)));
  for (std::string& part : parts) items.push_back(Value::String(std::move(part)));
  return Value::List(std::move(items));
}

Method StripMethod(const char* name, Side side) {
  return [name, side](const Value& self, CallValues args, Budget*) {
    BoundArgs bound(name, std::move(args), {"chars"});
    const Value* chars = bound.Find(0);
    std::string_view out = chars == nullptr || chars->IsNone()
                               ? Strip(self.text(), side)
                               : StripChars(self.text(), bound.Text(0, ""), side);
    return Value::String(std::string(out), self.is_markup());
  };
}

Method MapMethod(const char* name, std::string (*map)(std::string_view)) {
  return [name, map](const Value& self, CallValues args, Budget*) {
    BoundArgs bound(name, std::move(args), {});
    return Value::String(map(self.text()));
  };
}

Method SplitMethod(const char* name,
                   std::vector<std::string> (*split)(std::string_view, std::string_view, long)) {
  return [name, split](const Value& self, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {"sep", "maxsplit"});
    const Value* sep = bound.Find(0);
    bool has_sep = sep != nullptr && !sep->IsNone();
    std::string separator = has_sep ? bound.Text(0, "") : "";
    if (has_sep && separator.empty()) Fail(std::string(name) + ": expected a separator, found ''");
    budget->Bytes(self.text().size());
    return StringList(split(self.text(), separator, bound.Int(1, -1)), budget);
  };
}

// startswith and endswith: one string or a tuple of them.
Method AffixMethod(const char* name, bool at_start) {
  return [name, at_start](const Value& self, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {"affix"});
    const Value& affix = bound.Need(0);
    std::string_view text = self.text();
    auto matches = [&](const Value& value) {
      if (!value.IsString()) {
        Fail(std::string(name) + ": expected a string, found " + TypeName(value));
      }
      return at_start ? text.starts_with(value.text()) : text.ends_with(value.text());
    };
    if (!affix.IsSeq()) return Value::Bool(matches(affix));
    std::vector<Value> items = Iterate(affix, budget);
    return Value::Bool(std::any_of(items.begin(), items.end(), matches));
  };
}

// find, rfind, index; positions are characters.
Method FindInText(const char* name, bool from_right, bool must_find) {
  return [name, from_right, must_find](const Value& self, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {"sub", "start"});
    std::string needle = bound.Text(0, "");
    bound.Need(0);
    std::string_view text = self.text();
    budget->Step(static_cast<int64_t>(text.size() / 16));
    int64_t start = bound.Int(1, 0);
    std::vector<std::string_view> chars = SplitChars(text);
    if (start < 0) start = std::max<int64_t>(0, start + static_cast<int64_t>(chars.size()));
    std::size_t found = std::string_view::npos;
    if (start <= static_cast<int64_t>(chars.size())) {
      auto at = static_cast<std::size_t>(start);
      std::size_t skip = at == chars.size()
                             ? text.size()
                             : static_cast<std::size_t>(chars[at].data() - text.data());
      found = from_right ? text.rfind(needle) : text.find(needle, skip);
      if (from_right && found < skip) found = std::string_view::npos;
    }
    if (found == std::string_view::npos) {
      if (must_find) Fail(std::string(name) + ": expected a substring that is there");
      return Value::Int(-1);
    }
    return Value::Int(static_cast<int64_t>(CountChars(text.substr(0, found))));
  };
}

Value Replace(const Value& self, CallValues args, Budget* budget) {
  BoundArgs bound("replace", std::move(args), {"old", "new", "count"});
  bound.Need(0), bound.Need(1);
  return Value::String(
      CheckedReplace(self.text(), bound.Text(0, ""), bound.Text(1, ""), bound.Int(2, -1), budget));
}

Value Join(const Value& self, CallValues args, Budget* budget) {
  BoundArgs bound("join", std::move(args), {"iterable"});
  std::vector<std::string> parts;
  for (const Value& item : Iterate(bound.Need(0), budget)) {
    if (!item.IsString()) Fail(std::string("join: expected strings, found ") + TypeName(item));
    parts.push_back(item.text());
  }
  return Value::String(CheckedJoin(self.text(), parts, budget));
}

Value CountText(const Value& self, CallValues args, Budget* budget) {
  BoundArgs bound("count", std::move(args), {"sub"});
  bound.Need(0);
  std::string needle = bound.Text(0, "");
  budget->Step(static_cast<int64_t>(self.text().size() / 16));
  if (needle.empty()) return Value::Int(Length(self) + 1);
  int64_t count = 0;
  for (std::size_t at = self.text().find(needle); at != std::string::npos;
       at = self.text().find(needle, at + needle.size())) {
    ++count;
  }
  return Value::Int(count);
}

Method Partition(const char* name, bool from_right) {
  return [name, from_right](const Value& self, CallValues args, Budget*) {
    BoundArgs bound(name, std::move(args), {"sep"});
    bound.Need(0);
    std::string sep = bound.Text(0, "");
    if (sep.empty()) Fail(std::string(name) + ": expected a separator, found ''");
    const std::string& text = self.text();
    std::size_t at = from_right ? text.rfind(sep) : text.find(sep);
    std::vector<Value> parts;
    if (at == std::string::npos) {
      parts = {Value::String(""), Value::String(""), Value::String("")};
      parts[from_right ? 2 : 0] = self;
    } else {
      parts = {Value::String(text.substr(0, at)), Value::String(sep),
               Value::String(text.substr(at + sep.size()))};
    }
    return Value::Tuple(std::move(parts));
  };
}

Method RemoveAffix(const char* name, bool at_start) {
  return [name, at_start](const Value& self, CallValues args, Budget*) {
    BoundArgs bound(name, std::move(args), {"affix"});
    bound.Need(0);
    std::string affix = bound.Text(0, "");
    std::string_view text = self.text();
    if (at_start && text.starts_with(affix)) text.remove_prefix(affix.size());
    if (!at_start && text.ends_with(affix)) text.remove_suffix(affix.size());
    return Value::String(std::string(text));
  };
}

// isdigit, isalpha, ...: every character of a text that is not empty. ASCII only, beyond it a
// character counts as a letter when it is no space.
Method ClassMethod(const char* name, bool (*matches)(char32_t)) {
  return [name, matches](const Value& self, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {});
    const std::string& text = self.text();
    budget->Step(static_cast<int64_t>(text.size() / 16));
    for (std::size_t pos = 0, length = 0; pos < text.size(); pos += length) {
      if (!matches(DecodeChar(text, pos, &length))) return Value::Bool(false);
    }
    return Value::Bool(!text.empty());
  };
}

Method CaseMethod(const char* name, std::string (*same)(std::string_view),
                  std::string (*other)(std::string_view)) {
  return [name, same, other](const Value& self, CallValues args, Budget*) {
    BoundArgs bound(name, std::move(args), {});
    return Value::Bool(same(self.text()) == self.text() && other(self.text()) != self.text());
  };
}

enum class Align { kLeft, kRight, kCenter, kZero };
Method PadMethod(const char* name, Align align) {
  return [name, align](const Value& self, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {"width", "fillchar"});
    bound.Need(0);
    std::string fill = align == Align::kZero ? "0" : bound.Text(1, " ");
    int64_t length = Length(self), missing = std::max<int64_t>(0, bound.Int(0, 0) - length);
    budget->Bytes(static_cast<std::size_t>(missing) * fill.size() + self.text().size());
    // str.center puts the odd blank on the left when the width is odd.
    int64_t left = align == Align::kLeft     ? 0
                   : align == Align::kCenter ? missing / 2 + (missing & bound.Int(0, 0) & 1)
                                             : missing;
    std::string out, text = self.text();
    if (align == Align::kZero && !text.empty() && (text[0] == '-' || text[0] == '+')) {
      out += text[0];
      text.erase(0, 1);
    }
    for (int64_t i = 0; i < left; ++i) out += fill;
    out += text;
    for (int64_t i = left; i < missing; ++i) out += fill;
    return Value::String(std::move(out));
  };
}

// str.format with {}, {0} and {name}; format specifications are not supported.
Value FormatBraces(const Value& self, CallValues args, Budget* budget) {
  std::string out;
  const std::string& text = self.text();
  std::size_t next = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    bool doubled = i + 1 < text.size() && text[i + 1] == text[i];
    if ((text[i] == '{' || text[i] == '}') && doubled) {
      out += text[i++];
    } else if (text[i] == '}') {
      Fail("format: found a single '}'");
    } else if (text[i] != '{') {
      out += text[i];
    } else {
      std::size_t end = text.find('}', i);
      if (end == std::string::npos) Fail("format: expected '}', found the end");
      std::string field = text.substr(i + 1, end - i - 1);
      i = end;
      const Value* value = nullptr;
      bool digits = field.find_first_not_of("0123456789") == std::string::npos;
      if (digits && field.size() < 6) {
        std::size_t index = field.empty() ? next++ : std::stoul(field);
        if (index < args.positional.size()) value = &args.positional[index];
      } else {
        for (const auto& [name, named] : args.named) {
          if (name == field) value = &named;
        }
      }
      if (value == nullptr) Fail("format: expected an argument for '{" + field + "}', found none");
      out += Str(*value, budget);
    }
    if (out.size() > Budget::kMaxOutputBytes) budget->Bytes(out.size());
  }
  return Value::String(std::move(out));
}

bool IsAsciiDigit(char32_t c) { return c >= '0' && c <= '9'; }
bool IsAlphaChar(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= 0xAA && !IsSpaceChar(c));
}
bool IsAlnumChar(char32_t c) { return IsAlphaChar(c) || IsAsciiDigit(c); }

const MethodTable& StringMethods() {
  static const MethodTable* table = new MethodTable{
      {"strip", StripMethod("strip", Side::kBoth)},
      {"lstrip", StripMethod("lstrip", Side::kLeft)},
      {"rstrip", StripMethod("rstrip", Side::kRight)},
      {"upper", MapMethod("upper", Upper)},
      {"lower", MapMethod("lower", Lower)},
      {"casefold", MapMethod("casefold", Lower)},
      {"capitalize", MapMethod("capitalize", Capitalize)},
      {"title", MapMethod("title", PythonTitle)},
      {"split", SplitMethod("split", Split)},
      {"rsplit", SplitMethod("rsplit", RSplit)},
      {"splitlines",
       [](const Value& self, CallValues args, Budget* budget) {
         BoundArgs bound("splitlines", std::move(args), {});
         budget->Bytes(self.text().size());
         return StringList(SplitLines(self.text()), budget);
       }},
      {"startswith", AffixMethod("startswith", true)},
      {"endswith", AffixMethod("endswith", false)},
      {"find", FindInText("find", false, false)},
      {"rfind", FindInText("rfind", true, false)},
      {"index", FindInText("index", false, true)},
      {"rindex", FindInText("rindex", true, true)},
      {"replace", Replace},
      {"join", Join},
      {"count", CountText},
      {"partition", Partition("partition", false)},
      {"rpartition", Partition("rpartition", true)},
      {"removeprefix", RemoveAffix("removeprefix", true)},
      {"removesuffix", RemoveAffix("removesuffix", false)},
      {"isdigit", ClassMethod("isdigit", IsAsciiDigit)},
      {"isdecimal", ClassMethod("isdecimal", IsAsciiDigit)},
      {"isnumeric", ClassMethod("isnumeric", IsAsciiDigit)},
      {"isalpha", ClassMethod("isalpha", IsAlphaChar)},
      {"isalnum", ClassMethod("isalnum", IsAlnumChar)},
      {"isspace", ClassMethod("isspace", IsSpaceChar)},
      {"isupper", CaseMethod("isupper", Upper, Lower)},
      {"islower", CaseMethod("islower", Lower, Upper)},
      {"ljust", PadMethod("ljust", Align::kLeft)},
      {"rjust", PadMethod("rjust", Align::kRight)},
      {"center", PadMethod("center", Align::kCenter)},
      {"zfill", PadMethod("zfill", Align::kZero)},
      {"format", FormatBraces},
  };
  return *table;
}

Value DictView(const Value& self, const char* name) {
  Seq seq;
  seq.flavor = Seq::Flavor::kView;
  seq.view_name = name;
  std::string_view which = name;
  for (const auto& [key, value] : self.dict().entries) {
    seq.items.push_back(which == "dict_keys"     ? key
                        : which == "dict_values" ? value
                                                 : Value::Tuple({key, value}));
  }
  return Value::FromSeq(std::move(seq));
}

Method ViewMethod(const char* name, const char* view_name) {
  return [name, view_name](const Value& self, CallValues args, Budget* budget) {
    BoundArgs bound(name, std::move(args), {});
    budget->Bytes(self.dict().entries.size() * 2 * sizeof(Value));
    return DictView(self, view_name);
  };
}

const MethodTable& DictMethods() {
  static const MethodTable* table = new MethodTable{
      {"items", ViewMethod("items", "dict_items")},
      {"keys", ViewMethod("keys", "dict_keys")},
      {"values", ViewMethod("values", "dict_values")},
      {"copy", [](const Value& self, CallValues args, Budget*) { return self; }},
      {"get",
       [](const Value& self, CallValues args, Budget*) {
         BoundArgs bound("get", std::move(args), {"key", "default"});
         if (const Value* found = self.dict().Find(bound.Need(0))) return *found;
         return bound.Find(1) != nullptr ? *bound.Find(1) : Value::None();
       }},
  };
  return *table;
}

const MethodTable& SeqMethods() {
  static const MethodTable* table = new MethodTable{
      {"count",
       [](const Value& self, CallValues args, Budget* budget) {
         BoundArgs bound("count", std::move(args), {"value"});
         int64_t count = 0;
         for (const Value& item : self.seq().items) count += Equals(item, bound.Need(0), budget);
         return Value::Int(count);
       }},
      {"index",
       [](const Value& self, CallValues args, Budget* budget) {
         BoundArgs bound("index", std::move(args), {"value"});
         const auto& items = self.seq().items;
         for (std::size_t i = 0; i < items.size(); ++i) {
           if (Equals(items[i], bound.Need(0), budget)) return Value::Int(static_cast<int64_t>(i));
         }
         Fail("index: expected a value of the list, found another");
       }},
      {"copy", [](const Value& self, CallValues args, Budget*) { return self; }},
  };
  return *table;
}

bool IsMutator(const Value& object, std::string_view name) {
  auto in = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (object.IsDict()) return in({"clear", "pop", "popitem", "setdefault", "update"});
  return object.IsSeq() &&
         in({"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"});
}

}  // namespace

Value FindMethod(const Value& object, const std::string& name, Budget* budget) {
  const MethodTable* table = object.IsString() ? &StringMethods()
                             : object.IsDict() ? &DictMethods()
                             : object.IsSeq()  ? &SeqMethods()
                                               : nullptr;
  if (table != nullptr) {
    auto found = table->find(name);
    if (found != table->end()) {
      return Value::Function(name, [object, budget, method = &found->second](
                                       std::vector<Value> positional, NamedValues named) {
        budget->Step(object.IsString() ? 1 + static_cast<int64_t>(object.text().size() / 64) : 1);
        Value result = (*method)(object, {std::move(positional), std::move(named)}, budget);
        if (result.IsString()) budget->Bytes(result.text().size());
        return result;
      });
    }
  }
  if (IsMutator(object, name)) {
    return Value::MakeUndefined(std::string("'") + name + "' would change a " + TypeName(object) +
                                ", which templates may not");
  }
  return Value::MakeUndefined(std::string("'") + TypeName(object) + " object' has no attribute '" +
                              name + "'");
}

}  // namespace phasor::jinja
