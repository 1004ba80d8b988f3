// Expressions, one function a precedence level, weakest first. Chains of +, ~, and, or become one
// node with many operands, so that long ones are not deep.
#include <algorithm>

#include "atom/chat_template/parser.h"

namespace atom::jinja {
namespace {

uint16_t tallest(const std::vector<const Expr*>& items) {
  uint16_t height = 0;
  for (const Expr* e : items) height = std::max(height, e->height);
  return height;
}

uint16_t height(const Expr* e) { return e == nullptr ? 0 : e->height; }

std::string shown(const Token& token) {
  if (token.kind == TokenKind::kEnd) return "end of template";
  if (token.kind == TokenKind::kBlockEnd) return "end of statement block";
  if (token.kind == TokenKind::kVariableEnd) return "end of print statement";
  return std::string(token.text.substr(0, 40));
}

}  // namespace

const Expr* Parser::list_expr(ExprKind kind, int line, const std::vector<const Expr*>& items) {
  auto* const node = expr<ListExpr>(kind, line, tallest(items));
  node->items = arena_.copy(items);
  return node;
}

const Expr* Parser::constant(int line, Value value) {
  auto* const node = expr<ConstExpr>(ExprKind::kConst, line);
  node->value = value;
  return node;
}

const Expr* Parser::parse_expression() {
  const Nesting nesting(*this, current().line);
  return parse_conditional();
}

const Expr* Parser::parse_conditional() {
  const int line = current().line;
  const size_t unknown_before = unknown_.size();
  const Expr* const value = parse_or();
  if (!at_name("if")) return value;
  const Nesting nesting(*this, line);
  next();
  const Expr* const condition = parse_or();
  const Expr* const otherwise = skip_name("else") ? parse_conditional() : nullptr;
  unknown_.resize(unknown_before);
  auto* const node =
      expr<ConditionalExpr>(ExprKind::kConditional, line,
                            std::max({value->height, condition->height, height(otherwise)}));
  node->condition = condition;
  node->then_value = value;
  node->else_value = otherwise;
  return node;
}

const Expr* Parser::parse_or() {
  const int line = current().line;
  std::vector<const Expr*> items{parse_and()};
  while (skip_name("or")) items.push_back(parse_and());
  return items.size() == 1 ? items.front() : list_expr(ExprKind::kOr, line, items);
}

const Expr* Parser::parse_and() {
  const int line = current().line;
  std::vector<const Expr*> items{parse_not()};
  while (skip_name("and")) items.push_back(parse_not());
  return items.size() == 1 ? items.front() : list_expr(ExprKind::kAnd, line, items);
}

const Expr* Parser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const int line = next().line;
  const Nesting nesting(*this, line);
  const Expr* const operand = parse_not();
  auto* const node = expr<UnaryExpr>(ExprKind::kNot, line, operand->height);
  node->operand = operand;
  return node;
}

const Expr* Parser::parse_compare() {
  const int line = current().line;
  const Expr* const first = parse_sum();
  std::vector<CompareOp> ops;
  std::vector<const Expr*> rest;
  for (;;) {
    const TokenKind kind = current().kind;
    if (kind >= TokenKind::kEq && kind <= TokenKind::kLe) {
      constexpr CompareOp kOps[] = {CompareOp::kEq, CompareOp::kNe, CompareOp::kGt,
                                    CompareOp::kGe, CompareOp::kLt, CompareOp::kLe};
      ops.push_back(kOps[static_cast<int>(kind) - static_cast<int>(TokenKind::kEq)]);
      next();
    } else if (skip_name("in")) {
      ops.push_back(CompareOp::kIn);
    } else if (at_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      next();
      next();
      ops.push_back(CompareOp::kNotIn);
    } else {
      break;
    }
    rest.push_back(parse_sum());
  }
  if (ops.empty()) return first;
  auto* const node =
      expr<CompareExpr>(ExprKind::kCompare, line, std::max(first->height, tallest(rest)));
  node->first = first;
  node->ops = arena_.copy(ops);
  node->rest = arena_.copy(rest);
  return node;
}

const Expr* Parser::parse_sum() {
  int line = current().line;
  std::vector<const Expr*> sum{parse_concat()};  // operands of + not yet made into a node
  const auto flush = [&] {
    return sum.size() == 1 ? sum.front() : list_expr(ExprKind::kAdd, line, sum);
  };
  for (;;) {
    if (skip(TokenKind::kAdd)) {
      sum.push_back(parse_concat());
    } else if (skip(TokenKind::kSub)) {
      const Expr* const left = flush();
      const Expr* const right = parse_concat();
      auto* const node =
          expr<BinaryExpr>(ExprKind::kBinary, line, std::max(left->height, right->height));
      node->op = BinaryOp::kSub;
      node->left = left;
      node->right = right;
      sum = {node};
    } else {
      return flush();
    }
  }
}

const Expr* Parser::parse_concat() {
  const int line = current().line;
  std::vector<const Expr*> items{parse_product()};
  while (skip(TokenKind::kTilde)) items.push_back(parse_product());
  return items.size() == 1 ? items.front() : list_expr(ExprKind::kConcat, line, items);
}

const Expr* Parser::parse_product() {
  const Expr* left = parse_power();
  for (;;) {
    const Token& token = current();
    BinaryOp op;
    switch (token.kind) {
      case TokenKind::kMul:
        op = BinaryOp::kMul;
        break;
      case TokenKind::kDiv:
        op = BinaryOp::kDiv;
        break;
      case TokenKind::kFloorDiv:
        op = BinaryOp::kFloorDiv;
        break;
      case TokenKind::kMod:
        op = BinaryOp::kMod;
        break;
      default:
        return left;
    }
    next();
    const Expr* const right = parse_power();
    auto* const node =
        expr<BinaryExpr>(ExprKind::kBinary, token.line, std::max(left->height, right->height));
    node->op = op;
    node->left = left;
    node->right = right;
    left = node;
  }
}

const Expr* Parser::parse_power() {
  const Expr* left = parse_unary(true);
  while (current().kind == TokenKind::kPow) {
    const int line = next().line;
    const Expr* const right = parse_unary(true);
    auto* const node =
        expr<BinaryExpr>(ExprKind::kBinary, line, std::max(left->height, right->height));
    node->op = BinaryOp::kPow;
    node->left = left;
    node->right = right;
    left = node;
  }
  return left;
}

const Expr* Parser::parse_unary(bool with_filter) {
  const Token& token = current();
  const Expr* e = nullptr;
  if (token.kind == TokenKind::kSub || token.kind == TokenKind::kAdd) {
    const Nesting nesting(*this, token.line);
    next();
    const Expr* const operand = parse_unary(false);
    const bool negative = token.kind == TokenKind::kSub;
    auto* const node = expr<UnaryExpr>(negative ? ExprKind::kNegative : ExprKind::kPositive,
                                       token.line, operand->height);
    node->operand = operand;
    e = node;
  } else {
    e = parse_primary();
  }
  e = parse_postfix(e);
  return with_filter ? parse_filters(e) : e;
}

const Expr* Parser::parse_primary() {
  const Token& token = current();
  switch (token.kind) {
    case TokenKind::kName:
      return parse_name();
    case TokenKind::kString:
      return parse_string();
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return parse_number();
    case TokenKind::kLeftBracket:
      return parse_list();
    case TokenKind::kLeftBrace:
      return parse_dict();
    case TokenKind::kLeftParen: {
      const Nesting nesting(*this, token.line);
      next();
      const Expr* const e = parse_tuple(true, {}, true);
      expect(TokenKind::kRightParen);
      return e;
    }
    default:
      fail(token.line, str_format("unexpected '{}'", shown(token)));
  }
}

const Expr* Parser::parse_name() {
  const Token& token = next();
  const std::string_view text = token.text;
  if (text == "true" || text == "True") return constant(token.line, boolean(true));
  if (text == "false" || text == "False") return constant(token.line, boolean(false));
  if (text == "none" || text == "None") return constant(token.line, none());
  auto* const node = expr<NameExpr>(ExprKind::kName, token.line);
  node->symbol = intern(text);
  for (MacroStmt* const macro : open_macros_) {
    macro->uses_caller |= node->symbol == kSymbolCaller;
    macro->uses_varargs |= node->symbol == kSymbolVarargs;
    macro->uses_kwargs |= node->symbol == kSymbolKwargs;
  }
  return node;
}

const Expr* Parser::parse_string() {
  const Token& token = next();
  if (current().kind != TokenKind::kString) return constant(token.line, string(token.text));
  std::string text(token.text);
  while (current().kind == TokenKind::kString) text += next().text;
  return constant(token.line, string(arena_.copy(text)));
}

const Expr* Parser::parse_number() {
  const Token& token = next();
  if (token.kind == TokenKind::kFloat) return constant(token.line, real(token.real));
  return constant(token.line, narrow(static_cast<Int128>(token.integer)));
}

const Expr* Parser::parse_list() {
  const int line = next().line;
  std::vector<const Expr*> items;
  while (current().kind != TokenKind::kRightBracket) {
    if (!items.empty()) expect(TokenKind::kComma);
    if (current().kind == TokenKind::kRightBracket) break;
    items.push_back(parse_expression());
  }
  expect(TokenKind::kRightBracket);
  return list_expr(ExprKind::kList, line, items);
}

const Expr* Parser::parse_dict() {
  const int line = next().line;
  std::vector<const Expr*> keys;
  std::vector<const Expr*> values;
  while (current().kind != TokenKind::kRightBrace) {
    if (!keys.empty()) expect(TokenKind::kComma);
    if (current().kind == TokenKind::kRightBrace) break;
    keys.push_back(parse_expression());
    expect(TokenKind::kColon);
    values.push_back(parse_expression());
  }
  expect(TokenKind::kRightBrace);
  auto* const node =
      expr<DictExpr>(ExprKind::kDict, line, std::max(tallest(keys), tallest(values)));
  node->keys = arena_.copy(keys);
  node->values = arena_.copy(values);
  return node;
}

bool Parser::at_tuple_end(std::string_view end_name) const {
  const TokenKind kind = current().kind;
  return kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd ||
         kind == TokenKind::kRightParen || (!end_name.empty() && at_name(end_name));
}

const Expr* Parser::parse_tuple(bool with_conditional, std::string_view end_name,
                                bool in_parentheses) {
  const int line = current().line;
  std::vector<const Expr*> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) expect(TokenKind::kComma);
    if (at_tuple_end(end_name)) break;
    items.push_back(with_conditional ? parse_expression() : parse_or());
    if (current().kind != TokenKind::kComma) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return items.front();
    if (!in_parentheses)
      fail(line, str_format("expected an expression, got '{}'", shown(current())));
  }
  return list_expr(ExprKind::kTuple, line, items);
}

const Expr* Parser::parse_postfix(const Expr* e) {
  for (;;) {
    switch (current().kind) {
      case TokenKind::kDot:
        e = parse_dot(e);
        break;
      case TokenKind::kLeftBracket:
        e = parse_subscript(e);
        break;
      case TokenKind::kLeftParen:
        e = parse_call(e);
        break;
      default:
        return e;
    }
  }
}

const Expr* Parser::parse_filters(const Expr* e) {
  for (;;) {
    if (skip(TokenKind::kPipe)) {
      e = parse_filter(e);
    } else if (skip_name("is")) {
      e = parse_test(e);
    } else if (current().kind == TokenKind::kLeftParen) {
      e = parse_call(e);
    } else {
      return e;
    }
  }
}

const Expr* Parser::parse_dot(const Expr* owner) {
  const int line = next().line;
  const Token& name = next();
  if (name.kind == TokenKind::kName) {
    auto* const node = expr<AttributeExpr>(ExprKind::kAttribute, line, owner->height);
    node->owner = owner;
    node->symbol = intern(name.text);
    return node;
  }
  if (name.kind != TokenKind::kInteger) fail(name.line, "expected name or number after '.'");
  auto* const node = expr<ItemExpr>(ExprKind::kItem, line, owner->height);
  node->owner = owner;
  node->index = constant(name.line, narrow(static_cast<Int128>(name.integer)));
  return node;
}

const Expr* Parser::parse_subscript(const Expr* owner) {
  const int line = next().line;
  std::vector<const Expr*> indices;
  while (current().kind != TokenKind::kRightBracket) {
    if (!indices.empty()) expect(TokenKind::kComma);
    indices.push_back(parse_subscript_index());
  }
  expect(TokenKind::kRightBracket);
  const Expr* const index =
      indices.size() == 1 ? indices.front() : list_expr(ExprKind::kTuple, line, indices);
  auto* const node = expr<ItemExpr>(ExprKind::kItem, line, std::max(owner->height, index->height));
  node->owner = owner;
  node->index = index;
  return node;
}

const Expr* Parser::parse_subscript_index() {
  const int line = current().line;
  const auto ends = [this] {
    const TokenKind kind = current().kind;
    return kind == TokenKind::kColon || kind == TokenKind::kRightBracket ||
           kind == TokenKind::kComma;
  };
  const Expr* start = nullptr;
  if (current().kind != TokenKind::kColon) {
    start = parse_expression();
    if (current().kind != TokenKind::kColon) return start;
  }
  expect(TokenKind::kColon);
  const Expr* const stop = ends() ? nullptr : parse_expression();
  const Expr* step = nullptr;
  if (skip(TokenKind::kColon) && !ends()) step = parse_expression();
  auto* const node = expr<SliceExpr>(ExprKind::kSlice, line,
                                     std::max({height(start), height(stop), height(step)}));
  node->start = start;
  node->stop = stop;
  node->step = step;
  return node;
}

}  // namespace atom::jinja
