// What is checked of the texts of a GrammarSpec that are no schema: JSON at all, regular
// expressions and grammars (nesting, counts, sizes), lists of choices. Schemas: grammar_check.cpp.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/structured_output/grammar_compiler.h"

namespace atom {

std::unexpected<Error> refuse(std::string message);

// The text as JSON, within limits.max_depth.
Result<boost::json::value> parse_spec(std::string_view text, const GrammarLimits& limits);

// Nesting of brackets and the numbers in braces. Neither knows the exact syntax: what stands in
// quotes or classes counts too, which only makes the limits a little stricter.
Status check_brackets(std::string_view text, const GrammarLimits& limits);
// Those, and the size of a regular expression.
Status check_regex(std::string_view regex, const GrammarLimits& limits);

// An EBNF grammar that matches exactly one of the strings of a JSON array.
Result<std::string> choice_grammar(std::string_view choices);

}  // namespace atom
