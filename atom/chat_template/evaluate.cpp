// Expressions.
#include <algorithm>

#include "atom/chat_template/interpreter.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"

namespace atom::jinja {

Value Interpreter::evaluate(const Expr& expr) {
  charge(1);
  const DepthGuard guard(nesting_);
  switch (expr.kind) {
    case ExprKind::kConst:
      return static_cast<const ConstExpr&>(expr).value;
    case ExprKind::kName:
      return evaluate_name(static_cast<const NameExpr&>(expr).symbol);
    case ExprKind::kList:
      return list(evaluate_all(static_cast<const ListExpr&>(expr).items));
    case ExprKind::kTuple:
      return tuple(evaluate_all(static_cast<const ListExpr&>(expr).items));
    case ExprKind::kDict:
      return evaluate_dict(static_cast<const DictExpr&>(expr));
    case ExprKind::kNot:
      return boolean(!truth(evaluate(*static_cast<const UnaryExpr&>(expr).operand)));
    case ExprKind::kNegative:
      return negative(evaluate(*static_cast<const UnaryExpr&>(expr).operand));
    case ExprKind::kPositive:
      return positive(evaluate(*static_cast<const UnaryExpr&>(expr).operand));
    case ExprKind::kBinary: {
      const auto& e = static_cast<const BinaryExpr&>(expr);
      const Value left = evaluate(*e.left);
      return binary(*this, e.op, left, evaluate(*e.right));
    }
    case ExprKind::kAdd:
      return evaluate_add(static_cast<const ListExpr&>(expr).items);
    case ExprKind::kConcat:
      return evaluate_concat(static_cast<const ListExpr&>(expr).items);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      Value v;
      for (const Expr* const item : static_cast<const ListExpr&>(expr).items) {
        v = evaluate(*item);
        if (truth(v) == (expr.kind == ExprKind::kOr)) break;
      }
      return v;
    }
    case ExprKind::kCompare:
      return evaluate_compare(static_cast<const CompareExpr&>(expr));
    case ExprKind::kConditional: {
      const auto& e = static_cast<const ConditionalExpr&>(expr);
      if (truth(evaluate(*e.condition))) return evaluate(*e.then_value);
      if (e.else_value != nullptr) return evaluate(*e.else_value);
      return undefined(
          Undefined::Cause::kMessage, {},
          string("the inline if-expression evaluated to false and no else section was defined."));
    }
    case ExprKind::kAttribute: {
      const auto& e = static_cast<const AttributeExpr&>(expr);
      return attribute(evaluate(*e.owner), e.symbol);
    }
    case ExprKind::kItem:
      return evaluate_item(static_cast<const ItemExpr&>(expr));
    case ExprKind::kCall:
      return evaluate_call(static_cast<const CallExpr&>(expr), nullptr);
    case ExprKind::kFilter:
      return evaluate_filter(static_cast<const FilterExpr&>(expr));
    case ExprKind::kTest:
      return evaluate_test(static_cast<const FilterExpr&>(expr));
    case ExprKind::kSlice:
      break;
  }
  raise_error("slices are only possible in subscripts");
}

Value Interpreter::evaluate_name(SymbolId symbol) {
  for (const Scope* s = scope_; s != nullptr; s = s->parent) {
    if (const Value* const v = find_slot(*s, symbol)) return *v;
  }
  if (!context_[symbol].is(Type::kUnset)) return context_[symbol];
  const Symbol& s = program_.symbols[symbol];
  if (s.global != nullptr)
    return object(arena_.make<Function>(Object{ObjectKind::kFunction}, s.global));
  return undefined(Undefined::Cause::kName, {}, string(s.text));
}

std::span<const Value> Interpreter::evaluate_all(ExprList items) {
  if (items.empty()) return {};
  Value* const values = arena_.array<Value>(items.size());
  for (size_t i = 0; i < items.size(); ++i) values[i] = evaluate(*items[i]);
  return {values, items.size()};
}

// Without autoescape, ~ joins plain text: markup loses its mark. (+ keeps it and escapes the other
// side.)
Value Interpreter::evaluate_concat(ExprList items) {
  Value text = string({});
  bool first = true;
  for (const Expr* const item : items) {
    const Value v = evaluate(*item);
    const Value part = string(text_of(*this, v));
    text = std::exchange(first, false) ? part : join_text(*this, text, part);
  }
  return text;
}

// Left to right. The first text of a run is copied once and then grows in place (join_text).
Value Interpreter::evaluate_add(ExprList items) {
  Value sum = evaluate(*items[0]);
  for (const Expr* const item : items.subspan(1)) sum = add(*this, sum, evaluate(*item));
  return sum;
}

Value Interpreter::evaluate_compare(const CompareExpr& expr) {
  Value left = evaluate(*expr.first);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    const Value right = evaluate(*expr.rest[i]);
    bool holds = false;
    switch (expr.ops[i]) {
      case CompareOp::kEq:
        holds = equals(*this, left, right);
        break;
      case CompareOp::kNe:
        holds = !equals(*this, left, right);
        break;
      case CompareOp::kLt:
        holds = compare(*this, left, right, "<") == Order::kLess;
        break;
      case CompareOp::kGt:
        holds = compare(*this, left, right, ">") == Order::kGreater;
        break;
      case CompareOp::kLe: {
        const Order order = compare(*this, left, right, "<=");
        holds = order == Order::kLess || order == Order::kEqual;
        break;
      }
      case CompareOp::kGe: {
        const Order order = compare(*this, left, right, ">=");
        holds = order == Order::kGreater || order == Order::kEqual;
        break;
      }
      case CompareOp::kIn:
        holds = contains(*this, left, right);
        break;
      case CompareOp::kNotIn:
        holds = !contains(*this, left, right);
        break;
    }
    if (!holds) return boolean(false);
    left = right;
  }
  return boolean(true);
}

Value Interpreter::evaluate_dict(const DictExpr& expr) {
  DictBuilder builder(arena_, expr.keys.size());
  charge(static_cast<int64_t>(expr.keys.size() * expr.keys.size() / 64));
  for (size_t i = 0; i < expr.keys.size(); ++i) {
    const Value key = evaluate(*expr.keys[i]);
    builder.set(key, evaluate(*expr.values[i]));
  }
  return dict(builder.finish());
}

Value Interpreter::evaluate_item(const ItemExpr& expr) {
  const Value owner = evaluate(*expr.owner);
  if (expr.index->kind != ExprKind::kSlice) return get_item(owner, evaluate(*expr.index));
  const auto& s = static_cast<const SliceExpr&>(*expr.index);
  const auto part = [this](const Expr* e) { return e == nullptr ? none() : evaluate(*e); };
  const Value start = part(s.start);
  const Value stop = part(s.stop);
  const Value step = part(s.step);
  return slice(*this, owner, {start, stop, step});
}

Value Interpreter::evaluate_filter(const FilterExpr& expr) {
  const Value input = expr.input != nullptr ? evaluate(*expr.input) : *filter_input_;
  const CallArgs args = evaluate_arguments(expr.arguments, nullptr);
  line_ = expr.line;
  if (expr.builtin == nullptr) raise_error("no filter named '{}'", expr.name);
  return call_builtin(*expr.builtin, input, args);
}

Value Interpreter::evaluate_test(const FilterExpr& expr) {
  const Value input = evaluate(*expr.input);
  const CallArgs args = evaluate_arguments(expr.arguments, nullptr);
  line_ = expr.line;
  if (expr.builtin == nullptr) raise_error("no test named '{}'", expr.name);
  return boolean(truth(call_builtin(*expr.builtin, input, args)) != expr.negated);
}

}  // namespace atom::jinja
