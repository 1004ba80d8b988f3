// The pattern of a JSON string, made safe: a regular expression for the string's value (ECMAScript,
// as JSON Schema has it) becomes one for the string as JSON writes it, of the few constructs that
// every reader of the grammar library takes alike. A class that spans a quote, a backslash or a
// control character gets its escaped form beside the characters that may stand as they are, so that
// what follows the result is always JSON and its value always matches the pattern.
// It need not be all that matches: of control characters, those with a letter of their own (\n, \t,
// ...) unless a pattern names only others; no \u escapes of what needs none. `^` and `$` may stand
// at the ends only, and the whole value matches, also without them.
// To support a construct: a case in json_pattern.cpp, a row in json_pattern_test.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

enum class StringForm : uint8_t {
  kJson,   // between quotes, with escapes
  kPlain,  // as it is, in XML and the like: no character that JSON would escape
};

struct JsonPattern {
  std::string text;
  bool escapes = false;  // has some, which the library has to be told (patterns_xgrammar.h)
  // When the whole is a number of characters of one class: the class, without escapes, and how many
  // (`max` < 0: no end).
  std::string counted_class;
  int64_t min = 0;
  int64_t max = 0;
};

// kInvalidArgument names the place in the pattern; it quotes nothing of it.
Result<JsonPattern> json_string_pattern(std::string_view pattern, StringForm form);

}  // namespace atom
