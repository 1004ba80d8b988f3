// The body of `atom tokenize`: text lines in, one JSON array of ids per line out; `decode` the
// other way. Knows nothing of flags or models.
#pragma once

#include <iosfwd>

#include "atom/core/error.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

struct TokenizeLinesOptions {
  bool decode = false;               // id lists in, text out
  bool add_special_tokens = false;   // encoding
  bool skip_special_tokens = false;  // decoding
  bool stream = false;  // decoding by IncrementalDetokenizer, token by token (same text)
  // Lines of text are JSON strings (in and out), so that they can hold newlines. Plain text
  // otherwise; then a newline inside decoded text is written as it is.
  bool json_text = false;
};

// Reads to the end of `in`. Errors name the line; the lines before it are written.
Status run_tokenize_lines(const std::shared_ptr<const Tokenizer>& tokenizer, std::istream& in,
                          std::ostream& out, const TokenizeLinesOptions& options);

}  // namespace atom
