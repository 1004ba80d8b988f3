// Untrusted text in messages: one line, bounded, and nothing in it that a terminal or a log would
// obey. For words of a file or a client inside an error; not for JSON output.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atom {

// `text` on one line: control characters and invalid UTF-8 as \xNN, shortened to about `max_length`
// bytes.
std::string printable(std::string_view text, size_t max_length = 160);

// Bytes of the UTF-8 character at the beginning of `text`; 0: there is none.
size_t utf8_size(std::string_view text);

}  // namespace atom
