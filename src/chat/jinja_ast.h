// The tree of a parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "marked_text.h"

namespace gsd::chat {

enum class Op : std::uint8_t {
  kUndefined,  // never written in a template
  kNone,
  kTrue,
  kFalse,
  kInt,
  kFloat,
  kText,
  kName,       // name
  kList,       // args
  kTuple,      // args
  kDict,       // args: key, value, key, value, …
  kAttribute,  // args[0] . name
  kIndex,      // args[0] [ args[1] ]
  kSlice,      // args[0] [ args[1] : args[2] : args[3] ], those absent null
  kCall,       // args[0] ( args[1…], kwargs )
  kFilter,     // args[0] | name ( args[1…], kwargs )
  kTest,       // args[0] is name ( args[1…], kwargs )
  kNot,
  kMinus,
  kPlus,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kConcat,
  kAnd,
  kOr,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,
  kIf,        // args: condition, then, else or null
  kSpread,    // * args[0], in calls only
  kSpreadMap  // ** args[0], in calls only
};

struct Expr {
  Op op = Op::kUndefined;
  int line = 0;
  int height = 1;
  std::string name;
  Text text;
  std::int64_t integer = 0;
  double number = 0;
  std::vector<std::unique_ptr<Expr>> args = {};
  std::vector<std::pair<std::string, std::unique_ptr<Expr>>> kwargs = {};
};
using ExprPtr = std::unique_ptr<Expr>;

enum class Kind : std::uint8_t {
  kSequence,      // body
  kText,          // text
  kOutput,        // expr
  kIf,            // expr, body, otherwise (may be null)
  kFor,           // targets, expr, condition, body, otherwise
  kSet,           // targets, expr; or body where expr is null, expr then being a filter or null
  kSetAttribute,  // targets[0] . attribute
  kMacro,         // name, params, body
  kCallBlock,     // expr (a call), params, body
  kFilterBlock,   // expr (a filter over nothing), body
  kBreak,
  kContinue
};

struct Statement {
  Kind kind = Kind::kSequence;
  int line = 0;
  Text text;
  std::string name;                  // of a macro, or the attribute that is set
  std::vector<std::string> targets;  // names that a loop or `set` gives values
  bool recursive = false;
  ExprPtr expr;
  ExprPtr condition;
  std::vector<std::pair<std::string, ExprPtr>> params = {};  // with their defaults, null = none
  std::vector<std::shared_ptr<Statement>> body = {};
  std::vector<std::shared_ptr<Statement>> otherwise = {};
};

// Throws Error(kModelUnsupported).
std::shared_ptr<const Statement> parse_jinja(std::string_view source);

// Throws Error(kModelUnsupported): "The chat template, line 3: …".
[[noreturn]] void fail_at(int line, const std::string& what);

}  // namespace gsd::chat
