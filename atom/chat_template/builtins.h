// Tables of everything a template can call by name: filters, tests, methods and global functions.
// Adding one is writing its function and one row in the table of its file; names resolve while
// parsing.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "atom/chat_template/value.h"

namespace atom::jinja {

class Interpreter;

struct KeywordValue {
  std::string_view name;
  Value value;
};

// Evaluated arguments. After binding (Builtin::params) positional[i] is parameter i, kUnset when
// not given.
struct CallArgs {
  std::span<const Value> positional;
  std::span<const KeywordValue> keywords;

  Value operator[](size_t i) const { return i < positional.size() ? positional[i] : Value{}; }
};

struct Builtin {
  std::string_view name;
  // Parameter names in order; "a b=" has an optional b; a leading "/" forbids keywords; "*" passes
  // the arguments through unbound.
  std::string_view params;
  // `self` is the filtered, tested or owning value. Null: the name exists in Python but the sandbox
  // refuses it.
  Value (*function)(Interpreter& interpreter, const Value& self, const CallArgs& args);

  size_t required() const;
  size_t allowed() const;
};

const Builtin* find_filter(std::string_view name);
const Builtin* find_test(std::string_view name);
const Builtin* find_global(std::string_view name);
const Builtin* find_string_method(std::string_view name);
const Builtin* find_dict_method(std::string_view name);
const Builtin* find_list_method(std::string_view name);  // lists and tuples

}  // namespace atom::jinja
