// Values as text: Python's str() and repr(), and numbers as Python prints them.
#pragma once

#include <string>
#include <string_view>

#include "atom/chat_template/interpreter.h"

namespace atom::jinja {

void append_str(Interpreter& in, std::string& out, const Value& v);
void append_repr(Interpreter& in, std::string& out, const Value& v);
// str() as a view: the value's own text when it is a string, else new text in the arena.
std::string_view text_of(Interpreter& in, const Value& v);
std::string float_repr(double d);
std::string int_text(const Value& v);

}  // namespace atom::jinja
