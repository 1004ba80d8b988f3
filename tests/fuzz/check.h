// FUZZ_CHECK: an invariant of a fuzz target. Says which one failed, then stops, so that libFuzzer
// keeps the input. Not for product code (atom/core/check.h is).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#define FUZZ_CHECK(condition)                                                      \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (0)

namespace atom::fuzz {

// A message for people: one line, bounded, nothing that a terminal or a log would obey.
inline bool is_clean_message(std::string_view text, size_t max_bytes = 1500) {
  if (text.empty() || text.size() > max_bytes) return false;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f) return false;
  }
  return true;
}

inline bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xc2 ? 0
                          : lead < 0xe0 ? 2
                          : lead < 0xf0 ? 3
                          : lead < 0xf5 ? 4
                                        : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      const unsigned char low = k > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
      const unsigned char high = k > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
      if (byte < low || byte > high) return false;
    }
    i += length;
  }
  return true;
}

// What is not UTF-8 becomes U+FFFD.
inline std::string well_formed(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    while (length < 4 && i + length < text.size() && !is_utf8(text.substr(i, length))) ++length;
    const bool whole = is_utf8(text.substr(i, length));
    out += whole ? text.substr(i, length) : std::string_view("\xef\xbf\xbd");
    i += whole ? length : 1;
  }
  return out;
}

}  // namespace atom::fuzz
