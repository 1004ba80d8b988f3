// What is checked of a GrammarSpec before the grammar library sees it: sizes, nesting, repetition
// counts, and, for a JSON schema, that every keyword of it will be enforced. The library ignores
// some keywords beside others ({"anyOf": ..., "required": ...}) without a word; here they are
// refused with their path. To allow a keyword: a row in schema_keywords.h.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "atom/core/error.h"
#include "atom/structured_output/bounded_strings.h"
#include "atom/structured_output/grammar_compiler.h"

namespace atom {

// What to compile instead of the spec's text.
struct CheckedGrammar {
  // With bounded strings as patterns with a marker (bounded_strings.h), patterns of strings as
  // json_pattern.h writes them, oneOf of exclusive branches as anyOf, and the grammar of a list of
  // choices.
  std::string text;
  std::vector<LengthBound> bounds;  // row i is that of marker i
  // Placeholders in the text, and the patterns of JSON strings with escapes that they stand for.
  std::map<std::string, std::string> patterns;
};
// An error's message begins with the place: "$.properties.name: ...".
Result<CheckedGrammar> check_grammar(const GrammarSpec& spec, const GrammarLimits& limits);

}  // namespace atom
