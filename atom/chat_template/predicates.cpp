// The tests after `is`.
#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

template <auto predicate>
Value test(Interpreter&, const Value& v, const CallArgs&) {
  return boolean(predicate(v));
}

bool is_sequence(const Value& v) {
  return v.is_string() || v.is_sequence() || v.is(Type::kDict) || v.is_undefined() ||
         is_object(v, ObjectKind::kRange);
}

bool is_iterable(const Value& v) {
  return is_sequence(v) || is_object(v, ObjectKind::kDictView) ||
         is_object(v, ObjectKind::kIterator) || is_object(v, ObjectKind::kLoop);
}

bool is_callable(const Value& v) {
  if (v.is_undefined()) return true;
  if (!v.is(Type::kObject)) return false;
  switch (v.object->kind) {
    case ObjectKind::kMacro:
    case ObjectKind::kMethod:
    case ObjectKind::kFunction:
    case ObjectKind::kLoop:
    case ObjectKind::kJoiner:
      return true;
    default:
      return false;
  }
}

bool is_same(const Value& a, const Value& b) {
  if (a.type != b.type) return false;
  switch (a.type) {
    case Type::kNone:
      return true;
    case Type::kBool:
      return a.boolean == b.boolean;
    case Type::kString:
      return a.chars == b.chars && a.size == b.size;
    case Type::kList:
    case Type::kTuple:
      return a.items == b.items && a.size == b.size;
    default:
      return a.integer == b.integer;
  }
}

// str.islower / isupper: some cased character, none of the other case.
bool has_only_case(std::string_view text, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    if (other(c)) return false;
    found = found || wanted(c);
  }
  return found;
}

Value test_lower(Interpreter& in, const Value& v, const CallArgs&) {
  return boolean(has_only_case(text_of(in, v), is_lower, is_upper));
}

Value test_upper(Interpreter& in, const Value& v, const CallArgs&) {
  return boolean(has_only_case(text_of(in, v), is_upper, is_lower));
}

Value test_sameas(Interpreter&, const Value& v, const CallArgs& args) {
  return boolean(is_same(v, args[0]));
}

Value test_divisible(Interpreter& in, const Value& v, const CallArgs& args) {
  return boolean(!truth(binary(in, BinaryOp::kMod, v, args[0])));
}

Value test_odd(Interpreter& in, const Value& v, const CallArgs&) {
  return boolean(equals(in, binary(in, BinaryOp::kMod, v, integer(2)), integer(1)));
}

Value test_even(Interpreter& in, const Value& v, const CallArgs&) {
  return boolean(equals(in, binary(in, BinaryOp::kMod, v, integer(2)), integer(0)));
}

Value test_in(Interpreter& in, const Value& v, const CallArgs& args) {
  return boolean(contains(in, v, args[0]));
}
Value test_eq(Interpreter& in, const Value& v, const CallArgs& args) {
  return boolean(equals(in, v, args[0]));
}
Value test_ne(Interpreter& in, const Value& v, const CallArgs& args) {
  return boolean(!equals(in, v, args[0]));
}

Value test_lt(Interpreter& in, const Value& v, const CallArgs& args) {
  return boolean(compare(in, v, args[0], "<") == Order::kLess);
}

Value test_gt(Interpreter& in, const Value& v, const CallArgs& args) {
  return boolean(compare(in, v, args[0], ">") == Order::kGreater);
}

Value test_le(Interpreter& in, const Value& v, const CallArgs& args) {
  const Order order = compare(in, v, args[0], "<=");
  return boolean(order == Order::kLess || order == Order::kEqual);
}

Value test_ge(Interpreter& in, const Value& v, const CallArgs& args) {
  const Order order = compare(in, v, args[0], ">=");
  return boolean(order == Order::kGreater || order == Order::kEqual);
}

Value test_filter(Interpreter&, const Value& v, const CallArgs&) {
  return boolean(v.is_string() && find_filter(v.text()) != nullptr);
}

Value test_test(Interpreter&, const Value& v, const CallArgs&) {
  return boolean(v.is_string() && find_test(v.text()) != nullptr);
}

constexpr Builtin kTests[] = {
    {"defined", "", test<[](const Value& v) { return !v.is_undefined(); }>},
    {"undefined", "", test<[](const Value& v) { return v.is_undefined(); }>},
    {"none", "", test<[](const Value& v) { return v.is_none(); }>},
    {"string", "", test<[](const Value& v) { return v.is_string(); }>},
    {"mapping", "", test<[](const Value& v) { return v.is(Type::kDict); }>},
    {"iterable", "", test<is_iterable>},
    {"sequence", "", test<is_sequence>},
    {"number", "", test<[](const Value& v) { return v.is_number(); }>},
    {"integer", "", test<[](const Value& v) { return v.is(Type::kInt); }>},
    {"float", "", test<[](const Value& v) { return v.is(Type::kFloat); }>},
    {"boolean", "", test<[](const Value& v) { return v.is(Type::kBool); }>},
    {"true", "", test<[](const Value& v) { return v.is(Type::kBool) && v.boolean; }>},
    {"false", "", test<[](const Value& v) { return v.is(Type::kBool) && !v.boolean; }>},
    {"callable", "", test<is_callable>},
    {"escaped", "", test<[](const Value& v) { return v.is_markup(); }>},
    {"lower", "", test_lower},
    {"upper", "", test_upper},
    {"odd", "", test_odd},
    {"even", "", test_even},
    {"divisibleby", "num", test_divisible},
    {"sameas", "other", test_sameas},
    {"in", "seq", test_in},
    {"eq", "/other", test_eq},
    {"equalto", "/other", test_eq},
    {"==", "/other", test_eq},
    {"ne", "/other", test_ne},
    {"!=", "/other", test_ne},
    {"lt", "/other", test_lt},
    {"lessthan", "/other", test_lt},
    {"<", "/other", test_lt},
    {"le", "/other", test_le},
    {"<=", "/other", test_le},
    {"gt", "/other", test_gt},
    {"greaterthan", "/other", test_gt},
    {">", "/other", test_gt},
    {"ge", "/other", test_ge},
    {">=", "/other", test_ge},
    {"filter", "", test_filter},
    {"test", "", test_test},
};

}  // namespace

std::span<const Builtin> tests() { return kTests; }

}  // namespace atom::jinja
