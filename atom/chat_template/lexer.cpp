#include "atom/chat_template/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>

#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

constexpr size_t kMaxTokens = 400'000;

struct Operator {
  std::string_view text;
  TokenKind kind;
};

// Longest first.
constexpr auto kOperators = std::to_array<Operator>({
    {"//", TokenKind::kFloorDiv},   {"**", TokenKind::kPow},         {"==", TokenKind::kEq},
    {"!=", TokenKind::kNe},         {">=", TokenKind::kGe},          {"<=", TokenKind::kLe},
    {"+", TokenKind::kAdd},         {"-", TokenKind::kSub},          {"/", TokenKind::kDiv},
    {"*", TokenKind::kMul},         {"%", TokenKind::kMod},          {"~", TokenKind::kTilde},
    {"[", TokenKind::kLeftBracket}, {"]", TokenKind::kRightBracket}, {"(", TokenKind::kLeftParen},
    {")", TokenKind::kRightParen},  {"{", TokenKind::kLeftBrace},    {"}", TokenKind::kRightBrace},
    {">", TokenKind::kGt},          {"<", TokenKind::kLt},           {"=", TokenKind::kAssign},
    {".", TokenKind::kDot},         {":", TokenKind::kColon},        {"|", TokenKind::kPipe},
    {",", TokenKind::kComma},       {";", TokenKind::kSemicolon},
});

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

int hex_digit(char c) {
  if (is_ascii_digit(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// The value of a string literal's body, as Python's unicode-escape codec reads it.
class Unescaper {
 public:
  Unescaper(std::string_view body, int line) : body_(body), line_(line) {}

  std::string run() {
    while (pos_ < body_.size()) {
      if (body_[pos_] != '\\') {
        out_.push_back(body_[pos_++]);
      } else {
        ++pos_;
        escape();
      }
    }
    return std::move(out_);
  }

 private:
  void escape() {
    constexpr std::string_view kFrom = "abfnrtv\\'\"";
    constexpr std::string_view kTo = "\a\b\f\n\r\t\v\\'\"";
    const char c = body_[pos_];  // the lexer pairs every backslash with a character
    if (const size_t at = kFrom.find(c); at != kFrom.npos) {
      out_.push_back(kTo[at]);
      ++pos_;
    } else if (c == '\n') {
      ++pos_;
    } else if (c >= '0' && c <= '7') {
      octal();
    } else if (c == 'x' || c == 'u' || c == 'U') {
      hex(c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c == 'N') {
      throw_fault(TemplateError::Kind::kSyntax, line_, "\\N{...} escapes are not supported");
    } else {
      out_.push_back('\\');
    }
  }

  void octal() {
    char32_t value = 0;
    for (int i = 0; i < 3 && pos_ < body_.size() && body_[pos_] >= '0' && body_[pos_] <= '7'; ++i) {
      value = value * 8 + static_cast<char32_t>(body_[pos_++] - '0');
    }
    append_utf8(out_, value);
  }

  char32_t read_hex(size_t at, int digits) const {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at) {
      const int digit = at < body_.size() ? hex_digit(body_[at]) : -1;
      if (digit < 0)
        throw_fault(TemplateError::Kind::kSyntax, line_, "truncated \\x, \\u or \\U escape");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  void hex(int digits) {
    char32_t value = read_hex(pos_ + 1, digits);
    pos_ += 1 + static_cast<size_t>(digits);
    if (value > 0x10FFFF)
      throw_fault(TemplateError::Kind::kSyntax, line_, "illegal Unicode character");
    const bool high = digits == 4 && value >= 0xD800 && value < 0xDC00;
    if (high && body_.substr(pos_, 2) == "\\u") {
      const char32_t low = read_hex(pos_ + 2, 4);
      if (low >= 0xDC00 && low < 0xE000) {
        value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
        pos_ += 6;
      }
    }
    append_utf8(out_, value);
  }

  std::string_view body_;
  int line_;
  size_t pos_ = 0;
  std::string out_;
};

class Lexer {
 public:
  Lexer(std::string_view source, Arena& arena) : source_(source), arena_(arena) {}

  std::vector<Token> run() {
    while (pos_ < source_.size()) root();
    push(TokenKind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string message) const {
    throw_fault(TemplateError::Kind::kSyntax, line_, std::move(message));
  }

  Token& push(TokenKind kind, std::string_view text) {
    if (tokens_.size() >= kMaxTokens) {
      throw_fault(TemplateError::Kind::kLimit, line_,
                  str_format("more than {} tokens", kMaxTokens));
    }
    Token& token = tokens_.emplace_back();
    token.kind = kind;
    token.line = line_;
    token.text = text;
    return token;
  }

  void advance_to(size_t pos) {
    line_ += static_cast<int>(std::count(source_.begin() + pos_, source_.begin() + pos, '\n'));
    pos_ = pos;
  }

  bool at(std::string_view text) const { return source_.substr(pos_, text.size()) == text; }

  // Text up to the next tag, then the tag.
  void root() {
    size_t open = pos_;
    char kind = 0;
    for (;; ++open) {
      open = source_.find('{', open);
      if (open == source_.npos || open + 1 >= source_.size()) {
        data(source_.substr(pos_));
        advance_to(source_.size());
        return;
      }
      kind = source_[open + 1];
      if (kind == '%' || kind == '#' || kind == '{') break;
    }
    const char mark = open + 2 < source_.size() ? source_[open + 2] : 0;
    data(strip_before_tag(source_.substr(pos_, open - pos_), kind, mark));
    advance_to(open);
    if (kind == '#') return comment(open + (mark == '-' || mark == '+' ? 3 : 2));
    if (kind == '%' && raw_block(open)) return;
    push(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, source_.substr(open, 2));
    advance_to(open + 2 + (mark == '-' || mark == '+' ? 1 : 0));
    inside(kind);
  }

  void data(std::string_view text) {
    if (!text.empty()) push(TokenKind::kData, text);
  }

  // `-` removes all white space before the tag, lstrip_blocks the indentation of a tag alone on its
  // line.
  std::string_view strip_before_tag(std::string_view text, char kind, char mark) const {
    if (mark == '-') return trim_right(text);
    if (mark == '+' || kind == '{') return text;
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == text.npos ? 0 : newline + 1;
    const bool starts_line = newline != text.npos || pos_ == 0 || source_[pos_ - 1] == '\n';
    if (starts_line && trim(text.substr(line_start)).empty()) return text.substr(0, line_start);
    return text;
  }

  // Moves past the end of a block or comment that closes at `close` (the position of `%}` or `#}`).
  void close_tag(size_t close, char mark) {
    size_t end = close + 2;
    if (mark == '-') {
      end = source_.size() - trim_left(source_.substr(end)).size();
    } else if (mark != '+' && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    advance_to(end);
  }

  void comment(size_t body) {
    const size_t close = source_.find("#}", body);
    if (close == source_.npos) fail("missing end of comment tag");
    close_tag(close, close > body ? source_[close - 1] : '\0');
  }

  size_t skip_space(size_t pos) const {
    return source_.size() - trim_left(source_.substr(pos)).size();
  }

  // {% raw %} ... {% endraw %}: true when `open` starts one.
  bool raw_block(size_t open) {
    size_t p = open + 2;
    if (p < source_.size() && (source_[p] == '-' || source_[p] == '+')) ++p;
    p = skip_space(p);
    if (source_.substr(p, 3) != "raw") return false;
    p = skip_space(p + 3);
    const bool strip = p < source_.size() && source_[p] == '-';
    if (source_.substr(p + (strip ? 1 : 0), 2) != "%}") return false;
    p += strip ? 3 : 2;
    const size_t body = strip ? skip_space(p) : p;
    advance_to(body);
    raw_body();
    return true;
  }

  void raw_body() {
    for (size_t open = source_.find("{%", pos_); open != source_.npos;
         open = source_.find("{%", open + 2)) {
      size_t p = open + 2;
      const char mark = p < source_.size() ? source_[p] : '\0';
      if (mark == '-' || mark == '+') ++p;
      p = skip_space(p);
      if (source_.substr(p, 6) != "endraw") continue;
      p = skip_space(p + 6);
      const char end_mark = p < source_.size() ? source_[p] : '\0';
      if (end_mark == '-' || end_mark == '+') ++p;
      if (source_.substr(p, 2) != "%}") continue;
      data(strip_before_tag(source_.substr(pos_, open - pos_), '%', mark));
      return close_tag(p, end_mark);
    }
    fail("missing end of raw directive");
  }

  // Tokens of one {{ }} or {% %}; brackets must balance before the end counts.
  void inside(char kind) {
    std::string brackets;
    while (pos_ < source_.size()) {
      if (brackets.empty() && end_of_tag(kind)) return;
      size_t next = pos_;
      const char32_t c = decode_utf8(source_, next);
      if (is_space(c)) {
        advance_to(next);
      } else if (is_ascii_digit(source_[pos_])) {
        number();
      } else if (is_identifier_start(c)) {
        name();
      } else if (c == '"' || c == '\'') {
        string_literal();
      } else {
        operator_token(brackets);
      }
    }
  }

  bool end_of_tag(char kind) {
    const std::string_view close = kind == '%' ? "%}" : "}}";
    const char c = source_[pos_];
    const bool marked = c == '-' || (c == '+' && kind == '%');
    if (source_.substr(pos_ + (marked ? 1 : 0), 2) != close) return false;
    push(kind == '%' ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, close);
    const size_t position = pos_ + (marked ? 1 : 0);
    if (kind == '{' && !marked) {
      advance_to(position + 2);
    } else {
      close_tag(position, marked ? c : '\0');
    }
    return true;
  }

  void name() {
    size_t end = pos_;
    for (size_t next = end; next < source_.size(); end = next) {
      if (!is_identifier_part(decode_utf8(source_, next))) break;
    }
    push(TokenKind::kName, source_.substr(pos_, end - pos_));
    pos_ = end;
  }

  // Digits with single underscores between them, from `p`; returns the end.
  size_t digits(size_t p, auto is_digit_of_base) const {
    while (p < source_.size()) {
      const size_t q = source_[p] == '_' ? p + 1 : p;
      if (q >= source_.size() || !is_digit_of_base(source_[q])) break;
      p = q + 1;
    }
    return p;
  }

  void number() {
    const char prefix =
        pos_ + 1 < source_.size() ? static_cast<char>(source_[pos_ + 1] | 0x20) : '\0';
    if (source_[pos_] == '0' && (prefix == 'x' || prefix == 'o' || prefix == 'b')) {
      const int base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : 2;
      const size_t end = digits(pos_ + 2, [base](char c) {
        const int digit = hex_digit(c);
        return digit >= 0 && digit < base;
      });
      if (end > pos_ + 2) return integer_token(end, 2, base);
    }
    size_t end = digits(pos_, is_ascii_digit);
    const size_t whole = end;
    const bool after_dot = pos_ > 0 && source_[pos_ - 1] == '.';
    if (!after_dot && end + 1 < source_.size() && source_[end] == '.' &&
        is_ascii_digit(source_[end + 1])) {
      end = digits(end + 1, is_ascii_digit);
    }
    if (!after_dot && end < source_.size() && (source_[end] | 0x20) == 'e') {
      size_t p = end + 1;
      if (p < source_.size() && (source_[p] == '+' || source_[p] == '-')) ++p;
      if (p < source_.size() && is_ascii_digit(source_[p])) end = digits(p, is_ascii_digit);
    }
    end == whole ? integer_token(decimal_end(whole), 0, 10) : float_token(end);
  }

  // A decimal that starts with 0 is only zeros; the rest is the next token.
  size_t decimal_end(size_t end) const {
    if (source_[pos_] != '0') return end;
    return digits(pos_, [](char c) { return c == '0'; });
  }

  std::string without_underscores(size_t from, size_t to) const {
    std::string text(source_.substr(from, to - from));
    std::erase(text, '_');
    return text;
  }

  void integer_token(size_t end, size_t prefix, int base) {
    const std::string text = without_underscores(pos_ + prefix, end);
    uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (parsed.ec != std::errc()) fail("integer literal does not fit 64 bits");
    push(TokenKind::kInteger, source_.substr(pos_, end - pos_)).integer = value;
    pos_ = end;
  }

  void float_token(size_t end) {
    const std::string text = without_underscores(pos_, end);
    double value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc()) fail("float literal is out of range");
    push(TokenKind::kFloat, source_.substr(pos_, end - pos_)).real = value;
    pos_ = end;
  }

  void string_literal() {
    const char quote = source_[pos_];
    bool escaped = false;
    size_t end = pos_ + 1;
    for (; end < source_.size() && source_[end] != quote; ++end) {
      if (source_[end] == '\\') {
        escaped = true;
        ++end;
      }
    }
    if (end >= source_.size()) fail("string literal without an end");
    const std::string_view body = source_.substr(pos_ + 1, end - pos_ - 1);
    push(TokenKind::kString, escaped ? arena_.copy(Unescaper(body, line_).run()) : body);
    advance_to(end + 1);
  }

  void operator_token(std::string& brackets) {
    for (const Operator& op : kOperators) {
      if (!at(op.text)) continue;
      const char c = op.text[0];
      if (c == '(' || c == '[' || c == '{') {
        brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      } else if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty()) fail(str_format("unexpected '{}'", op.text));
        if (brackets.back() != c)
          fail(str_format("unexpected '{}', expected '{}'", op.text, brackets.back()));
        brackets.pop_back();
      }
      push(op.kind, op.text);
      pos_ += op.text.size();
      return;
    }
    size_t next = pos_;
    decode_utf8(source_, next);
    fail(str_format("unexpected character '{}'", source_.substr(pos_, next - pos_)));
  }

  std::string_view source_;
  Arena& arena_;
  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, Arena& arena) {
  return Lexer(source, arena).run();
}

}  // namespace atom::jinja
