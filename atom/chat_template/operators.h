// Python's operators on values: truth, equality, order, membership, arithmetic, length, slices,
// iteration.
#pragma once

#include <vector>

#include "atom/chat_template/interpreter.h"

namespace atom::jinja {

bool truth(const Value& v);
bool equals(Interpreter& in, const Value& a, const Value& b);
// Negative, zero or positive; raises for types that have no order. NaN compares as neither.
enum class Order : uint8_t { kLess, kEqual, kGreater, kUnordered };
Order compare(Interpreter& in, const Value& a, const Value& b, std::string_view op);
bool contains(Interpreter& in, const Value& item, const Value& container);

Value add(Interpreter& in, const Value& a, const Value& b);
Value binary(Interpreter& in, BinaryOp op, const Value& a, const Value& b);
Value negative(const Value& v);
Value positive(const Value& v);

// Text joined in the arena; either part being markup escapes the other.
Value join_text(Interpreter& in, const Value& a, const Value& b);
std::string escape_html(std::string_view text);

int64_t length(Interpreter& in, const Value& v);
struct Slice {
  Value start;
  Value stop;
  Value step;
};
Value slice(Interpreter& in, const Value& v, const Slice& s);
int64_t index_value(const Value& v);  // an int used as an index; raises otherwise

Iterator* iterate(Interpreter& in, const Value& v);  // raises when v is not iterable
Iterator* iterate_span(Interpreter& in, std::span<const Value> items);
std::vector<Value> collect(Interpreter& in, const Value& v);

}  // namespace atom::jinja
