// The terminal: is there one, may it have colours, what may be written to it, and was Ctrl-C
// pressed.
#pragma once

#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom::cli {

bool is_terminal(int fd);
// stdout is a terminal that wants colours (NO_COLOR unset, TERM not dumb).
bool use_colour();

// Model output for a terminal: control characters other than newline and tab become visible, so
// that no text can send escape sequences. Whole characters only.
std::string harmless(std::string_view text);

// Writes all of it to stdout; false when nobody reads any more, or, said on stderr, when it cannot
// be written.
[[nodiscard]] bool write_out(std::string_view text);

// From here on Ctrl-C (SIGINT) only sets a flag; the third one before the flag is cleared ends the
// process.
void catch_interrupts();
bool interrupted();
void clear_interrupt();

// All of stdin, up to `limit` bytes.
Result<std::string> read_stdin(size_t limit);

}  // namespace atom::cli
