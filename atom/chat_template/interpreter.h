// Interpreter: runs a Program once. It owns the render's arena, output, scopes and budgets; nothing
// outside the values given to it can be reached. Statements are in interpreter.cpp, expressions in
// evaluate.cpp, calls in call.cpp. One thread, one use.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atom/chat_template/ast.h"
#include "atom/chat_template/builtins.h"
#include "atom/chat_template/objects.h"
#include "atom/chat_template/value.h"

namespace atom::jinja {

class Interpreter {
 public:
  Interpreter(const Program& program, const RenderLimits& limits, int64_t now_unix);

  void set_variable(std::string_view name, const Value& value);
  std::string run();  // throws Fault
  int line() const { return line_; }

  // Services for operators, filters, tests and methods.
  Arena& arena() { return arena_; }
  int64_t now_unix() const { return now_unix_; }
  const RenderLimits& limits() const { return limits_; }
  int& nesting() { return nesting_; }
  void charge(int64_t steps) {
    steps_ += steps;
    if (steps_ >= next_check_) check_budget();
  }
  // Work over `bytes` of text.
  void charge_text(size_t bytes) { charge(static_cast<int64_t>(bytes / 64)); }
  // Text being built outside the arena must not outgrow the memory budget.
  void check_size(size_t bytes) const;

  Value new_string(std::string_view text) { return string(arena_.copy(text)); }
  Value new_list(const std::vector<Value>& items) { return list(arena_.copy(items)); }
  Value new_tuple(const std::vector<Value>& items) { return tuple(arena_.copy(items)); }
  Value undefined(Undefined::Cause cause, const Value& owner, const Value& name);

  Value call(const Value& callee, const CallArgs& args);
  Value call_builtin(const Builtin& builtin, const Value& self, const CallArgs& args);
  Value get_attribute(const Value& owner, std::string_view name);
  Value get_item(const Value& owner, const Value& index);
  bool loop_peek(Loop& loop);
  int64_t loop_length(Loop& loop);
  Scope* new_scope(Scope* parent);
  void set_slot(Scope& scope, SymbolId symbol, const Value& value);
  const Value* find_slot(const Scope& scope, SymbolId symbol) const;
  // Symbols of names that only appear at run time (namespace(**kwargs)).
  SymbolId symbol_of(std::string_view name);
  std::string_view symbol_text(SymbolId symbol) const;

 private:
  friend class ConditionIterator;
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class CallDepth;

  // interpreter.cpp
  void check_budget();
  Flow execute(Body body);
  Flow execute(const Stmt& stmt);
  Flow execute_if(const IfStmt& stmt);
  void execute_for(const ForStmt& stmt);
  void run_loop(const ForStmt& stmt, const Value& iterable, Scope* around, int depth0);
  void execute_set_block(const SetBlockStmt& stmt);
  void execute_call_block(const CallBlockStmt& stmt);
  void execute_filter_block(const FilterBlockStmt& stmt);
  void execute_with(const WithStmt& stmt);
  void execute_scope(Body body);
  void assign(const Target& target, const Value& value, Scope& scope);
  void write(const Value& value);
  void write(std::string_view text);
  Value capture(Body body, Scope* scope);

  // evaluate.cpp
  Value evaluate(const Expr& expr);
  Value evaluate_name(SymbolId symbol);
  Value evaluate_add(ExprList items);
  Value evaluate_concat(ExprList items);
  Value evaluate_compare(const CompareExpr& expr);
  Value evaluate_dict(const DictExpr& expr);
  Value evaluate_item(const ItemExpr& expr);
  Value evaluate_filter(const FilterExpr& expr);
  Value evaluate_test(const FilterExpr& expr);
  std::span<const Value> evaluate_all(ExprList items);
  Value attribute(const Value& owner, SymbolId symbol);

  // call.cpp
  Value evaluate_call(const CallExpr& expr, const Value* caller);
  CallArgs evaluate_arguments(const Arguments& arguments, const Value* caller);
  CallArgs bind(const Builtin& builtin, const CallArgs& args);
  Value call_macro(const Macro& macro, const CallArgs& args);
  void bind_macro(const MacroStmt& stmt, Scope& scope, const CallArgs& args);
  Value call_loop(Loop& loop, const CallArgs& args);

  const Program& program_;
  const RenderLimits limits_;
  const int64_t now_unix_;
  Arena arena_;
  std::string out_;
  std::vector<Value> context_;                   // by SymbolId
  std::vector<std::string_view> extra_symbols_;  // numbered after the program's
  Scope* scope_ = nullptr;
  const Value* filter_input_ = nullptr;  // body of the filter block being applied
  int line_ = 0;
  int nesting_ = 0;
  int calls_ = 0;
  int64_t steps_ = 0;
  int64_t next_check_ = 0;
  std::chrono::steady_clock::time_point deadline_;
};

}  // namespace atom::jinja
