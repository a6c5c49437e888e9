#include "formats/jinja/eval.h"

#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/text.h"

namespace phasor::jinja {
namespace {

struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator() = default;
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;
  // Macros hold the scope that holds them, namespaces may hold themselves: cut these cycles.
  ~Evaluator() {
    for (const ScopePtr& scope : captured_) scope->variables.clear();
    for (const auto& ns : namespaces_) ns->attributes.clear();
  }

  std::string Run(const Block& block, const Value& context) {
    std::string out;
    out_ = &out;
    scope_ = std::make_shared<Scope>();
    for (auto& [name, value] : GlobalFunctions(&budget_, &namespaces_)) {
      scope_->variables[name] = std::move(value);
    }
    for (const auto& [name, value] : context.dict().entries) {
      scope_->variables[name.text()] = value;
    }
    PushScope scope(this, scope_);
    try {
      Exec(block);
    } catch (TemplateError& error) {
      if (error.line == 0) error.line = line_;
      throw;
    }
    return out;
  }

 private:
  class Deeper {
   public:
    explicit Deeper(Evaluator* evaluator) : evaluator_(evaluator) {
      if (++evaluator_->depth_ > kMaxEvalDepth) {
        --evaluator_->depth_;
        throw TemplateError{"expected calls nested at most " + std::to_string(kMaxEvalDepth) +
                                " deep, found deeper ones",
                            evaluator_->line_, StatusCode::kResourceExhausted};
      }
    }
    ~Deeper() { --evaluator_->depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Evaluator* evaluator_;
  };

  // A new scope below `parent` for as long as this lives.
  class PushScope {
   public:
    PushScope(Evaluator* evaluator, ScopePtr parent)
        : evaluator_(evaluator), saved_(evaluator->scope_) {
      evaluator_->scope_ = std::make_shared<Scope>();
      evaluator_->scope_->parent = std::move(parent);
    }
    ~PushScope() { evaluator_->scope_ = std::move(saved_); }
    PushScope(const PushScope&) = delete;
    PushScope& operator=(const PushScope&) = delete;

   private:
    Evaluator* evaluator_;
    ScopePtr saved_;
  };

  // Collects output into a string of its own for as long as this lives.
  class Capture {
   public:
    explicit Capture(Evaluator* evaluator) : evaluator_(evaluator), saved_(evaluator->out_) {
      evaluator_->out_ = &text_;
    }
    ~Capture() { evaluator_->out_ = saved_; }
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    std::string Take() { return std::move(text_); }

   private:
    Evaluator* evaluator_;
    std::string* saved_;
    std::string text_;
  };

  void Emit(const std::string& text) {
    budget_.Bytes(text.size());
    if (out_->size() + text.size() > Budget::kMaxOutputBytes) {
      budget_.Bytes(out_->size() + text.size());
    }
    *out_ += text;
  }

  // ---- statements ----

  Flow Exec(const Block& block) {
    Deeper deeper(this);
    for (const auto& stmt : block) {
      line_ = stmt->line;
      budget_.Step();
      Flow flow = ExecStmt(*stmt);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow ExecStmt(const Stmt& stmt) {
    switch (stmt.kind) {
      case StmtKind::kText:
        Emit(stmt.text);
        return Flow::kNext;
      case StmtKind::kOutput:
        Emit(Str(Eval(*stmt.exprs[0]), &budget_));
        return Flow::kNext;
      case StmtKind::kIf:
        return ExecIf(stmt);
      case StmtKind::kFor:
        return ExecFor(stmt);
      case StmtKind::kSet:
        Assign(stmt.targets[0], Eval(*stmt.exprs[0]));
        return Flow::kNext;
      case StmtKind::kSetBlock:
        Assign(stmt.targets[0], CaptureBody(stmt));
        return Flow::kNext;
      case StmtKind::kFilterBlock:
        Emit(Str(CaptureBody(stmt), &budget_));
        return Flow::kNext;
      case StmtKind::kMacro:
        scope_->variables[stmt.text] = MakeMacro(stmt);
        return Flow::kNext;
      case StmtKind::kCallBlock:
        Emit(Str(Call(*stmt.exprs[0], MakeMacro(stmt)), &budget_));
        return Flow::kNext;
      case StmtKind::kWith:
        return ExecWith(stmt);
      case StmtKind::kScope: {
        PushScope scope(this, scope_);
        return Exec(stmt.bodies[0]);
      }
      case StmtKind::kBreak:
        return Flow::kBreak;
      case StmtKind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  Flow ExecIf(const Stmt& stmt) {
    for (std::size_t i = 0; i < stmt.exprs.size(); ++i) {
      if (Truthy(Eval(*stmt.exprs[i]))) return Exec(stmt.bodies[i]);
    }
    return stmt.bodies.size() > stmt.exprs.size() ? Exec(stmt.bodies.back()) : Flow::kNext;
  }

  Flow ExecFor(const Stmt& stmt) {
    auto loop = std::make_shared<LoopState>();
    loop->items = Iterate(Eval(*stmt.exprs[0]), &budget_);
    if (stmt.exprs[1] != nullptr) {
      std::vector<Value> kept;
      for (Value& item : loop->items) {
        budget_.Iteration();
        PushScope scope(this, scope_);
        Assign(stmt.targets[0], item);
        if (Truthy(Eval(*stmt.exprs[1]))) kept.push_back(std::move(item));
      }
      loop->items = std::move(kept);
    }
    if (loop->items.empty()) {
      if (stmt.bodies.size() < 2) return Flow::kNext;
      PushScope scope(this, scope_);
      return Exec(stmt.bodies[1]);
    }
    loop->depth = ++loop_depth_;
    for (std::size_t i = 0; i < loop->items.size(); ++i) {
      budget_.Iteration();
      loop->position = i;
      PushScope scope(this, scope_);
      scope_->variables["loop"] = Value::FromLoop(loop);
      Assign(stmt.targets[0], loop->items[i]);
      if (Exec(stmt.bodies[0]) == Flow::kBreak) break;
    }
    --loop_depth_;
    return Flow::kNext;
  }

  Flow ExecWith(const Stmt& stmt) {
    std::vector<Value> values;
    for (const ExprPtr& expr : stmt.exprs) values.push_back(Eval(*expr));
    PushScope scope(this, scope_);
    for (std::size_t i = 0; i < values.size(); ++i) Assign(stmt.targets[i], values[i]);
    return Exec(stmt.bodies[0]);
  }

  // The output of bodies[0], through the filters of exprs[0] when there are some.
  Value CaptureBody(const Stmt& stmt) {
    std::string text;
    {
      PushScope scope(this, scope_);
      Capture capture(this);
      Exec(stmt.bodies[0]);
      text = capture.Take();
    }
    Value value = Value::String(std::move(text));
    if (stmt.exprs[0] == nullptr) return value;
    Value saved = std::exchange(filter_input_, value);
    value = Eval(*stmt.exprs[0]);
    filter_input_ = saved;
    return value;
  }

  void Assign(const Target& target, const Value& value) {
    if (!target.items.empty()) {
      std::vector<Value> parts = Iterate(value, &budget_);
      if (parts.size() != target.items.size()) {
        Fail("expected " + std::to_string(target.items.size()) + " values to unpack, found " +
             std::to_string(parts.size()));
      }
      for (std::size_t i = 0; i < parts.size(); ++i) Assign(target.items[i], parts[i]);
    } else if (target.attribute.empty()) {
      scope_->variables[target.name] = value;
    } else {
      Value ns = Lookup(target.name);
      if (ns.kind() != Kind::kNamespace) {
        Fail("expected a namespace to set '" + target.attribute + "' on, found " + TypeName(ns));
      }
      if (target.attribute[0] == '_') Fail("expected an attribute that starts with a letter");
      ns.ns().attributes[target.attribute] = value;
    }
  }

  Value Lookup(const std::string& name) {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
      auto found = scope->variables.find(name);
      if (found != scope->variables.end()) return found->second;
    }
    return Value::MakeUndefined("'" + name + "' is undefined");
  }

  // ---- macros ----

  Value MakeMacro(const Stmt& stmt) {
    budget_.Bytes(sizeof(Scope) + sizeof(Callable));
    captured_.push_back(scope_);
    return Value::Function(
        stmt.kind == StmtKind::kMacro ? stmt.text : "caller",
        [this, &stmt, scope = scope_](std::vector<Value> positional, NamedValues named) {
          return CallMacro(stmt, scope, std::move(positional), std::move(named));
        });
  }

  Value CallMacro(const Stmt& stmt, const ScopePtr& parent, std::vector<Value> positional,
                  NamedValues named) {
    Deeper deeper(this);
    int line = line_;
    PushScope scope(this, parent);
    BindParams(stmt, std::move(positional), std::move(named));
    Capture capture(this);
    int loop_depth = std::exchange(loop_depth_, 0);
    Exec(stmt.bodies[0]);
    loop_depth_ = loop_depth;
    line_ = line;
    return Value::String(capture.Take());
  }

  void BindParams(const Stmt& stmt, std::vector<Value> positional, NamedValues named) {
    auto& variables = scope_->variables;
    const std::string where = "macro '" + stmt.text + "'";
    std::size_t n_bound = std::min(positional.size(), stmt.params.size());
    for (std::size_t i = 0; i < n_bound; ++i) variables[stmt.params[i].name] = positional[i];
    if (positional.size() > n_bound && !stmt.uses_varargs) {
      Fail(where + ": expected at most " + std::to_string(n_bound) + " arguments, found " +
           std::to_string(positional.size()));
    }
    Dict surplus;
    variables["caller"] = Value::MakeUndefined("no caller defined");
    for (auto& [name, value] : named) {
      bool known = name == "caller";
      for (std::size_t i = n_bound; i < stmt.params.size(); ++i) {
        known = known || stmt.params[i].name == name;
      }
      if (known) {
        variables[name] = std::move(value);
      } else if (stmt.uses_kwargs) {
        surplus.Set(Value::String(name), std::move(value));
      } else {
        Fail(where + ": found unexpected argument '" + name + "'");
      }
    }
    for (std::size_t i = n_bound; i < stmt.params.size(); ++i) {
      const Param& param = stmt.params[i];
      if (variables.count(param.name) != 0) continue;
      variables[param.name] =
          param.default_value != nullptr
              ? Eval(*param.default_value)
              : Value::MakeUndefined("parameter '" + param.name + "' was not provided");
    }
    if (stmt.uses_varargs) {
      positional.erase(positional.begin(),
                       positional.begin() + static_cast<std::ptrdiff_t>(n_bound));
      variables["varargs"] = Value::Tuple(std::move(positional));
    }
    if (stmt.uses_kwargs) variables["kwargs"] = Value::FromDict(std::move(surplus));
  }

  // ---- expressions ----

  CallValues EvalArgs(const CallArgs& args) {
    CallValues values;
    for (const ExprPtr& expr : args.positional) values.positional.push_back(Eval(*expr));
    if (args.star != nullptr) {
      for (Value& value : Iterate(Eval(*args.star), &budget_)) {
        values.positional.push_back(std::move(value));
      }
    }
    for (const auto& [name, expr] : args.named) values.named.emplace_back(name, Eval(*expr));
    if (args.double_star != nullptr) {
      Value dict = Eval(*args.double_star);
      if (!dict.IsDict()) Fail(std::string("expected a dict after '**', found ") + TypeName(dict));
      for (const auto& [key, value] : dict.dict().entries) {
        values.named.emplace_back(Str(key, &budget_), value);
      }
    }
    return values;
  }

  // `caller`: of a call block; undefined: none.
  Value Call(const Expr& expr, const Value& caller) {
    Value callee = Eval(*expr.children[0]);
    CallValues args = EvalArgs(expr.args);
    line_ = expr.line;
    if (callee.IsUndefined()) Fail(callee.UndefinedMessage());
    if (callee.kind() != Kind::kCallable) {
      Fail(std::string("expected something to call, found ") + TypeName(callee));
    }
    if (!caller.IsUndefined()) args.named.emplace_back("caller", caller);
    return callee.callable().fn(std::move(args.positional), std::move(args.named));
  }

  Value Eval(const Expr& expr) {
    Deeper deeper(this);
    budget_.Step();
    line_ = expr.line;
    switch (expr.kind) {
      case ExprKind::kConst:
        return expr.constant;
      case ExprKind::kName:
        return Lookup(expr.name);
      case ExprKind::kList:
        return Value::List(EvalAll(expr));
      case ExprKind::kTuple:
        return Value::Tuple(EvalAll(expr));
      case ExprKind::kDict:
        return EvalDict(expr);
      case ExprKind::kAttribute:
        return GetAttribute(Eval(*expr.children[0]), expr.name, &budget_);
      case ExprKind::kItem:
        return EvalItem(expr);
      case ExprKind::kSlice:
        return EvalSlice(expr);
      case ExprKind::kCall:
        return Call(expr, Value());
      case ExprKind::kFilter:
        return EvalFilter(expr);
      case ExprKind::kTest:
        return EvalTest(expr);
      case ExprKind::kNot:
        return Value::Bool(!Truthy(Eval(*expr.children[0])));
      case ExprKind::kNegate:
      case ExprKind::kPlus:
        return EvalSign(expr);
      case ExprKind::kAnd:
      case ExprKind::kOr:
        return EvalLogic(expr);
      case ExprKind::kConcat:
        return EvalConcat(expr);
      case ExprKind::kMath:
        return EvalMath(expr);
      case ExprKind::kCompare:
        return EvalCompare(expr);
      case ExprKind::kCond:
        return EvalCond(expr);
      case ExprKind::kFilterInput:
        return filter_input_;
    }
    return Value();
  }

  std::vector<Value> EvalAll(const Expr& expr) {
    std::vector<Value> items;
    budget_.Bytes(expr.children.size() * sizeof(Value));
    for (const ExprPtr& child : expr.children) items.push_back(Eval(*child));
    return items;
  }

  Value EvalDict(const Expr& expr) {
    Dict dict;
    budget_.Bytes(expr.children.size() * 4 * sizeof(Value));
    for (std::size_t i = 0; i < expr.children.size(); i += 2) {
      Value key = Eval(*expr.children[i]);
      dict.Set(key, Eval(*expr.children[i + 1]));
    }
    return Value::FromDict(std::move(dict));
  }

  Value EvalItem(const Expr& expr) {
    Value object = Eval(*expr.children[0]), key = Eval(*expr.children[1]);
    return GetItem(object, key, &budget_);
  }

  Value EvalSlice(const Expr& expr) {
    Value object = Eval(*expr.children[0]);
    auto bound = [&](std::size_t i) {
      return expr.children[i] != nullptr ? Eval(*expr.children[i]) : Value::None();
    };
    Value start = bound(1), stop = bound(2), step = bound(3);
    int64_t size = object.IsString() ? static_cast<int64_t>(object.text().size())
                   : object.IsSeq()  ? static_cast<int64_t>(object.seq().items.size())
                                     : 0;
    budget_.Step(size / 16);
    budget_.Bytes(static_cast<std::size_t>(size));
    return GetSlice(object, start, stop, step);
  }

  Value EvalFilter(const Expr& expr) {
    Value input = Eval(*expr.children[0]);
    CallValues args = EvalArgs(expr.args);
    line_ = expr.line;
    return ApplyFilter(expr.name, input, std::move(args), &budget_);
  }

  Value EvalTest(const Expr& expr) {
    Value value = Eval(*expr.children[0]);
    CallValues args = EvalArgs(expr.args);
    line_ = expr.line;
    return Value::Bool(ApplyTest(expr.name, value, std::move(args), &budget_));
  }

  Value EvalSign(const Expr& expr) {
    Value value = Eval(*expr.children[0]);
    bool minus = expr.kind == ExprKind::kNegate;
    if (value.kind() == Kind::kFloat) return minus ? Value::Float(-value.number()) : value;
    return Arithmetic(minus ? "-" : "+", Value::Int(0), value, &budget_);
  }

  // Gives back the operand that decides, as Python does.
  Value EvalLogic(const Expr& expr) {
    bool stop_at = expr.kind == ExprKind::kOr;
    Value value;
    for (const ExprPtr& child : expr.children) {
      value = Eval(*child);
      if (Truthy(value) == stop_at) break;
    }
    return value;
  }

  Value EvalConcat(const Expr& expr) {
    std::string text;
    for (const ExprPtr& child : expr.children) {
      text += Str(Eval(*child), &budget_);
      if (text.size() > Budget::kMaxOutputBytes) budget_.Bytes(text.size());
    }
    budget_.Bytes(text.size());
    return Value::String(std::move(text));
  }

  Value EvalMath(const Expr& expr) {
    Value value = Eval(*expr.children[0]);
    for (std::size_t i = 0; i < expr.operators.size(); ++i) {
      value = Arithmetic(expr.operators[i], value, Eval(*expr.children[i + 1]), &budget_);
    }
    return value;
  }

  bool CompareOne(const std::string& op, const Value& a, const Value& b) {
    if (op == "==") return Equals(a, b, &budget_);
    if (op == "!=") return !Equals(a, b, &budget_);
    if (op == "in") return Contains(b, a, &budget_);
    if (op == "not in") return !Contains(b, a, &budget_);
    int order = Compare(a, b, &budget_);
    return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
  }

  Value EvalCompare(const Expr& expr) {
    Value left = Eval(*expr.children[0]);
    for (std::size_t i = 0; i < expr.operators.size(); ++i) {
      Value right = Eval(*expr.children[i + 1]);
      if (!CompareOne(expr.operators[i], left, right)) return Value::Bool(false);
      left = std::move(right);
    }
    return Value::Bool(true);
  }

  Value EvalCond(const Expr& expr) {
    if (Truthy(Eval(*expr.children[1]))) return Eval(*expr.children[0]);
    if (expr.children[2] != nullptr) return Eval(*expr.children[2]);
    return Value::MakeUndefined("the condition was false and there was no 'else'");
  }

  Budget budget_;
  std::vector<ScopePtr> captured_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  ScopePtr scope_;
  std::string* out_ = nullptr;
  Value filter_input_;
  int line_ = 1;
  int depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

std::string Render(const Block& block, const Value& context) {
  Evaluator evaluator;
  return evaluator.Run(block, context);
}

}  // namespace phasor::jinja
