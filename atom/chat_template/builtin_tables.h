// Where the rows are: each function is defined, with its table, in the file named beside it. Also
// the helpers that those files share for reading arguments.
#pragma once

#include <string>
#include <string_view>

#include "atom/chat_template/builtins.h"
#include "atom/chat_template/interpreter.h"

namespace atom::jinja {

std::span<const Builtin> text_filters();       // filters_text.cpp
std::span<const Builtin> number_filters();     // filters_number.cpp
std::span<const Builtin> sequence_filters();   // filters_sequence.cpp
std::span<const Builtin> lazy_filters();       // filters_lazy.cpp
std::span<const Builtin> tests();              // predicates.cpp
std::span<const Builtin> globals();            // globals.cpp
std::span<const Builtin> string_methods();     // methods_string.cpp
std::span<const Builtin> string_predicates();  // methods_collection.cpp
std::span<const Builtin> dict_methods();       // methods_collection.cpp
std::span<const Builtin> list_methods();       // methods_collection.cpp

bool flag_arg(const Value& v, bool otherwise);
int64_t int_arg(const Value& v, int64_t otherwise);
bool absent(const Value& v);                                           // not given, or None
std::string_view text_arg(const Value& v, std::string_view function);  // raises when not a string

// Text that keeps the markup flag of the string it was made from.
Value text_like(Interpreter& in, std::string_view text, const Value& origin);

// Positions of `part` in `text`, with the work charged.
size_t find_text(Interpreter& in, std::string_view text, std::string_view part, size_t from = 0);
size_t find_last_text(Interpreter& in, std::string_view text, std::string_view part);
std::string replace_text(Interpreter& in, std::string_view text, std::string_view from,
                         std::string_view to, int64_t count);
std::string_view strip_text(std::string_view text, const Value& chars, bool left, bool right);
std::string pad_center(Interpreter& in, std::string_view text, int64_t width, char32_t fill);

// "a.b.0" applied to a value, item first, as map(attribute=...) does.
Value get_path(Interpreter& in, const Value& v, const Value& path);

}  // namespace atom::jinja
