// The parts of an expression that take arguments: calls, filters and tests.
#include <algorithm>

#include "atom/chat_template/builtins.h"
#include "atom/chat_template/parser.h"

namespace atom::jinja {
namespace {

uint16_t height(const Expr* e) { return e == nullptr ? 0 : e->height; }

}  // namespace

Arguments Parser::parse_arguments() {
  const int line = expect(TokenKind::kLeftParen).line;
  std::vector<const Expr*> positional;
  std::vector<KeywordArg> keywords;
  Arguments result;
  const auto ensure = [&](bool ok) {
    if (!ok) fail(line, "invalid syntax for function call expression");
  };
  bool first = true;
  while (current().kind != TokenKind::kRightParen) {
    if (!std::exchange(first, false)) {
      expect(TokenKind::kComma);
      if (current().kind == TokenKind::kRightParen) break;
    }
    if (skip(TokenKind::kMul)) {
      ensure(result.star == nullptr && result.double_star == nullptr);
      result.star = parse_expression();
    } else if (skip(TokenKind::kPow)) {
      ensure(result.double_star == nullptr);
      result.double_star = parse_expression();
    } else if (current().kind == TokenKind::kName && look().kind == TokenKind::kAssign) {
      ensure(result.double_star == nullptr);
      const std::string_view name = next().text;
      next();
      keywords.push_back({.name = name, .value = parse_expression()});
    } else {
      ensure(result.star == nullptr && result.double_star == nullptr && keywords.empty());
      positional.push_back(parse_expression());
    }
  }
  expect(TokenKind::kRightParen);
  result.positional = arena_.copy(positional);
  result.keywords = arena_.copy(keywords);
  return result;
}

uint16_t Parser::height_of(const Arguments& a) const {
  uint16_t h = std::max(height(a.star), height(a.double_star));
  for (const Expr* e : a.positional) h = std::max(h, e->height);
  for (const KeywordArg& k : a.keywords) h = std::max(h, k.value->height);
  return h;
}

const Expr* Parser::parse_call(const Expr* callee) {
  const int line = current().line;
  const Arguments arguments = parse_arguments();
  auto* const node =
      expr<CallExpr>(ExprKind::kCall, line, std::max(callee->height, height_of(arguments)));
  node->callee = callee;
  node->arguments = arguments;
  return node;
}

std::string_view Parser::parse_dotted_name() {
  std::string_view name = expect(TokenKind::kName).text;
  while (skip(TokenKind::kDot)) {
    name = arena_.copy(str_format("{}.{}", name, expect(TokenKind::kName).text));
  }
  return name;
}

const Expr* Parser::parse_filter(const Expr* input) {
  const int line = current().line;
  const std::string_view name = parse_dotted_name();
  Arguments arguments;
  if (current().kind == TokenKind::kLeftParen) arguments = parse_arguments();
  auto* const node =
      expr<FilterExpr>(ExprKind::kFilter, line, std::max(height(input), height_of(arguments)));
  node->input = input;
  node->name = name;
  node->builtin = find_filter(name);
  node->arguments = arguments;
  if (node->builtin == nullptr && !conditional_)
    unknown_.push_back({line, str_format("no filter named '{}'", name)});
  return node;
}

const Expr* Parser::parse_test(const Expr* input) {
  const int line = current().line;
  const bool negated = skip_name("not");
  const std::string_view name = parse_dotted_name();
  Arguments arguments;
  const TokenKind kind = current().kind;
  const bool has_operand =
      (kind == TokenKind::kName && !at_name("else") && !at_name("or") && !at_name("and")) ||
      kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
      kind == TokenKind::kLeftBracket || kind == TokenKind::kLeftBrace;
  if (kind == TokenKind::kLeftParen) {
    arguments = parse_arguments();
  } else if (has_operand) {
    if (at_name("is")) fail(line, "tests cannot be chained with 'is'");
    arguments.positional = arena_.copy(std::vector<const Expr*>{parse_postfix(parse_primary())});
  }
  auto* const node =
      expr<FilterExpr>(ExprKind::kTest, line, std::max(input->height, height_of(arguments)));
  node->input = input;
  node->name = name;
  node->builtin = find_test(name);
  node->arguments = arguments;
  node->negated = negated;
  if (node->builtin == nullptr && !conditional_)
    unknown_.push_back({line, str_format("no test named '{}'", name)});
  return node;
}

}  // namespace atom::jinja
