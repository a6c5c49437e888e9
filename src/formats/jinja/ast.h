// The tree of a parsed template. Chains such as a + b + c are one node with many children, so that
// long chains do not make deep trees.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/jinja/value.h"

namespace phasor::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kConst,        // constant
  kName,         // name
  kList,         // children
  kTuple,        // children
  kDict,         // children: key, value, key, value ...
  kAttribute,    // children[0] . name
  kItem,         // children[0] [ children[1] ]
  kSlice,        // children[0] [ children[1] : children[2] : children[3] ], nullptr: left out
  kCall,         // children[0] ( args )
  kFilter,       // children[0] | name ( args )
  kTest,         // children[0] is name ( args )
  kNot,          // children[0]
  kNegate,       // children[0]
  kPlus,         // children[0]
  kAnd,          // children
  kOr,           // children
  kConcat,       // children joined by ~
  kMath,         // children joined by operators, from the left
  kCompare,      // children joined by operators, a chain
  kCond,         // children: value, condition, other value or nullptr
  kFilterInput,  // what a filter block or a filtered set block collected
};

struct CallArgs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, double_star;  // *args, **kwargs
};

struct Expr {
  ExprKind kind = ExprKind::kConst;
  int line = 0;
  int depth = 1;  // of this tree
  Value constant;
  std::string name;
  std::vector<ExprPtr> children;
  std::vector<std::string> operators;
  CallArgs args;
};

// Where an assignment goes: a name, name.attribute of a namespace, or a tuple of targets.
struct Target {
  std::string name, attribute;
  std::vector<Target> items;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind {
  kText,         // text
  kOutput,       // exprs[0]
  kIf,           // exprs[i] -> bodies[i]; one body more: else
  kFor,          // targets[0] in exprs[0] if exprs[1] (or nullptr): bodies[0] else bodies[1]
  kSet,          // targets[0] = exprs[0]
  kSetBlock,     // targets[0] = bodies[0] through exprs[0] (or nullptr)
  kMacro,        // text: name; params; bodies[0]
  kCallBlock,    // exprs[0] is the call; params of caller(); bodies[0]
  kFilterBlock,  // bodies[0] through exprs[0]
  kWith,         // targets[i] = exprs[i]; bodies[0]
  kScope,        // bodies[0] with a scope of its own (generation blocks)
  kBreak,
  kContinue,
};

struct Param {
  std::string name;
  ExprPtr default_value;  // nullptr: none
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 0;
  std::string text;
  std::vector<ExprPtr> exprs;
  std::vector<Target> targets;
  std::vector<Param> params;
  bool uses_varargs = false, uses_kwargs = false;  // of a macro: takes surplus arguments
  std::vector<Block> bodies;
};

}  // namespace phasor::jinja
