// A checked form as a grammar of the grammar library. Its patterns of JSON strings with escapes are
// put in here: the library's reader of schemas would forbid every quote and backslash in them, so
// it sees placeholders (grammar_check.h).
#pragma once

#include <xgrammar/xgrammar.h>

#include "atom/structured_output/grammar_check.h"

namespace atom {

// Throws the library's exceptions.
xgrammar::Grammar grammar_of(const GrammarSpec& spec, const CheckedGrammar& form,
                             const xgrammar::TokenizerInfo& vocabulary);

}  // namespace atom
