// The syntax tree of a template: plain nodes in the template's Arena, read-only after parsing, so
// that many threads can render the same tree. Names are interned: a node holds the number of a
// Symbol.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "atom/chat_template/value.h"

namespace atom::jinja {

struct Builtin;

using SymbolId = uint32_t;

// A name in the template and what it could mean apart from a variable.
struct Symbol {
  std::string_view text;
  const Builtin* global = nullptr;
  const Builtin* string_method = nullptr;
  const Builtin* dict_method = nullptr;
  const Builtin* list_method = nullptr;
};

enum class ExprKind : uint8_t {
  kConst,
  kName,
  kList,
  kTuple,
  kDict,
  kNot,
  kNegative,
  kPositive,
  kBinary,
  kAdd,
  kConcat,
  kAnd,
  kOr,
  kCompare,
  kConditional,
  kAttribute,
  kItem,
  kSlice,
  kCall,
  kFilter,
  kTest,
};

struct Expr {
  ExprKind kind;
  uint16_t height = 1;  // levels of expressions below and including this one
  int line = 0;
};

using ExprList = std::span<const Expr* const>;

struct ConstExpr : Expr {
  Value value;
};
struct NameExpr : Expr {
  SymbolId symbol = 0;
};
struct ListExpr : Expr {
  ExprList items;
};  // kList, kTuple; kAdd, kConcat, kAnd, kOr with two or more
struct DictExpr : Expr {
  ExprList keys;
  ExprList values;
};
struct UnaryExpr : Expr {
  const Expr* operand = nullptr;
};

enum class BinaryOp : uint8_t { kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
struct BinaryExpr : Expr {
  BinaryOp op = BinaryOp::kSub;
  const Expr* left = nullptr;
  const Expr* right = nullptr;
};

enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };
struct CompareExpr : Expr {  // first ops[0] rest[0] ops[1] rest[1] ...
  const Expr* first = nullptr;
  std::span<const CompareOp> ops;
  ExprList rest;
};

struct ConditionalExpr : Expr {
  const Expr* condition = nullptr;
  const Expr* then_value = nullptr;
  const Expr* else_value = nullptr;  // null: undefined
};

struct AttributeExpr : Expr {
  const Expr* owner = nullptr;
  SymbolId symbol = 0;
};

struct ItemExpr : Expr {
  const Expr* owner = nullptr;
  const Expr* index = nullptr;
};

struct SliceExpr : Expr {  // only as the index of an ItemExpr; null parts are None
  const Expr* start = nullptr;
  const Expr* stop = nullptr;
  const Expr* step = nullptr;
};

struct KeywordArg {
  std::string_view name;
  const Expr* value = nullptr;
};

struct Arguments {
  ExprList positional;
  std::span<const KeywordArg> keywords;
  const Expr* star = nullptr;         // *args
  const Expr* double_star = nullptr;  // **kwargs
};

struct CallExpr : Expr {
  const Expr* callee = nullptr;
  Arguments arguments;
};

struct FilterExpr : Expr {           // kFilter, kTest
  const Expr* input = nullptr;       // null: the body of a filter block
  const Builtin* builtin = nullptr;  // null: unknown name on a path that may never run
  std::string_view name;
  Arguments arguments;
  bool negated = false;
};

enum class StmtKind : uint8_t {
  kText,
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kScope,
  kBreak,
  kContinue,
  kUnsupported,
};

struct Stmt {
  StmtKind kind;
  int line = 0;
};

using Body = std::span<const Stmt* const>;

struct TextStmt : Stmt {
  std::string_view text;
};
struct OutputStmt : Stmt {
  const Expr* value = nullptr;
};
struct IfStmt : Stmt {  // conditions[i] guards bodies[i]; a body more than conditions is the else
  ExprList conditions;
  std::span<const Body> bodies;
};

// What an assignment writes to: a name, ns.attribute, or a tuple of targets.
struct Target {
  enum class Kind : uint8_t { kName, kNamespace, kTuple };
  Kind kind = Kind::kName;
  SymbolId symbol = 0;
  SymbolId attribute = 0;
  std::span<const Target* const> parts;
};

struct ForStmt : Stmt {
  const Target* target = nullptr;
  const Expr* iterable = nullptr;
  const Expr* condition = nullptr;
  Body body;
  Body else_body;
  bool recursive = false;
};

struct SetStmt : Stmt {
  const Target* target = nullptr;
  const Expr* value = nullptr;
};

struct SetBlockStmt : Stmt {
  const Target* target = nullptr;
  const Expr* filter = nullptr;  // innermost input is the body
  Body body;
};

struct Parameter {
  SymbolId symbol = 0;
  const Expr* default_value = nullptr;
};

struct MacroStmt : Stmt {  // also the anonymous caller of a call block
  std::string_view name;
  SymbolId symbol = 0;
  std::span<const Parameter> parameters;
  Body body;
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

struct CallBlockStmt : Stmt {
  const CallExpr* call = nullptr;
  const MacroStmt* caller = nullptr;
};

struct FilterBlockStmt : Stmt {
  const Expr* filter = nullptr;
  Body body;
};

struct WithStmt : Stmt {
  std::span<const Target* const> targets;
  ExprList values;
  Body body;
};

struct ScopeStmt : Stmt {
  Body body;
};  // generation, block
struct UnsupportedStmt : Stmt {
  std::string_view message;
};  // include, import, extends

struct Program {
  Body body;
  std::vector<Symbol> symbols;
  std::unordered_map<std::string_view, SymbolId> symbol_ids;
};

// Symbols with a meaning for the interpreter, interned first and in this order.
enum KnownSymbol : SymbolId {
  kSymbolLoop,
  kSymbolCaller,
  kSymbolVarargs,
  kSymbolKwargs,
  kKnownSymbols
};

}  // namespace atom::jinja
