// Token handling and statements. Expressions are in parser_expression.cpp.
#include "atom/chat_template/parser.h"

#include <algorithm>

#include "atom/chat_template/builtins.h"

namespace atom::jinja {

struct Parser::Tag {
  std::string_view name;
  const Stmt* (Parser::*parse)(int line);
};

const Parser::Tag Parser::kTags[] = {
    {"if", &Parser::parse_if},
    {"for", &Parser::parse_for},
    {"set", &Parser::parse_set},
    {"macro", &Parser::parse_macro},
    {"call", &Parser::parse_call_block},
    {"filter", &Parser::parse_filter_block},
    {"with", &Parser::parse_with},
    {"generation", &Parser::parse_generation},
    {"block", &Parser::parse_block},
    {"print", &Parser::parse_print},
    {"autoescape", &Parser::parse_autoescape},
    {"break", &Parser::parse_break},
    {"continue", &Parser::parse_continue},
    {"include", &Parser::parse_include},
    {"import", &Parser::parse_include},
    {"from", &Parser::parse_include},
    {"extends", &Parser::parse_include},
};

namespace {

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

std::string describe_token(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "end of template";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kVariableEnd:
      return "end of print statement";
    case TokenKind::kData:
      return "template data / text";
    default:
      return std::string(token.text.substr(0, 40));
  }
}

std::string_view kind_name(TokenKind kind) {
  switch (kind) {
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kVariableEnd:
      return "end of print statement";
    case TokenKind::kName:
      return "name";
    case TokenKind::kLeftParen:
      return "(";
    case TokenKind::kRightParen:
      return ")";
    case TokenKind::kRightBracket:
      return "]";
    case TokenKind::kRightBrace:
      return "}";
    case TokenKind::kColon:
      return ":";
    case TokenKind::kComma:
      return ",";
    case TokenKind::kAssign:
      return "=";
    default:
      return "token";
  }
}

}  // namespace

Parser::Parser(std::vector<Token> tokens, Arena& arena, Program& program)
    : tokens_(std::move(tokens)), arena_(arena), program_(program) {
  for (const std::string_view name : {"loop", "caller", "varargs", "kwargs"}) intern(name);
}

void Parser::parse() {
  program_.body = parse_body({}, {}, 0);
  if (!unknown_.empty()) fail(unknown_.front().line, unknown_.front().message);
}

const Token& Parser::next() {
  const Token& token = tokens_[pos_];
  if (token.kind != TokenKind::kEnd) ++pos_;
  return token;
}

bool Parser::at_name(std::string_view name) const {
  return current().kind == TokenKind::kName && current().text == name;
}

bool Parser::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  next();
  return true;
}

bool Parser::skip(TokenKind kind) {
  if (current().kind != kind) return false;
  next();
  return true;
}

const Token& Parser::expect(TokenKind kind) {
  const Token& token = current();
  if (token.kind != kind) {
    if (token.kind == TokenKind::kEnd) {
      fail(token.line, str_format("unexpected end of template, expected '{}'", kind_name(kind)));
    }
    fail(token.line, str_format("expected '{}', got '{}'", kind_name(kind), describe_token(token)));
  }
  return next();
}

void Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) {
    fail(current().line, str_format("expected '{}', got '{}'", name, describe_token(current())));
  }
}

void Parser::fail(int line, std::string message) const {
  throw_fault(TemplateError::Kind::kSyntax, line, std::move(message));
}

void Parser::count_node(int line) {
  if (++nodes_ > kMaxNodes) {
    throw_fault(TemplateError::Kind::kLimit, line,
                str_format("more than {} syntax nodes", kMaxNodes));
  }
}

SymbolId Parser::intern(std::string_view name) {
  const auto [at, is_new] =
      program_.symbol_ids.try_emplace(name, static_cast<SymbolId>(program_.symbols.size()));
  if (is_new) {
    program_.symbols.push_back({.text = name,
                                .global = find_global(name),
                                .string_method = find_string_method(name),
                                .dict_method = find_dict_method(name),
                                .list_method = find_list_method(name)});
  }
  return at->second;
}

// Statements up to one of `end_tags`, whose name stays the current token; without end tags, to the
// end.
Body Parser::parse_body(EndTags end_tags, std::string_view opened_by, int opened_at) {
  const Nesting nesting(*this, current().line);
  std::vector<const Stmt*> body;
  for (;;) {
    const Token& token = current();
    if (token.kind == TokenKind::kEnd) break;
    if (token.kind == TokenKind::kData) {
      auto* const text = stmt<TextStmt>(StmtKind::kText, token.line);
      text->text = next().text;
      body.push_back(text);
    } else if (token.kind == TokenKind::kVariableBegin) {
      next();
      auto* const output = stmt<OutputStmt>(StmtKind::kOutput, token.line);
      output->value = parse_tuple(true, {}, false);
      expect(TokenKind::kVariableEnd);
      body.push_back(output);
    } else {
      next();
      const bool ends = current().kind == TokenKind::kName && contains(end_tags, current().text);
      if (ends) return arena_.copy(body);
      body.push_back(parse_statement());
      expect(TokenKind::kBlockEnd);
    }
  }
  if (!end_tags.empty()) {
    fail(current().line, str_format("unexpected end of template: '{}' of line {} is not closed",
                                    opened_by, opened_at));
  }
  return arena_.copy(body);
}

const Stmt* Parser::parse_statement() {
  const Token& token = current();
  if (token.kind != TokenKind::kName) fail(token.line, "tag name expected");
  for (const Tag& tag : kTags) {
    if (tag.name == token.text) {
      if (tag.parse != &Parser::parse_include) next();
      return (this->*tag.parse)(token.line);
    }
  }
  fail(token.line, str_format("unknown tag '{}'", describe_token(token)));
}

// The body of a tag that opens a scope: starts after its block end, ends with `end_tags` consumed.
Body Parser::parse_inner(EndTags end_tags, std::string_view opened_by, int line) {
  expect(TokenKind::kBlockEnd);
  const bool outer = std::exchange(conditional_, false);
  const Body body = parse_body(end_tags, opened_by, line);
  conditional_ = outer;
  return body;
}

const Stmt* Parser::parse_for(int line) {
  static constexpr std::string_view kEnd[] = {"endfor", "else"};
  auto* const node = stmt<ForStmt>(StmtKind::kFor, line);
  node->target = parse_target(true, "in");
  expect_name("in");
  node->iterable = parse_tuple(false, "recursive", false);
  if (skip_name("if")) node->condition = parse_expression();
  node->recursive = skip_name("recursive");
  ++loop_depth_;
  node->body = parse_inner(kEnd, "for", line);
  --loop_depth_;
  if (next().text == "else") {
    node->else_body = parse_inner(std::span(kEnd, 1), "for", line);
    next();
  }
  return node;
}

const Stmt* Parser::parse_if(int line) {
  static constexpr std::string_view kEnd[] = {"endif", "else", "elif"};
  auto* const node = stmt<IfStmt>(StmtKind::kIf, line);
  const bool outer = std::exchange(conditional_, true);
  std::vector<const Expr*> conditions;
  std::vector<Body> bodies;
  for (;;) {
    conditions.push_back(parse_tuple(false, {}, false));
    expect(TokenKind::kBlockEnd);
    bodies.push_back(parse_body(kEnd, "if", line));
    const std::string_view end = next().text;
    if (end == "elif") continue;
    if (end == "else") {
      expect(TokenKind::kBlockEnd);
      bodies.push_back(parse_body(std::span(kEnd, 1), "if", line));
      next();
    }
    break;
  }
  conditional_ = outer;
  node->conditions = arena_.copy(conditions);
  node->bodies = arena_.copy(bodies);
  return node;
}

const Stmt* Parser::parse_set(int line) {
  static constexpr std::string_view kEnd[] = {"endset"};
  const Target* const target = parse_target(true, {});
  if (skip(TokenKind::kAssign)) {
    auto* const node = stmt<SetStmt>(StmtKind::kSet, line);
    node->target = target;
    node->value = parse_tuple(true, {}, false);
    return node;
  }
  auto* const node = stmt<SetBlockStmt>(StmtKind::kSetBlock, line);
  node->target = target;
  while (skip(TokenKind::kPipe)) node->filter = parse_filter(node->filter);
  node->body = parse_inner(kEnd, "set", line);
  next();
  return node;
}

std::span<const Parameter> Parser::parse_parameters() {
  std::vector<Parameter> parameters;
  expect(TokenKind::kLeftParen);
  while (current().kind != TokenKind::kRightParen) {
    if (!parameters.empty()) expect(TokenKind::kComma);
    const Token& name = expect(TokenKind::kName);
    Parameter parameter{.symbol = intern(name.text)};
    if (skip(TokenKind::kAssign)) {
      parameter.default_value = parse_expression();
    } else if (!parameters.empty() && parameters.back().default_value != nullptr) {
      fail(name.line, "non-default argument follows default argument");
    }
    parameters.push_back(parameter);
  }
  expect(TokenKind::kRightParen);
  return arena_.copy(parameters);
}

void Parser::parse_macro_body(MacroStmt& macro, std::string_view end_tag,
                              std::string_view opened_by) {
  const int outer_loops = std::exchange(loop_depth_, 0);
  open_macros_.push_back(&macro);
  macro.body = parse_inner(std::span(&end_tag, 1), opened_by, macro.line);
  open_macros_.pop_back();
  loop_depth_ = outer_loops;
  next();
}

const Stmt* Parser::parse_macro(int line) {
  auto* const node = stmt<MacroStmt>(StmtKind::kMacro, line);
  node->name = expect(TokenKind::kName).text;
  node->symbol = intern(node->name);
  node->parameters = parse_parameters();
  parse_macro_body(*node, "endmacro", "macro");
  return node;
}

const Stmt* Parser::parse_call_block(int line) {
  auto* const node = stmt<CallBlockStmt>(StmtKind::kCallBlock, line);
  auto* const caller = stmt<MacroStmt>(StmtKind::kMacro, line);
  caller->name = "caller";
  if (current().kind == TokenKind::kLeftParen) caller->parameters = parse_parameters();
  const Expr* const call = parse_expression();
  if (call->kind != ExprKind::kCall) fail(line, "expected call");
  node->call = static_cast<const CallExpr*>(call);
  node->caller = caller;
  parse_macro_body(*caller, "endcall", "call");
  return node;
}

const Stmt* Parser::parse_filter_block(int line) {
  static constexpr std::string_view kEnd[] = {"endfilter"};
  auto* const node = stmt<FilterBlockStmt>(StmtKind::kFilterBlock, line);
  do {
    node->filter = parse_filter(node->filter);
  } while (skip(TokenKind::kPipe));
  node->body = parse_inner(kEnd, "filter", line);
  next();
  return node;
}

const Stmt* Parser::parse_with(int line) {
  static constexpr std::string_view kEnd[] = {"endwith"};
  auto* const node = stmt<WithStmt>(StmtKind::kWith, line);
  std::vector<const Target*> targets;
  std::vector<const Expr*> values;
  while (current().kind != TokenKind::kBlockEnd) {
    if (!targets.empty()) expect(TokenKind::kComma);
    targets.push_back(parse_target(false, {}));
    expect(TokenKind::kAssign);
    values.push_back(parse_expression());
  }
  node->targets = arena_.copy(targets);
  node->values = arena_.copy(values);
  node->body = parse_inner(kEnd, "with", line);
  next();
  return node;
}

const Stmt* Parser::parse_generation(int line) {
  static constexpr std::string_view kEnd[] = {"endgeneration"};
  auto* const node = stmt<ScopeStmt>(StmtKind::kScope, line);
  node->body = parse_inner(kEnd, "generation", line);
  next();
  return node;
}

const Stmt* Parser::parse_block(int line) {
  static constexpr std::string_view kEnd[] = {"endblock"};
  auto* const node = stmt<ScopeStmt>(StmtKind::kScope, line);
  const std::string_view name = expect(TokenKind::kName).text;
  skip_name("scoped");
  skip_name("required");
  node->body = parse_inner(kEnd, "block", line);
  next();
  skip_name(name);
  return node;
}

const Stmt* Parser::parse_print(int line) {
  auto* const node = stmt<OutputStmt>(StmtKind::kOutput, line);
  node->value = parse_tuple(true, {}, false);
  return node;
}

const Stmt* Parser::parse_autoescape(int line) {
  static constexpr std::string_view kEnd[] = {"endautoescape"};
  if (!skip_name("false") && !skip_name("False"))
    fail(line, "only 'autoescape false' is supported");
  auto* const node = stmt<ScopeStmt>(StmtKind::kScope, line);
  node->body = parse_inner(kEnd, "autoescape", line);
  next();
  return node;
}

const Stmt* Parser::parse_break(int line) {
  if (loop_depth_ == 0) fail(line, "'break' outside a loop");
  return stmt<Stmt>(StmtKind::kBreak, line);
}

const Stmt* Parser::parse_continue(int line) {
  if (loop_depth_ == 0) fail(line, "'continue' outside a loop");
  return stmt<Stmt>(StmtKind::kContinue, line);
}

// There is nothing to include, import or extend: it fails when reached, as without a loader in
// Python.
const Stmt* Parser::parse_include(int line) {
  auto* const node = stmt<UnsupportedStmt>(StmtKind::kUnsupported, line);
  node->message = arena_.copy(
      str_format("TypeError: no loader for this environment specified ('{}')", next().text));
  while (current().kind != TokenKind::kBlockEnd && current().kind != TokenKind::kEnd) next();
  return node;
}

const Target* Parser::parse_single_target() {
  if (current().kind == TokenKind::kLeftParen) {
    const Nesting nesting(*this, current().line);
    next();
    const Target* const target = parse_target(true, {});
    expect(TokenKind::kRightParen);
    return target;
  }
  const Token& name = current();
  if (name.kind != TokenKind::kName)
    fail(name.line, str_format("cannot assign to '{}'", describe_token(name)));
  constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};
  if (contains(kConstants, name.text))
    fail(name.line, str_format("cannot assign to '{}'", name.text));
  next();
  count_node(name.line);
  Target* const target = arena_.make<Target>();
  target->symbol = intern(name.text);
  if (skip(TokenKind::kDot)) {
    target->kind = Target::Kind::kNamespace;
    target->attribute = intern(expect(TokenKind::kName).text);
  }
  return target;
}

const Target* Parser::parse_target(bool with_tuple, std::string_view end_name) {
  std::vector<const Target*> parts{parse_single_target()};
  bool is_tuple = false;
  while (with_tuple && skip(TokenKind::kComma)) {
    is_tuple = true;
    const TokenKind kind = current().kind;
    const bool ends = kind == TokenKind::kAssign || kind == TokenKind::kBlockEnd ||
                      kind == TokenKind::kRightParen;
    if (ends || (!end_name.empty() && at_name(end_name))) break;
    parts.push_back(parse_single_target());
  }
  if (!is_tuple) return parts.front();
  count_node(current().line);
  Target* const target = arena_.make<Target>();
  target->kind = Target::Kind::kTuple;
  target->parts = arena_.copy(parts);
  return target;
}

}  // namespace atom::jinja
