// Lexer: template text -> tokens, with Jinja's white space rules (trim_blocks, lstrip_blocks, `-`
// and `+` marks), comments and raw blocks already applied. It knows no tags and no grammar; the
// parser does.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "atom/chat_template/arena.h"

namespace atom::jinja {

enum class TokenKind : uint8_t {
  kData,  // literal text
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kTilde,
  kPipe,
  kLeftBracket,
  kRightBracket,
  kLeftParen,
  kRightParen,
  kLeftBrace,
  kRightBrace,
  kEq,
  kNe,
  kGt,
  kGe,
  kLt,
  kLe,
  kAssign,
  kDot,
  kColon,
  kComma,
  kSemicolon,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 0;
  std::string_view text;  // the name, the unescaped string, the data, or the operator as written
  union {
    uint64_t integer = 0;
    double real;
  };
};

// `source` has "\n" line ends and must live as long as the tokens. Throws Fault (kSyntax, kLimit).
std::vector<Token> tokenize(std::string_view source, Arena& arena);

}  // namespace atom::jinja
