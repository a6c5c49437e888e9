// str(), repr() and json.dumps() of template values.
#include <algorithm>
#include <cmath>

#include "formats/jinja/text.h"
#include "formats/jinja/value.h"

namespace phasor::jinja {
namespace {

// Sharing lets a small template name an exponentially large value, so the size is checked as the
// text grows and every element costs a step.
void CheckGrowth(const std::string& out, Budget* budget) {
  budget->Step();
  if (out.size() > Budget::kMaxOutputBytes) budget->Bytes(out.size());
}

void AppendRepr(const Value& value, Budget* budget, std::string* out);

void AppendItems(const std::vector<Value>& items, Budget* budget, std::string* out) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) *out += ", ";
    AppendRepr(items[i], budget, out);
  }
}

void AppendSeqRepr(const Seq& seq, Budget* budget, std::string* out) {
  switch (seq.flavor) {
    case Seq::Flavor::kList:
      *out += '[';
      AppendItems(seq.items, budget, out);
      *out += ']';
      return;
    case Seq::Flavor::kTuple:
      *out += '(';
      AppendItems(seq.items, budget, out);
      *out += seq.items.size() == 1 ? ",)" : ")";
      return;
    case Seq::Flavor::kView:
      *out += std::string(seq.view_name) + "([";
      AppendItems(seq.items, budget, out);
      *out += "])";
      return;
    case Seq::Flavor::kIterator:
      *out += "<generator>";
      return;
  }
}

void AppendRepr(const Value& value, Budget* budget, std::string* out) {
  CheckGrowth(*out, budget);
  switch (value.kind()) {
    case Kind::kUndefined:
      *out += "Undefined";
      return;
    case Kind::kString: {
      std::string repr = ReprString(value.text());
      *out += value.is_markup() ? "Markup(" + repr + ")" : repr;
      return;
    }
    case Kind::kSeq:
      AppendSeqRepr(value.seq(), budget, out);
      return;
    case Kind::kDict: {
      *out += '{';
      bool first = true;
      for (const auto& [key, item] : value.dict().entries) {
        if (!first) *out += ", ";
        first = false;
        AppendRepr(key, budget, out);
        *out += ": ";
        AppendRepr(item, budget, out);
      }
      *out += '}';
      return;
    }
    default:
      *out += Str(value, budget);
  }
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget* budget) : style_(style), budget_(budget) {}

  void Write(const Value& value, int level) {
    CheckGrowth(out_, budget_);
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        return;
      case Kind::kBool:
        out_ += value.bool_value() ? "true" : "false";
        return;
      case Kind::kInt:
        out_ += std::to_string(value.int_value());
        return;
      case Kind::kFloat:
        out_ += JsonFloat(value.number());
        return;
      case Kind::kString:
        AppendJsonString(value.text(), style_.ensure_ascii, &out_);
        return;
      case Kind::kSeq:
        if (value.seq().flavor == Seq::Flavor::kList || value.seq().flavor == Seq::Flavor::kTuple) {
          WriteList(value.seq().items, level);
          return;
        }
        break;
      case Kind::kDict:
        WriteDict(value.dict(), level);
        return;
      default:
        break;
    }
    std::string what = value.IsUndefined() ? value.UndefinedMessage() : TypeName(value);
    Fail("tojson: expected a value that JSON can hold, found " + what);
  }
  std::string Take() { return std::move(out_); }

 private:
  static std::string JsonFloat(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
    return ReprFloat(d);
  }

  std::string Key(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        return key.text();
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return key.bool_value() ? "true" : "false";
      case Kind::kInt:
        return std::to_string(key.int_value());
      case Kind::kFloat:
        return JsonFloat(key.number());
      default:
        Fail(std::string("tojson: expected a key that JSON can hold, found ") + TypeName(key));
    }
  }

  void NewLine(int level) {
    if (!style_.indent) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void WriteList(const std::vector<Value>& items, int level) {
    out_ += '[';
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(level + 1);
      Write(items[i], level + 1);
    }
    if (!items.empty()) NewLine(level);
    out_ += ']';
  }

  void WriteDict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& entry : dict.entries) order.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) {
        return Compare(a->first, b->first, budget_) < 0;
      });
    }
    out_ += '{';
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(level + 1);
      AppendJsonString(Key(order[i]->first), style_.ensure_ascii, &out_);
      out_ += style_.key_separator;
      Write(order[i]->second, level + 1);
    }
    if (!order.empty()) NewLine(level);
    out_ += '}';
  }

  const JsonStyle& style_;
  Budget* budget_;
  std::string out_;
};

}  // namespace

std::string Str(const Value& value, Budget* budget) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "";
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.bool_value() ? "True" : "False";
    case Kind::kInt:
      return std::to_string(value.int_value());
    case Kind::kFloat:
      return ReprFloat(value.number());
    case Kind::kString:
      return value.text();
    case Kind::kNamespace:
      return "<Namespace>";
    case Kind::kLoop:
      return "<LoopContext " + std::to_string(value.loop().position + 1) + "/" +
             std::to_string(value.loop().items.size()) + ">";
    case Kind::kCallable:
      return "<function " + value.callable().name + ">";
    default:
      return Repr(value, budget);
  }
}

std::string Repr(const Value& value, Budget* budget) {
  std::string out;
  AppendRepr(value, budget, &out);
  budget->Bytes(out.size());
  return out;
}

std::string ToJson(const Value& value, const JsonStyle& style, Budget* budget) {
  JsonWriter writer(style, budget);
  writer.Write(value, 0);
  std::string out = writer.Take();
  budget->Bytes(out.size());
  return out;
}

}  // namespace phasor::jinja
