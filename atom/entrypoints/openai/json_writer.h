// Writes JSON text by appending to a string: what the streaming path uses instead of value trees.
// Strings always come out as valid UTF-8 (what is not becomes U+FFFD), floats in the shortest form
// that reads back equal, so two equal floats are two equal texts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace atom::openai {

void append_json_string(std::string& out, std::string_view text);  // with the quotes
void append_int(std::string& out, int64_t value);
void append_ids(std::string& out, std::span<const int32_t> ids);  // as a list
void append_float(std::string& out, float value);                 // not finite: null
void append_decimal(std::string& out,
                    double value);  // all digits, never with an exponent; not finite: 0
void append_fixed4(std::string& out, double value);  // four decimals

// Number of characters that begin in `text`: in a text cut into pieces anywhere, each counts once.
int64_t count_characters(std::string_view text);
// `text` begins inside a character.
bool continues_character(std::string_view text);
// 32 random digits, for ids.
std::string random_hex();
// For messages: control characters and invalid UTF-8 escaped, at most 128 bytes, "..." when cut.
std::string clipped(std::string_view text);

}  // namespace atom::openai
