// Parser: tokens -> Program, by recursive descent after Jinja's grammar. Bounds: nesting 100,
// 100,000 nodes. To add a tag, write its function and one row in kTags (parser.cpp).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "atom/chat_template/arena.h"
#include "atom/chat_template/ast.h"
#include "atom/chat_template/lexer.h"

namespace atom::jinja {

class Parser {
 public:
  static constexpr int kMaxDepth = 100;
  static constexpr int kMaxNodes = 100'000;

  Parser(std::vector<Token> tokens, Arena& arena, Program& program);
  void parse();  // throws Fault

 private:
  using EndTags = std::span<const std::string_view>;
  struct Tag;
  static const Tag kTags[];

  // parser.cpp: tokens
  const Token& current() const { return tokens_[pos_]; }
  const Token& look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  const Token& next();
  bool at_name(std::string_view name) const;
  bool skip_name(std::string_view name);
  bool skip(TokenKind kind);
  const Token& expect(TokenKind kind);
  void expect_name(std::string_view name);
  [[noreturn]] void fail(int line, std::string message) const;
  SymbolId intern(std::string_view name);

  // parser.cpp: statements
  Body parse_body(EndTags end_tags, std::string_view opened_by, int opened_at);
  const Stmt* parse_statement();
  Body parse_inner(EndTags end_tags, std::string_view opened_by, int line);
  const Stmt* parse_for(int line);
  const Stmt* parse_if(int line);
  const Stmt* parse_set(int line);
  const Stmt* parse_macro(int line);
  const Stmt* parse_call_block(int line);
  const Stmt* parse_filter_block(int line);
  const Stmt* parse_with(int line);
  const Stmt* parse_generation(int line);
  const Stmt* parse_block(int line);
  const Stmt* parse_print(int line);
  const Stmt* parse_autoescape(int line);
  const Stmt* parse_break(int line);
  const Stmt* parse_continue(int line);
  const Stmt* parse_include(int line);
  void parse_macro_body(MacroStmt& macro, std::string_view end_tag, std::string_view opened_by);
  std::span<const Parameter> parse_parameters();
  const Target* parse_target(bool with_tuple, std::string_view end_name);
  const Target* parse_single_target();
  void skip_to_block_end();

  // parser_expression.cpp
  const Expr* parse_expression();
  const Expr* parse_conditional();
  const Expr* parse_or();
  const Expr* parse_and();
  const Expr* parse_not();
  const Expr* parse_compare();
  const Expr* parse_sum();
  const Expr* parse_concat();
  const Expr* parse_product();
  const Expr* parse_power();
  const Expr* parse_unary(bool with_filter);
  const Expr* parse_primary();
  const Expr* parse_name();
  const Expr* parse_string();
  const Expr* parse_number();
  const Expr* parse_list();
  const Expr* parse_dict();
  const Expr* parse_tuple(bool with_conditional, std::string_view end_name, bool in_parentheses);
  bool at_tuple_end(std::string_view end_name) const;
  const Expr* parse_postfix(const Expr* e);
  const Expr* parse_filters(const Expr* e);
  const Expr* parse_dot(const Expr* owner);
  const Expr* parse_subscript(const Expr* owner);
  const Expr* parse_subscript_index();

  // parser_call.cpp
  const Expr* parse_call(const Expr* callee);
  const Expr* parse_filter(const Expr* input);
  const Expr* parse_test(const Expr* input);
  Arguments parse_arguments();
  std::string_view parse_dotted_name();
  uint16_t height_of(const Arguments& arguments) const;

  // Nodes. `below` is the height of the tallest child.
  template <class Node>
  Node* expr(ExprKind kind, int line, uint16_t below = 0);
  template <class Node>
  Node* stmt(StmtKind kind, int line);
  void count_node(int line);
  const Expr* list_expr(ExprKind kind, int line, const std::vector<const Expr*>& items);
  const Expr* constant(int line, Value value);

  class Nesting;  // counts depth while it lives

  // An unknown filter is an error at once, except on a path that may not run (if, inline if): then
  // it fails when reached. Inline ifs are known only after their first part, hence the list.
  struct UnknownName {
    int line;
    std::string message;
  };

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  Arena& arena_;
  Program& program_;
  int depth_ = 0;
  int nodes_ = 0;
  int loop_depth_ = 0;
  bool conditional_ = false;
  std::vector<UnknownName> unknown_;
  std::vector<MacroStmt*> open_macros_;
};

template <class Node>
Node* Parser::expr(ExprKind kind, int line, uint16_t below) {
  count_node(line);
  if (below >= kMaxDepth) {
    throw_fault(TemplateError::Kind::kLimit, line,
                str_format("expression nested deeper than {}", kMaxDepth));
  }
  Node* const node = arena_.make<Node>();
  node->kind = kind;
  node->line = line;
  node->height = static_cast<uint16_t>(below + 1);
  return node;
}

template <class Node>
Node* Parser::stmt(StmtKind kind, int line) {
  count_node(line);
  Node* const node = arena_.make<Node>();
  node->kind = kind;
  node->line = line;
  return node;
}

class Parser::Nesting {
 public:
  Nesting(Parser& parser, int line) : depth_(parser.depth_) {
    if (++depth_ > kMaxDepth) {
      --depth_;
      throw_fault(TemplateError::Kind::kLimit, line,
                  str_format("nested deeper than {}", kMaxDepth));
    }
  }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int& depth_;
};

}  // namespace atom::jinja
