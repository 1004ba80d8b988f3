// Hand-written matchers for the word patterns that public tokenizers use; what is not known here
// runs on PCRE2 (regex.h). A scanner is equal, match for match, to its pattern under leftmost-first
// alternation; the unit tests hold every scanner against PCRE2 on random text. To add a pattern: a
// row in kKnownPatterns, and a function when no existing one fits.
#pragma once

#include <cstddef>
#include <string_view>

namespace atom {

// End of the match that starts at text[at], or `at` when the pattern does not match there.
// text.size() is where look-ahead sees the end. Well-formed UTF-8, at < text.size().
using Scanner = size_t (*)(std::string_view text, size_t at);

// nullptr when the pattern is not known.
Scanner find_scanner(std::string_view pattern);

// 's|'t|...| ?\p{L}+| ?\p{N}+|...: what pre-tokenizer ByteLevel uses by itself.
extern const char* const kGpt2Pattern;

}  // namespace atom
