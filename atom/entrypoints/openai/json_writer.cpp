#include "atom/entrypoints/openai/json_writer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <random>

#include "atom/core/printable.h"

namespace atom::openai {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// 0: as it is; 'u': \u00XX; 0xff: the start of a multi-byte sequence; else the letter after the
// backslash.
constexpr std::array<unsigned char, 256> kEscape = [] {
  std::array<unsigned char, 256> table{};
  for (int c = 0; c < 0x20; ++c) table[c] = 'u';
  for (int c = 0x80; c < 0x100; ++c) table[c] = 0xff;
  table['\b'] = 'b';
  table['\f'] = 'f';
  table['\n'] = 'n';
  table['\r'] = 'r';
  table['\t'] = 't';
  table['"'] = '"';
  table['\\'] = '\\';
  table[0x7f] = 'u';
  return table;
}();

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) == 0x80U; }

// Length of the valid UTF-8 sequence at text[0], or 0 (RFC 3629: no surrogates, no overlong forms).
size_t sequence_length(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f)) return 0;
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) return 0;
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  size_t copied = 0;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const unsigned char escape = kEscape[c];
    if (escape == 0) {
      ++i;
      continue;
    }
    if (escape == 0xff) {
      if (const size_t length = sequence_length(text.substr(i)); length > 0) {
        i += length;
        continue;
      }
    }
    out.append(text, copied, i - copied);
    if (escape == 0xff) {
      out += kReplacement;
    } else if (escape == 'u') {
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else {
      out += '\\';
      out += static_cast<char>(escape);
    }
    copied = ++i;
  }
  out.append(text, copied, text.size() - copied);
  out += '"';
}

void append_int(std::string& out, int64_t value) {
  char buffer[24];
  out.append(buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr);
}

void append_ids(std::string& out, std::span<const int32_t> ids) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, ids[i]);
  }
  out += ']';
}

void append_float(std::string& out, float value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char buffer[32];
  out.append(buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr);
}

void append_decimal(std::string& out, double value) {
  char buffer[400];  // the largest double has 309 digits
  const double finite = std::isfinite(value) ? value : 0.0;
  out.append(buffer,
             std::to_chars(buffer, buffer + sizeof(buffer), finite, std::chars_format::fixed).ptr);
}

void append_fixed4(std::string& out, double value) {
  char buffer[64];
  const double bounded = std::isfinite(value) ? std::min(std::max(value, 0.0), 1e15) : 0.0;
  out.append(
      buffer,
      std::to_chars(buffer, buffer + sizeof(buffer), bounded, std::chars_format::fixed, 4).ptr);
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); });
}

bool continues_character(std::string_view text) {
  return !text.empty() && is_continuation(text[0]);
}

std::string random_hex() {
  thread_local std::mt19937_64 random(std::random_device{}());
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (int word = 0; word < 2; ++word) {
    uint64_t bits = random();
    for (int i = 0; i < 16; ++i, bits >>= 4) out += kHex[bits & 15];
  }
  return out;
}

std::string clipped(std::string_view text) {
  constexpr size_t kMax = 120;  // before the last piece, of at most 4 bytes, and the dots
  return printable(text, kMax);
}

}  // namespace atom::openai
