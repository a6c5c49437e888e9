#include "formats/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "formats/jinja/lexer.h"

namespace phasor::jinja {
namespace {

ExprPtr MakeExpr(ExprKind kind, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

// Sets the depth; refuses trees that walks and destructors could not take.
ExprPtr Finish(ExprPtr expr) {
  int depth = 0;
  auto look = [&](const ExprPtr& child) {
    if (child != nullptr) depth = std::max(depth, child->depth);
  };
  for (const ExprPtr& child : expr->children) look(child);
  for (const ExprPtr& child : expr->args.positional) look(child);
  for (const auto& [name, child] : expr->args.named) look(child);
  look(expr->args.star);
  look(expr->args.double_star);
  expr->depth = depth + 1;
  if (expr->depth > kMaxParseDepth) {
    throw TemplateError{"expected expressions nested at most " + std::to_string(kMaxParseDepth) +
                            " deep, found deeper ones",
                        expr->line};
  }
  return expr;
}

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(Lex(source)) {}

  Block ParseTemplate() {
    Block block = ParseBlock({});
    if (Peek().kind != TokenKind::kEnd) Error("found unexpected '" + Describe(Peek()) + "'");
    return block;
  }

 private:
  // Counts nested calls for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(Parser* parser) : parser_(parser) {
      if (++parser_->nesting_ > kMaxParseDepth) {
        parser_->Error("expected nesting of at most " + std::to_string(kMaxParseDepth) +
                       ", found more");
      }
    }
    ~Nesting() { --parser_->nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser* parser_;
  };

  [[noreturn]] void Error(const std::string& message) const {
    throw TemplateError{message, Peek().line};
  }
  static std::string Describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kEnd:
        return "end of template";
      case TokenKind::kText:
        return "text";
      case TokenKind::kVariableBegin:
        return "{{";
      case TokenKind::kVariableEnd:
        return "}}";
      case TokenKind::kBlockBegin:
        return "{%";
      case TokenKind::kBlockEnd:
        return "%}";
      default:
        return token.text.substr(0, 80);
    }
  }

  const Token& Peek(std::size_t ahead = 0) const {
    return tokens_[std::min(pos_ + ahead, tokens_.size() - 1)];
  }
  const Token& Next() {
    const Token& token = Peek();
    if (pos_ + 1 < tokens_.size()) ++pos_;
    return token;
  }
  static bool Is(const Token& token, TokenKind kind, std::string_view text) {
    return token.kind == kind && token.text == text;
  }
  bool IsName(std::string_view name, std::size_t ahead = 0) const {
    return Is(Peek(ahead), TokenKind::kName, name);
  }
  bool IsOp(std::string_view op) const { return Is(Peek(), TokenKind::kOperator, op); }
  bool SkipName(std::string_view name) {
    bool found = IsName(name);
    if (found) Next();
    return found;
  }
  bool SkipOp(std::string_view op) {
    bool found = IsOp(op);
    if (found) Next();
    return found;
  }
  void Expect(TokenKind kind, const char* what) {
    if (Peek().kind != kind) {
      Error(std::string("expected '") + what + "', found '" + Describe(Peek()) + "'");
    }
    Next();
  }
  void ExpectOp(const char* op) {
    if (!SkipOp(op)) {
      Error(std::string("expected '") + op + "', found '" + Describe(Peek()) + "'");
    }
  }
  std::string ExpectName() {
    if (Peek().kind != TokenKind::kName) Error("expected a name, found '" + Describe(Peek()) + "'");
    return Next().text;
  }

  // ---- statements ----

  // Statements up to a block tag that starts with one of `ends`; that tag is left at its name.
  Block ParseBlock(std::initializer_list<std::string_view> ends) {
    Nesting nesting(this);
    Block block;
    while (Peek().kind != TokenKind::kEnd) {
      if (Peek().kind == TokenKind::kBlockBegin) {
        for (std::string_view end : ends) {
          if (IsName(end, 1)) {
            Next();
            return block;
          }
        }
        Next();
        block.push_back(ParseStatement());
      } else if (Peek().kind == TokenKind::kText) {
        auto stmt = MakeStmt(StmtKind::kText);
        stmt->text = Next().text;
        block.push_back(std::move(stmt));
      } else {
        Expect(TokenKind::kVariableBegin, "{{");
        auto stmt = MakeStmt(StmtKind::kOutput);
        stmt->exprs.push_back(ParseTuple(true));
        Expect(TokenKind::kVariableEnd, "}}");
        block.push_back(std::move(stmt));
      }
    }
    if (ends.size() > 0) {
      Error("expected {% " + std::string(*(ends.end() - 1)) + " %}, found the end of the template");
    }
    return block;
  }

  std::unique_ptr<Stmt> MakeStmt(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = Peek().line;
    return stmt;
  }

  void EndTag() { Expect(TokenKind::kBlockEnd, "%}"); }
  // Body and its end tag.
  Block ParseBody(std::string_view end) {
    EndTag();
    Block block = ParseBlock({end});
    Next();
    EndTag();
    return block;
  }

  std::unique_ptr<Stmt> ParseStatement() {
    if (SkipName("if")) return ParseIf();
    if (SkipName("for")) return ParseFor();
    if (SkipName("set")) return ParseSet();
    if (SkipName("macro")) return ParseMacro();
    if (SkipName("call")) return ParseCallBlock();
    if (SkipName("filter")) return ParseFilterBlock();
    if (SkipName("with")) return ParseWith();
    if (SkipName("generation")) {
      auto stmt = MakeStmt(StmtKind::kScope);
      stmt->bodies.push_back(ParseBody("endgeneration"));
      return stmt;
    }
    bool is_break = IsName("break");
    if (is_break || IsName("continue")) {
      if (loops_ == 0) Error("expected '" + Peek().text + "' inside a loop");
      Next();
      auto stmt = MakeStmt(is_break ? StmtKind::kBreak : StmtKind::kContinue);
      EndTag();
      return stmt;
    }
    throw TemplateError{"unsupported statement '" + Describe(Peek()) + "'", Peek().line,
                        StatusCode::kUnsupported};
  }

  std::unique_ptr<Stmt> ParseIf() {
    auto stmt = MakeStmt(StmtKind::kIf);
    while (true) {
      stmt->exprs.push_back(ParseTuple(false));
      EndTag();
      stmt->bodies.push_back(ParseBlock({"elif", "else", "endif"}));
      std::string tag = Next().text;
      if (tag == "elif") continue;
      EndTag();
      if (tag == "else") {
        stmt->bodies.push_back(ParseBlock({"endif"}));
        Next();
        EndTag();
      }
      return stmt;
    }
  }

  std::unique_ptr<Stmt> ParseFor() {
    auto stmt = MakeStmt(StmtKind::kFor);
    stmt->targets.push_back(ParseTarget(false));
    if (!SkipName("in")) Error("expected 'in', found '" + Describe(Peek()) + "'");
    stmt->exprs.push_back(ParseTuple(false));
    stmt->exprs.push_back(SkipName("if") ? ParseExpr() : nullptr);
    if (IsName("recursive")) {
      throw TemplateError{"unsupported: recursive loops", Peek().line, StatusCode::kUnsupported};
    }
    EndTag();
    ++loops_;
    stmt->bodies.push_back(ParseBlock({"else", "endfor"}));
    --loops_;
    bool has_else = Next().text == "else";
    EndTag();
    if (has_else) {
      stmt->bodies.push_back(ParseBlock({"endfor"}));
      Next();
      EndTag();
    }
    return stmt;
  }

  std::unique_ptr<Stmt> ParseSet() {
    auto stmt = MakeStmt(StmtKind::kSet);
    stmt->targets.push_back(ParseTarget(true));
    if (SkipOp("=")) {
      stmt->exprs.push_back(ParseTuple(true));
      EndTag();
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    stmt->exprs.push_back(IsOp("|") ? ParseFilters(MakeExpr(ExprKind::kFilterInput, Peek().line))
                                    : nullptr);
    stmt->bodies.push_back(ParseBody("endset"));
    return stmt;
  }

  // ( a, b=1 ) of a macro or a call block.
  std::vector<Param> ParseParams() {
    std::vector<Param> params;
    ExpectOp("(");
    while (!IsOp(")")) {
      if (!params.empty()) ExpectOp(",");
      if (IsOp(")")) break;
      Param param;
      param.name = ExpectName();
      if (SkipOp("=")) {
        param.default_value = ParseExpr();
      } else if (!params.empty() && params.back().default_value != nullptr) {
        Error("expected a default value after a parameter with one");
      }
      params.push_back(std::move(param));
    }
    ExpectOp(")");
    return params;
  }

  // A body that runs as a function: break and continue cannot leave it.
  void ParseFunctionBody(std::string_view end, Stmt* stmt) {
    int loops = std::exchange(loops_, 0);
    bool varargs = std::exchange(uses_varargs_, false), kwargs = std::exchange(uses_kwargs_, false);
    stmt->bodies.push_back(ParseBody(end));
    stmt->uses_varargs = std::exchange(uses_varargs_, varargs);
    stmt->uses_kwargs = std::exchange(uses_kwargs_, kwargs);
    loops_ = loops;
  }

  std::unique_ptr<Stmt> ParseMacro() {
    auto stmt = MakeStmt(StmtKind::kMacro);
    stmt->text = ExpectName();
    stmt->params = ParseParams();
    ParseFunctionBody("endmacro", stmt.get());
    return stmt;
  }

  std::unique_ptr<Stmt> ParseCallBlock() {
    auto stmt = MakeStmt(StmtKind::kCallBlock);
    if (IsOp("(")) stmt->params = ParseParams();
    stmt->exprs.push_back(ParseExpr());
    if (stmt->exprs[0]->kind != ExprKind::kCall) Error("expected a call after 'call'");
    ParseFunctionBody("endcall", stmt.get());
    return stmt;
  }

  std::unique_ptr<Stmt> ParseFilterBlock() {
    auto stmt = MakeStmt(StmtKind::kFilterBlock);
    stmt->exprs.push_back(ParseFilter(MakeExpr(ExprKind::kFilterInput, Peek().line)));
    stmt->exprs[0] = ParseFilters(std::move(stmt->exprs[0]));
    stmt->bodies.push_back(ParseBody("endfilter"));
    return stmt;
  }

  std::unique_ptr<Stmt> ParseWith() {
    auto stmt = MakeStmt(StmtKind::kWith);
    while (Peek().kind != TokenKind::kBlockEnd) {
      if (!stmt->targets.empty()) ExpectOp(",");
      stmt->targets.push_back(ParseSimpleTarget(false));
      ExpectOp("=");
      stmt->exprs.push_back(ParseExpr());
    }
    stmt->bodies.push_back(ParseBody("endwith"));
    return stmt;
  }

  Target ParseSimpleTarget(bool with_namespace) {
    Nesting nesting(this);
    Target target;
    if (SkipOp("(")) {
      target = ParseTarget(with_namespace);
      ExpectOp(")");
      return target;
    }
    target.name = ExpectName();
    for (const char* word : {"true", "false", "none", "True", "False", "None", "loop"}) {
      if (target.name == word) Error("cannot assign to '" + target.name + "'");
    }
    if (with_namespace && SkipOp(".")) target.attribute = ExpectName();
    return target;
  }

  Target ParseTarget(bool with_namespace) {
    Target first = ParseSimpleTarget(with_namespace);
    if (!IsOp(",")) return first;
    Target tuple;
    tuple.items.push_back(std::move(first));
    while (SkipOp(",")) {
      if (IsName("in") || IsOp("=") || IsOp(")")) break;
      tuple.items.push_back(ParseSimpleTarget(with_namespace));
    }
    return tuple;
  }

  // ---- expressions, weakest binding first ----

  // One expression, or several with commas between them: a tuple. with_cond: "a if b else c" may
  // appear (not in "for x in ... if ...").
  ExprPtr ParseTuple(bool with_cond) {
    int line = Peek().line;
    ExprPtr first = with_cond ? ParseExpr() : ParseOr();
    if (!IsOp(",")) return first;
    ExprPtr tuple = MakeExpr(ExprKind::kTuple, line);
    tuple->children.push_back(std::move(first));
    while (SkipOp(",")) {
      const Token& token = Peek();
      if (token.kind == TokenKind::kVariableEnd || token.kind == TokenKind::kBlockEnd ||
          IsOp(")")) {
        break;
      }
      tuple->children.push_back(with_cond ? ParseExpr() : ParseOr());
    }
    return Finish(std::move(tuple));
  }

  ExprPtr ParseExpr() {
    Nesting nesting(this);
    ExprPtr value = ParseOr();
    while (IsName("if")) {
      ExprPtr cond = MakeExpr(ExprKind::kCond, Next().line);
      cond->children.push_back(std::move(value));
      cond->children.push_back(ParseOr());
      cond->children.push_back(SkipName("else") ? ParseExpr() : nullptr);
      value = Finish(std::move(cond));
    }
    return value;
  }

  // One operand, or a chain of them as one node.
  template <typename Operand>
  ExprPtr ParseChain(ExprKind kind, const Operand& operand, bool is_name, std::string_view op) {
    int line = Peek().line;
    ExprPtr first = operand();
    auto at_op = [&] { return is_name ? IsName(op) : IsOp(op); };
    if (!at_op()) return first;
    ExprPtr chain = MakeExpr(kind, line);
    chain->children.push_back(std::move(first));
    while (at_op()) {
      Next();
      chain->children.push_back(operand());
    }
    return Finish(std::move(chain));
  }

  ExprPtr ParseOr() {
    return ParseChain(
        ExprKind::kOr, [this] { return ParseAnd(); }, true, "or");
  }
  ExprPtr ParseAnd() {
    return ParseChain(
        ExprKind::kAnd, [this] { return ParseNot(); }, true, "and");
  }

  ExprPtr ParseNot() {
    if (!IsName("not")) return ParseCompare();
    Nesting nesting(this);
    ExprPtr expr = MakeExpr(ExprKind::kNot, Next().line);
    expr->children.push_back(ParseNot());
    return Finish(std::move(expr));
  }

  std::string TakeCompareOperator() {
    for (const char* op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (SkipOp(op)) return op;
    }
    if (SkipName("in")) return "in";
    if (IsName("not") && IsName("in", 1)) {
      Next();
      Next();
      return "not in";
    }
    return "";
  }

  ExprPtr ParseCompare() {
    int line = Peek().line;
    ExprPtr first = ParseSum();
    std::string op = TakeCompareOperator();
    if (op.empty()) return first;
    ExprPtr chain = MakeExpr(ExprKind::kCompare, line);
    chain->children.push_back(std::move(first));
    for (; !op.empty(); op = TakeCompareOperator()) {
      chain->operators.push_back(op);
      chain->children.push_back(ParseSum());
    }
    return Finish(std::move(chain));
  }

  template <typename Operand>
  ExprPtr ParseMath(std::initializer_list<const char*> ops, const Operand& operand) {
    int line = Peek().line;
    ExprPtr first = operand();
    ExprPtr chain;
    for (bool again = true; again;) {
      again = false;
      for (const char* op : ops) {
        if (!IsOp(op)) continue;
        if (chain == nullptr) {
          chain = MakeExpr(ExprKind::kMath, line);
          chain->children.push_back(std::move(first));
        }
        Next();
        chain->operators.emplace_back(op);
        chain->children.push_back(operand());
        again = true;
        break;
      }
    }
    return chain == nullptr ? std::move(first) : Finish(std::move(chain));
  }

  ExprPtr ParseSum() {
    return ParseMath({"+", "-"}, [this] { return ParseConcat(); });
  }
  ExprPtr ParseConcat() {
    return ParseChain(
        ExprKind::kConcat, [this] { return ParseProduct(); }, false, "~");
  }
  ExprPtr ParseProduct() {
    return ParseMath({"*", "/", "//", "%"}, [this] { return ParsePower(); });
  }
  ExprPtr ParsePower() {
    return ParseMath({"**"}, [this] { return ParseUnary(true); });
  }

  ExprPtr ParseUnary(bool with_filters) {
    Nesting nesting(this);
    ExprPtr expr;
    if (IsOp("-") || IsOp("+")) {
      bool minus = IsOp("-");
      expr = MakeExpr(minus ? ExprKind::kNegate : ExprKind::kPlus, Next().line);
      expr->children.push_back(ParseUnary(false));
      expr = Finish(std::move(expr));
    } else {
      expr = ParsePrimary();
    }
    expr = ParsePostfix(std::move(expr));
    return with_filters ? ParseFilters(std::move(expr)) : std::move(expr);
  }

  ExprPtr ParsePrimary() {
    const Token& token = Peek();
    ExprPtr expr = MakeExpr(ExprKind::kConst, token.line);
    switch (token.kind) {
      case TokenKind::kName:
        Next();
        if (token.text == "true" || token.text == "True") {
          expr->constant = Value::Bool(true);
        } else if (token.text == "false" || token.text == "False") {
          expr->constant = Value::Bool(false);
        } else if (token.text == "none" || token.text == "None") {
          expr->constant = Value::None();
        } else {
          expr->kind = ExprKind::kName;
          expr->name = token.text;
          uses_varargs_ |= token.text == "varargs";
          uses_kwargs_ |= token.text == "kwargs";
        }
        return expr;
      case TokenKind::kString: {
        std::string text;
        while (Peek().kind == TokenKind::kString) text += Next().text;
        expr->constant = Value::String(std::move(text));
        return expr;
      }
      case TokenKind::kInteger:
        expr->constant = Value::Int(Next().integer);
        return expr;
      case TokenKind::kFloat:
        expr->constant = Value::Float(Next().number);
        return expr;
      default:
        break;
    }
    if (SkipOp("(")) return ParseParenthesis(token.line);
    if (SkipOp("[")) return ParseListLiteral(token.line);
    if (SkipOp("{")) return ParseDictLiteral(token.line);
    Error("expected an expression, found '" + Describe(token) + "'");
  }

  ExprPtr ParseParenthesis(int line) {
    if (SkipOp(")")) return Finish(MakeExpr(ExprKind::kTuple, line));
    ExprPtr expr = ParseTuple(true);
    ExpectOp(")");
    return expr;
  }

  ExprPtr ParseListLiteral(int line) {
    ExprPtr expr = MakeExpr(ExprKind::kList, line);
    while (!IsOp("]")) {
      if (!expr->children.empty()) ExpectOp(",");
      if (IsOp("]")) break;
      expr->children.push_back(ParseExpr());
    }
    ExpectOp("]");
    return Finish(std::move(expr));
  }

  ExprPtr ParseDictLiteral(int line) {
    ExprPtr expr = MakeExpr(ExprKind::kDict, line);
    while (!IsOp("}")) {
      if (!expr->children.empty()) ExpectOp(",");
      if (IsOp("}")) break;
      expr->children.push_back(ParseExpr());
      ExpectOp(":");
      expr->children.push_back(ParseExpr());
    }
    ExpectOp("}");
    return Finish(std::move(expr));
  }

  ExprPtr ParsePostfix(ExprPtr expr) {
    while (true) {
      int line = Peek().line;
      if (SkipOp(".")) {
        ExprPtr member = MakeExpr(ExprKind::kAttribute, line);
        member->children.push_back(std::move(expr));
        if (Peek().kind == TokenKind::kInteger) {
          member->kind = ExprKind::kItem;
          ExprPtr index = MakeExpr(ExprKind::kConst, line);
          index->constant = Value::Int(Next().integer);
          member->children.push_back(std::move(index));
        } else {
          member->name = ExpectName();
        }
        expr = Finish(std::move(member));
      } else if (SkipOp("[")) {
        expr = ParseSubscript(std::move(expr), line);
      } else if (IsOp("(")) {
        expr = ParseCall(std::move(expr), line);
      } else {
        return expr;
      }
    }
  }

  ExprPtr ParseCall(ExprPtr callee, int line) {
    ExprPtr call = MakeExpr(ExprKind::kCall, line);
    call->children.push_back(std::move(callee));
    call->args = ParseArgs();
    return Finish(std::move(call));
  }

  ExprPtr ParseSubscript(ExprPtr object, int line) {
    ExprPtr expr = MakeExpr(ExprKind::kItem, line);
    expr->children.push_back(std::move(object));
    auto at_end = [this] { return IsOp(":") || IsOp("]"); };
    expr->children.push_back(at_end() ? nullptr : ParseTuple(true));
    if (IsOp(":")) {
      expr->kind = ExprKind::kSlice;
      Next();
      expr->children.push_back(at_end() ? nullptr : ParseExpr());
      bool has_step = SkipOp(":") && !IsOp("]");
      expr->children.push_back(has_step ? ParseExpr() : nullptr);
    } else if (expr->children[1] == nullptr) {
      Error("expected a subscript, found ']'");
    }
    ExpectOp("]");
    return Finish(std::move(expr));
  }

  CallArgs ParseArgs() {
    CallArgs args;
    ExpectOp("(");
    for (bool first = true; !IsOp(")"); first = false) {
      if (!first) ExpectOp(",");
      if (IsOp(")")) break;
      if (SkipOp("**")) {
        if (args.double_star != nullptr) Error("expected one '**' argument, found two");
        args.double_star = ParseExpr();
      } else if (SkipOp("*")) {
        if (args.star != nullptr) Error("expected one '*' argument, found two");
        args.star = ParseExpr();
      } else if (Peek().kind == TokenKind::kName && Is(Peek(1), TokenKind::kOperator, "=")) {
        std::string name = Next().text;
        Next();
        args.named.emplace_back(std::move(name), ParseExpr());
      } else {
        if (!args.named.empty() || args.double_star != nullptr) {
          Error("expected named arguments after a named one");
        }
        args.positional.push_back(ParseExpr());
      }
    }
    ExpectOp(")");
    return args;
  }

  // "name(args)" of a filter, on `input`.
  ExprPtr ParseFilter(ExprPtr input) {
    ExprPtr filter = MakeExpr(ExprKind::kFilter, Peek().line);
    filter->children.push_back(std::move(input));
    filter->name = ExpectName();
    if (IsOp("(")) filter->args = ParseArgs();
    return Finish(std::move(filter));
  }

  ExprPtr ParseFilters(ExprPtr expr) {
    while (true) {
      if (SkipOp("|")) {
        expr = ParseFilter(std::move(expr));
      } else if (IsName("is")) {
        expr = ParseTest(std::move(expr));
      } else if (IsOp("(")) {
        expr = ParseCall(std::move(expr), Peek().line);
      } else {
        return expr;
      }
    }
  }

  // True where "x is divisibleby 3" has its argument.
  bool AtTestArgument() const {
    switch (Peek().kind) {
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return true;
      case TokenKind::kName:
        for (const char* word : {"else", "or", "and", "if", "in", "not", "is"}) {
          if (IsName(word)) return false;
        }
        return true;
      default:
        return IsOp("[") || IsOp("{");
    }
  }

  ExprPtr ParseTest(ExprPtr subject) {
    int line = Next().line;  // is
    bool negated = SkipName("not");
    ExprPtr test = MakeExpr(ExprKind::kTest, line);
    test->children.push_back(std::move(subject));
    test->name = ExpectName();
    if (IsOp("(")) {
      test->args = ParseArgs();
    } else if (AtTestArgument()) {
      test->args.positional.push_back(ParsePostfix(ParsePrimary()));
    }
    test = Finish(std::move(test));
    if (!negated) return test;
    ExprPtr negation = MakeExpr(ExprKind::kNot, line);
    negation->children.push_back(std::move(test));
    return Finish(std::move(negation));
  }

  const std::vector<Token> tokens_;
  std::size_t pos_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  bool uses_varargs_ = false, uses_kwargs_ = false;
};

}  // namespace

Block Parse(std::string_view source) { return Parser(source).ParseTemplate(); }

}  // namespace phasor::jinja
