// Calls: functions, methods, macros, call blocks and recursive loops.
#include <algorithm>

#include "atom/chat_template/interpreter.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"

namespace atom::jinja {
namespace {

// Calls `visit(name)` for every parameter named in Builtin::params.
template <class Visitor>
void for_each_parameter(std::string_view params, Visitor visit) {
  while (!params.empty()) {
    const size_t space = std::min(params.find(' '), params.size());
    visit(params.substr(0, space));
    params.remove_prefix(std::min(space + 1, params.size()));
  }
}

}  // namespace

class Interpreter::CallDepth {
 public:
  explicit CallDepth(Interpreter& in) : calls_(in.calls_) {
    if (++calls_ > in.limits_.max_depth) {
      --calls_;
      raise_limit("calls nested deeper than {}", in.limits_.max_depth);
    }
  }
  ~CallDepth() { --calls_; }
  CallDepth(const CallDepth&) = delete;
  CallDepth& operator=(const CallDepth&) = delete;

 private:
  int& calls_;
};

CallArgs Interpreter::evaluate_arguments(const Arguments& arguments, const Value* caller) {
  CallArgs result;
  result.positional = evaluate_all(arguments.positional);
  std::vector<KeywordValue> keywords;
  for (const KeywordArg& k : arguments.keywords) keywords.push_back({k.name, evaluate(*k.value)});
  if (caller != nullptr) keywords.push_back({"caller", *caller});
  if (arguments.star != nullptr) {
    std::vector<Value> all(result.positional.begin(), result.positional.end());
    const std::vector<Value> more = collect(*this, evaluate(*arguments.star));
    all.insert(all.end(), more.begin(), more.end());
    result.positional = arena_.copy(all);
  }
  if (arguments.double_star != nullptr) {
    const Value v = evaluate(*arguments.double_star);
    if (!v.is(Type::kDict))
      raise_error("TypeError: argument after ** must be a mapping, not {}", type_name(v));
    for (const DictEntry& e : v.dict->list()) {
      if (!e.key.is_string()) raise_error("TypeError: keywords must be strings");
      keywords.push_back({e.key.text(), e.value});
    }
  }
  if (!keywords.empty()) result.keywords = arena_.copy(keywords);
  return result;
}

Value Interpreter::evaluate_call(const CallExpr& expr, const Value* caller) {
  const Expr& callee = *expr.callee;
  if (callee.kind == ExprKind::kAttribute) {  // the common method call, without a Method object
    const auto& a = static_cast<const AttributeExpr&>(callee);
    const Value owner = evaluate(*a.owner);
    const Symbol& s = program_.symbols[a.symbol];
    const Builtin* const row = owner.is_string()       ? s.string_method
                               : owner.is(Type::kDict) ? s.dict_method
                               : owner.is(Type::kList) ? s.list_method
                                                       : nullptr;
    if (row != nullptr && row->function != nullptr) {
      const CallArgs args = evaluate_arguments(expr.arguments, caller);
      line_ = expr.line;
      return call_builtin(*row, owner, args);
    }
    const Value function = attribute(owner, a.symbol);
    const CallArgs args = evaluate_arguments(expr.arguments, caller);
    line_ = expr.line;
    return call(function, args);
  }
  const Value function = evaluate(callee);
  const CallArgs args = evaluate_arguments(expr.arguments, caller);
  line_ = expr.line;
  return call(function, args);
}

Value Interpreter::call(const Value& callee, const CallArgs& args) {
  if (callee.is(Type::kObject)) {
    switch (callee.object->kind) {
      case ObjectKind::kMacro:
        return call_macro(as<Macro>(callee), args);
      case ObjectKind::kMethod:
        return call_builtin(*as<Method>(callee).builtin, as<Method>(callee).self, args);
      case ObjectKind::kFunction:
        return call_builtin(*as<Function>(callee).builtin, unset(), args);
      case ObjectKind::kLoop:
        return call_loop(as<Loop>(callee), args);
      case ObjectKind::kJoiner:
        if (std::exchange(as<Joiner>(callee).used, true)) return as<Joiner>(callee).separator;
        return string({});
      default:
        break;
    }
  }
  if (callee.is_undefined()) raise_undefined(callee);
  raise_error("TypeError: '{}' object is not callable", type_name(callee));
}

Value Interpreter::call_builtin(const Builtin& builtin, const Value& self, const CallArgs& args) {
  charge(1);
  if (builtin.params == "*") return builtin.function(*this, self, args);
  return builtin.function(*this, self, bind(builtin, args));
}

CallArgs Interpreter::bind(const Builtin& builtin, const CallArgs& args) {
  const size_t allowed = builtin.allowed();
  if (args.positional.size() > allowed) {
    raise_error("TypeError: {}() takes at most {} arguments ({} given)", builtin.name, allowed,
                args.positional.size());
  }
  CallArgs bound = args;
  bound.keywords = {};
  if (!args.keywords.empty()) {
    if (builtin.params.empty() || builtin.params.starts_with('/')) {
      raise_error("TypeError: {}() takes no keyword arguments", builtin.name);
    }
    Value* const values = arena_.array<Value>(allowed);
    std::ranges::copy(args.positional, values);
    for (const KeywordValue& k : args.keywords) {
      size_t index = 0;
      size_t found = allowed;
      for_each_parameter(builtin.params, [&](std::string_view name) {
        if (name == k.name || (name.ends_with('=') && name.substr(0, name.size() - 1) == k.name))
          found = index;
        ++index;
      });
      if (found == allowed)
        raise_error("TypeError: {}() got an unexpected keyword argument '{}'", builtin.name,
                    k.name);
      if (!values[found].is(Type::kUnset)) {
        raise_error("TypeError: {}() got multiple values for argument '{}'", builtin.name, k.name);
      }
      values[found] = k.value;
    }
    bound.positional = {values, allowed};
  }
  for (size_t i = 0; i < builtin.required(); ++i) {
    if (bound[i].is(Type::kUnset))
      raise_error("TypeError: {}() is missing an argument", builtin.name);
  }
  return bound;
}

Value Interpreter::call_macro(const Macro& macro, const CallArgs& args) {
  const CallDepth depth(*this);
  const int line = line_;
  Scope* const scope = new_scope(macro.scope);
  bind_macro(*macro.stmt, *scope, args);
  const Value text = capture(macro.stmt->body, scope);
  line_ = line;
  return text;
}

void Interpreter::bind_macro(const MacroStmt& stmt, Scope& scope, const CallArgs& args) {
  const size_t count = stmt.parameters.size();
  std::vector<bool> used(args.keywords.size());
  const auto keyword = [&](SymbolId symbol) -> const Value* {
    for (size_t i = 0; i < args.keywords.size(); ++i) {
      if (args.keywords[i].name == symbol_text(symbol)) {
        used[i] = true;
        return &args.keywords[i].value;
      }
    }
    return nullptr;
  };
  if (args.positional.size() > count && !stmt.uses_varargs) {
    raise_error("TypeError: macro '{}' takes not more than {} argument(s)", stmt.name, count);
  }
  Scope* const outer = std::exchange(scope_, &scope);
  for (size_t i = 0; i < count; ++i) {
    const Parameter& p = stmt.parameters[i];
    Value value = args[i];
    if (value.is(Type::kUnset)) {
      if (const Value* const given = keyword(p.symbol)) value = *given;
    }
    if (value.is(Type::kUnset)) {
      value = p.default_value != nullptr
                  ? evaluate(*p.default_value)
                  : undefined(Undefined::Cause::kMessage, {},
                              new_string(str_format("parameter '{}' was not provided",
                                                    symbol_text(p.symbol))));
    }
    set_slot(scope, p.symbol, value);
  }
  scope_ = outer;
  if (stmt.uses_caller && find_slot(scope, kSymbolCaller) == nullptr) {
    const Value* const caller = keyword(kSymbolCaller);
    set_slot(scope, kSymbolCaller,
             caller != nullptr
                 ? *caller
                 : undefined(Undefined::Cause::kMessage, {}, string("No caller defined")));
  }
  if (stmt.uses_varargs) {
    set_slot(scope, kSymbolVarargs,
             tuple(args.positional.subspan(std::min(count, args.positional.size()))));
  }
  DictBuilder rest(arena_, 0);
  for (size_t i = 0; i < args.keywords.size(); ++i) {
    if (used[i]) continue;
    const KeywordValue& k = args.keywords[i];
    if (!stmt.uses_kwargs)
      raise_error("TypeError: macro '{}' takes no keyword argument '{}'", stmt.name, k.name);
    rest.set(string(k.name), k.value);
  }
  if (stmt.uses_kwargs) set_slot(scope, kSymbolKwargs, dict(rest.finish()));
}

// loop(items) in a recursive for: runs the loop again over other items.
Value Interpreter::call_loop(Loop& loop, const CallArgs& args) {
  if (!loop.stmt->recursive)
    raise_error("TypeError: the loop must have the 'recursive' marker to be called");
  if (args.positional.size() != 1 || !args.keywords.empty())
    raise_error("TypeError: loop() takes one argument");
  const CallDepth depth(*this);
  const int line = line_;
  const size_t start = out_.size();
  Scope* const outer = scope_;
  run_loop(*loop.stmt, args.positional[0], loop.scope, loop.depth0 + 1);
  scope_ = outer;
  const Value text = new_string(std::string_view(out_).substr(start));
  out_.resize(start);
  line_ = line;
  return text;
}

}  // namespace atom::jinja
