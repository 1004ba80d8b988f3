// Truth, equality, order, membership and arithmetic. Lengths, slices and iteration are in
// sequences.cpp.
#include "atom/chat_template/operators.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "atom/chat_template/text.h"
#include "atom/chat_template/text_format.h"

namespace atom::jinja {
namespace {

Order order(auto a, auto b) {
  if (a < b) return Order::kLess;
  if (a > b) return Order::kGreater;
  return a == b ? Order::kEqual : Order::kUnordered;
}

Order order_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return order(wide(a), wide(b));
  return order(as_double(a), as_double(b));
}

bool equal_dicts(Interpreter& in, const Dict& a, const Dict& b) {
  if (a.size != b.size) return false;
  return std::ranges::all_of(a.list(), [&](const DictEntry& e) {
    const Value* const other = b.find(in.arena(), e.key);
    return other != nullptr && equals(in, e.value, *other);
  });
}

bool equal_objects(const Value& a, const Value& b) {
  if (is_object(a, ObjectKind::kRange) && is_object(b, ObjectKind::kRange)) {
    const auto& x = as<Range>(a);
    const auto& y = as<Range>(b);
    return x.count == y.count &&
           (x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step)));
  }
  return a.object == b.object;
}

[[noreturn]] void raise_operands(std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) raise_undefined(a);
  if (b.is_undefined()) raise_undefined(b);
  raise_error("TypeError: unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a),
              type_name(b));
}

Value concat_lists(Interpreter& in, const Value& a, const Value& b) {
  const size_t count = size_t{a.size} + b.size;
  in.charge(static_cast<int64_t>(count / 8));
  Value* const items = in.arena().array<Value>(count);
  std::ranges::copy(a.list(), items);
  std::ranges::copy(b.list(), items + a.size);
  return a.is(Type::kList) ? list({items, count}) : tuple({items, count});
}

Value repeat(Interpreter& in, const Value& v, const Value& times) {
  const Int128 wanted = wide(times);
  const auto n = static_cast<size_t>(std::clamp<Int128>(wanted, 0, Int128{1} << 40));
  if (v.size > 0 && n > (size_t{1} << 32) / v.size) raise_limit("memory limit exceeded");
  const size_t total = v.size == 0 ? 0 : n * v.size;
  if (v.is_string()) {
    in.charge_text(total);
    char* const chars = in.arena().bytes(total);
    for (size_t i = 0; i < total; i += v.size) std::memcpy(chars + i, v.chars, v.size);
    Value result = string({chars, total});
    result.flags = v.flags;
    return result;
  }
  in.charge(static_cast<int64_t>(total / 8));
  Value* const items = in.arena().array<Value>(total);
  for (size_t i = 0; i < total; i += v.size) std::ranges::copy(v.list(), items + i);
  return v.is(Type::kList) ? list({items, total}) : tuple({items, total});
}

Value multiply(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (!a.is_integral() || !b.is_integral()) return real(as_double(a) * as_double(b));
    Int128 result = 0;
    if (__builtin_mul_overflow(wide(a), wide(b), &result))
      raise_error("OverflowError: integer result does not fit 64 bits");
    return narrow(result);
  }
  if ((a.is_string() || a.is_sequence()) && b.is_integral()) return repeat(in, a, b);
  if ((b.is_string() || b.is_sequence()) && a.is_integral()) return repeat(in, b, a);
  raise_operands("*", a, b);
}

// Python rounds towards minus infinity; the remainder has the divisor's sign.
Value floor_divide(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    const Int128 x = wide(a);
    const Int128 y = wide(b);
    if (y == 0) raise_error("ZeroDivisionError: integer division or modulo by zero");
    const Int128 q = x / y;
    return narrow(x % y != 0 && (x < 0) != (y < 0) ? q - 1 : q);
  }
  if (as_double(b) == 0) raise_error("ZeroDivisionError: float floor division by zero");
  return real(std::floor(as_double(a) / as_double(b)));
}

Value modulo(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    const Int128 x = wide(a);
    const Int128 y = wide(b);
    if (y == 0) raise_error("ZeroDivisionError: integer division or modulo by zero");
    const Int128 r = x % y;
    return narrow(r != 0 && (r < 0) != (y < 0) ? r + y : r);
  }
  const double y = as_double(b);
  if (y == 0) raise_error("ZeroDivisionError: float modulo");
  const double r = std::fmod(as_double(a), y);
  return real(r != 0 && (r < 0) != (y < 0) ? r + y : r);
}

Value power(const Value& a, const Value& b) {
  if (!a.is_integral() || !b.is_integral() || wide(b) < 0) {
    if (as_double(a) == 0 && as_double(b) < 0)
      raise_error("ZeroDivisionError: 0.0 cannot be raised to a negative power");
    return real(std::pow(as_double(a), as_double(b)));
  }
  Int128 base = wide(a);
  Int128 result = 1;
  const Int128 exponent = wide(b);
  if (base == 0 || base == 1) return narrow(exponent == 0 ? 1 : base);
  if (base == -1) return narrow(exponent % 2 == 0 ? 1 : -1);
  for (Int128 i = 0; i < exponent; ++i) {  // leaves through narrow() after at most 64 rounds
    if (__builtin_mul_overflow(result, base, &result))
      raise_error("OverflowError: integer result does not fit 64 bits");
    narrow(result);
  }
  return narrow(result);
}

}  // namespace

bool truth(const Value& v) {
  switch (v.type) {
    case Type::kUnset:
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
      return v.boolean;
    case Type::kInt:
      return v.integer != 0;
    case Type::kFloat:
      return v.real != 0;
    case Type::kString:
    case Type::kList:
    case Type::kTuple:
      return v.size != 0;
    case Type::kDict:
      return v.dict->size != 0;
    case Type::kObject:
      break;
  }
  if (v.object->kind == ObjectKind::kRange) return as<Range>(v).count != 0;
  if (v.object->kind == ObjectKind::kDictView) return as<DictView>(v).dict->size != 0;
  return true;
}

bool equals(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return a.text() == b.text();
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == Order::kEqual;
  if (a.type != b.type) return false;
  if (a.is_undefined() || a.is_none()) return true;
  const DepthGuard guard(in.nesting());
  in.charge(1);
  switch (a.type) {
    case Type::kList:
    case Type::kTuple:
      return a.size == b.size &&
             std::ranges::equal(a.list(), b.list(), [&](const Value& x, const Value& y) {
               in.charge(1);
               return equals(in, x, y);
             });
    case Type::kDict:
      return a.dict == b.dict || equal_dicts(in, *a.dict, *b.dict);
    default:
      return equal_objects(a, b);
  }
}

Order compare(Interpreter& in, const Value& a, const Value& b, std::string_view op) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is_string() && b.is_string()) return order(a.text().compare(b.text()), 0);
  if (a.is_sequence() && a.type == b.type) {
    const DepthGuard guard(in.nesting());
    for (size_t i = 0; i < std::min(a.size, b.size); ++i) {
      in.charge(1);
      if (!equals(in, a.items[i], b.items[i])) return compare(in, a.items[i], b.items[i], op);
    }
    return order(a.size, b.size);
  }
  if (a.is_undefined()) raise_undefined(a);
  if (b.is_undefined()) raise_undefined(b);
  raise_error("TypeError: '{}' not supported between instances of '{}' and '{}'", op, type_name(a),
              type_name(b));
}

bool contains(Interpreter& in, const Value& item, const Value& container) {
  const auto has = [&](const Value& v) {
    in.charge(1);
    return equals(in, item, v);
  };
  switch (container.type) {
    case Type::kUndefined:
      return false;
    case Type::kString:
      if (item.is_undefined()) raise_undefined(item);
      if (!item.is_string()) {
        raise_error("TypeError: 'in <string>' requires string as left operand, not {}",
                    type_name(item));
      }
      in.charge_text(container.size);
      if (item.size == 0 || item.size > container.size) return item.size == 0;
      return memmem(container.chars, container.size, item.chars, item.size) != nullptr;
    case Type::kList:
    case Type::kTuple:
      return std::ranges::any_of(container.list(), has);
    case Type::kDict:
      in.charge(container.dict->size / 64);
      return container.dict->find(in.arena(), item) != nullptr;
    default:
      break;
  }
  if (is_object(container, ObjectKind::kDictView) &&
      as<DictView>(container).part == DictView::Part::kKeys) {
    return as<DictView>(container).dict->find(in.arena(), item) != nullptr;
  }
  if (container.is(Type::kObject)) {
    Iterator* const items = iterate(in, container);
    for (Value v; items->next(in, v);) {
      if (has(v)) return true;
    }
    return false;
  }
  raise_error("TypeError: argument of type '{}' is not iterable", type_name(container));
}

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

Value join_text(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_markup() != b.is_markup()) {
    Value left = a.is_markup() ? a : in.new_string(escape_html(a.text()));
    Value right = b.is_markup() ? b : in.new_string(escape_html(b.text()));
    left.flags = right.flags = Value::kMarkup;
    return join_text(in, left, right);
  }
  if (b.size == 0) return a;
  if (a.size == 0) return b;
  in.charge_text(b.size);
  Value result = a;
  if (in.arena().extend(a.chars + a.size, b.text())) {
    result.size = string({a.chars, size_t{a.size} + b.size}).size;
    return result;
  }
  in.charge_text(a.size);
  const size_t total = size_t{a.size} + b.size;
  char* const chars = in.arena().bytes(total);
  std::memcpy(chars, a.chars, a.size);
  std::memcpy(chars + a.size, b.chars, b.size);
  result = string({chars, total});
  result.flags = a.flags;
  return result;
}

Value add(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return join_text(in, a, b);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return narrow(wide(a) + wide(b));
    return real(as_double(a) + as_double(b));
  }
  if (a.is_sequence() && a.type == b.type) return concat_lists(in, a, b);
  if (a.is_undefined()) raise_undefined(a);
  if (b.is_undefined()) raise_undefined(b);
  if (a.is_string() || a.is_sequence()) {
    raise_error("TypeError: can only concatenate {} (not \"{}\") to {}", type_name(a), type_name(b),
                type_name(a));
  }
  raise_operands("+", a, b);
}

Value binary(Interpreter& in, BinaryOp op, const Value& a, const Value& b) {
  if (op == BinaryOp::kMul) return multiply(in, a, b);
  if (op == BinaryOp::kMod && a.is_string()) return percent_format(in, a, b);
  constexpr std::string_view kNames[] = {"-", "*", "/", "//", "%", "** or pow()"};
  if (!a.is_number() || !b.is_number()) raise_operands(kNames[static_cast<int>(op)], a, b);
  switch (op) {
    case BinaryOp::kSub:
      if (a.is_integral() && b.is_integral()) return narrow(wide(a) - wide(b));
      return real(as_double(a) - as_double(b));
    case BinaryOp::kDiv:
      if (as_double(b) == 0) raise_error("ZeroDivisionError: division by zero");
      return real(as_double(a) / as_double(b));
    case BinaryOp::kFloorDiv:
      return floor_divide(a, b);
    case BinaryOp::kMod:
      return modulo(a, b);
    default:
      return power(a, b);
  }
}

Value negative(const Value& v) {
  if (v.is(Type::kFloat)) return real(-v.real);
  if (v.is_integral()) return narrow(-wide(v));
  if (v.is_undefined()) raise_undefined(v);
  raise_error("TypeError: bad operand type for unary -: '{}'", type_name(v));
}

Value positive(const Value& v) {
  if (v.is(Type::kFloat)) return v;
  if (v.is_integral()) return narrow(wide(v));
  if (v.is_undefined()) raise_undefined(v);
  raise_error("TypeError: bad operand type for unary +: '{}'", type_name(v));
}

}  // namespace atom::jinja
