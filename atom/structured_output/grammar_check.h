// What is checked of a GrammarSpec before the grammar library sees it: sizes, nesting, repetition
// counts, and, for a JSON schema, that every keyword of it will be enforced. The library ignores
// some keywords beside others ({"anyOf": ..., "required": ...}) without a word; here they are
// refused with their path. To allow a keyword: a row in the tables of the .cpp.
#pragma once

#include "atom/core/error.h"
#include "atom/structured_output/grammar_compiler.h"

namespace atom {

// The text to compile: that of the spec, with bounded strings in the form that is exact, or the
// grammar of a list of choices. An error's message begins with the place: "$.properties.name: ...".
Result<std::string> check_grammar(const GrammarSpec& spec, const GrammarLimits& limits);

}  // namespace atom
