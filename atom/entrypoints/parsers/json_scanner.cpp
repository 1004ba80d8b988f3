#include "atom/entrypoints/parsers/json_scanner.h"

#include "atom/entrypoints/parsers/text_pieces.h"

namespace atom::parsers {
namespace {

constexpr size_t kMaxDepth = 64;  // as deep as any schema; deeper text is no tool call

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

}  // namespace

JsonEvent JsonScanner::push(char c) {
  if (in_string()) return string_byte(c);
  if (state_ == State::kLiteral) {
    if (c != *literal_) return JsonEvent::kFailed;
    if (*++literal_ == '\0') state_ = State::kAfterValue;
    return JsonEvent::kNone;
  }
  if (state_ >= State::kMinus && state_ <= State::kExponentDigits) {
    if (number_byte(c)) return JsonEvent::kNone;
    if (!number_may_end()) return JsonEvent::kFailed;
    state_ = State::kAfterValue;
  }
  if (is_json_space(c) && state_ != State::kDone && state_ != State::kStart)
    return JsonEvent::kNone;
  return structure_byte(c);
}

JsonEvent JsonScanner::string_byte(char c) {
  switch (state_) {
    case State::kString:
      if (c == '\\') state_ = State::kEscape;
      if (c != '"') return JsonEvent::kNone;
      state_ = is_key_ ? State::kColon : State::kAfterValue;
      return is_key_ ? JsonEvent::kKeyEnd : JsonEvent::kStringEnd;
    case State::kEscape:
      if (c == 'u') {
        state_ = State::kHex1;
        return JsonEvent::kNone;
      }
      if (std::string_view("\"\\/bfnrt").find(c) == std::string_view::npos)
        return JsonEvent::kFailed;
      state_ = State::kString;
      return JsonEvent::kNone;
    default:
      if (!is_hex(c)) return JsonEvent::kFailed;
      state_ = state_ == State::kHex4 ? State::kString
                                      : static_cast<State>(static_cast<uint8_t>(state_) + 1);
      return JsonEvent::kNone;
  }
}

JsonEvent JsonScanner::begin_value(char c) {
  const auto scalar = [this](State next, const char* literal = nullptr) {
    state_ = next;
    literal_ = literal;
    return JsonEvent::kScalarStart;
  };
  switch (c) {
    case '"':
      is_key_ = false;
      state_ = State::kString;
      return JsonEvent::kStringStart;
    case '{':
    case '[':
      if (open_.size() == kMaxDepth) return JsonEvent::kFailed;
      open_ += c;
      state_ = c == '{' ? State::kKeyOrClose : State::kValueOrClose;
      return JsonEvent::kOpen;
    case '-':
      return scalar(State::kMinus);
    case '0':
      return scalar(State::kZero);
    case 't':
      return scalar(State::kLiteral, "rue");
    case 'f':
      return scalar(State::kLiteral, "alse");
    case 'n':
      return scalar(State::kLiteral, "ull");
    default:
      return is_digit(c) ? scalar(State::kInteger) : JsonEvent::kFailed;
  }
}

JsonEvent JsonScanner::structure_byte(char c) {
  switch (state_) {
    case State::kStart:
      return c == '{' ? begin_value(c) : JsonEvent::kFailed;
    case State::kValueOrClose:
      if (c == ']') return close(c);
      return begin_value(c);
    case State::kValue:
      return begin_value(c);
    case State::kKeyOrClose:
      if (c == '}') return close(c);
      [[fallthrough]];
    case State::kKey:
      if (c != '"') return JsonEvent::kFailed;
      is_key_ = true;
      state_ = State::kString;
      return JsonEvent::kKeyStart;
    case State::kColon:
      if (c != ':') return JsonEvent::kFailed;
      state_ = State::kValue;
      return JsonEvent::kNone;
    case State::kAfterValue:
      if (c == ',') {
        state_ = open_.back() == '{' ? State::kKey : State::kValue;
        return JsonEvent::kNone;
      }
      return close(c);
    default:
      return JsonEvent::kFailed;
  }
}

JsonEvent JsonScanner::close(char c) {
  if (c != (open_.back() == '{' ? '}' : ']')) return JsonEvent::kFailed;
  open_.pop_back();
  state_ = open_.empty() ? State::kDone : State::kAfterValue;
  return JsonEvent::kClose;
}

bool JsonScanner::number_byte(char c) {
  const auto go = [this](State next) {
    state_ = next;
    return true;
  };
  const bool exponent = c == 'e' || c == 'E';
  switch (state_) {
    case State::kMinus:
      return is_digit(c) && go(c == '0' ? State::kZero : State::kInteger);
    case State::kInteger:
      if (is_digit(c)) return true;
      [[fallthrough]];
    case State::kZero:
      return (c == '.' && go(State::kPoint)) || (exponent && go(State::kExponent));
    case State::kPoint:
      return is_digit(c) && go(State::kFraction);
    case State::kFraction:
      return is_digit(c) || (exponent && go(State::kExponent));
    case State::kExponent:
      if (c == '+' || c == '-') return go(State::kExponentSign);
      [[fallthrough]];
    case State::kExponentSign:
      return is_digit(c) && go(State::kExponentDigits);
    case State::kExponentDigits:
      return is_digit(c);
    default:
      return false;
  }
}

bool JsonScanner::number_may_end() const {
  return state_ == State::kZero || state_ == State::kInteger || state_ == State::kFraction ||
         state_ == State::kExponentDigits;
}

}  // namespace atom::parsers
