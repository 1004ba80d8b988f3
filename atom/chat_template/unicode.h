// UTF-8 text by code points, as Python strings see it: lengths, offsets, white space, case,
// classes. Input need not be valid UTF-8: every function is total, a stray byte counts as one code
// point.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atom::jinja {

bool is_valid_utf8(std::string_view text);
// Decodes at `pos` and moves it on; a stray byte gives U+FFFD.
char32_t decode_utf8(std::string_view text, size_t& pos);
void append_utf8(std::string& out, char32_t code_point);

size_t count_code_points(std::string_view text);
// Byte offset of the n-th code point, text.size() when there are fewer.
size_t byte_offset(std::string_view text, size_t n);

// Python's str.isspace set, which is also what \s matches.
bool is_space(char32_t code_point);
bool is_alpha(char32_t code_point);
bool is_decimal(char32_t code_point);
bool is_digit(char32_t code_point);  // decimal, or a digit such as a superscript
bool is_numeric(char32_t code_point);
bool is_upper(char32_t code_point);
bool is_lower(char32_t code_point);
bool is_printable(char32_t code_point);
bool is_identifier_start(char32_t code_point);
bool is_identifier_part(char32_t code_point);

std::string_view trim_left(std::string_view text);
std::string_view trim_right(std::string_view text);
inline std::string_view trim(std::string_view text) { return trim_left(trim_right(text)); }

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);  // every run of letters: first upper, others lower
std::string to_capitalized(std::string_view text);  // first character upper, others lower
std::string swap_case(std::string_view text);

}  // namespace atom::jinja
