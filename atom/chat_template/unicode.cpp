// Character classes and simple case mappings come from utf8proc; the mappings that change the length of a
// string (SpecialCasing.txt) are the table below.
#include "atom/chat_template/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

namespace atom::jinja {
namespace {

struct SpecialCase {
  char32_t from;
  std::u32string_view upper;
};

// Unconditional one-to-many upper-case mappings, in code point order.
constexpr auto kSpecialUpper = std::to_array<SpecialCase>({
    {0xDF, U"SS"}, {0x149, U"\u02BCN"}, {0x1F0, U"J\u030C"}, {0x390, U"\u0399\u0308\u0301"},
    {0x3B0, U"\u03A5\u0308\u0301"}, {0x587, U"\u0535\u0552"}, {0x1E96, U"H\u0331"},
    {0x1E97, U"T\u0308"}, {0x1E98, U"W\u030A"}, {0x1E99, U"Y\u030A"}, {0x1E9A, U"A\u02BE"},
    {0x1F50, U"\u03A5\u0313"}, {0x1F52, U"\u03A5\u0313\u0300"}, {0x1F54, U"\u03A5\u0313\u0301"},
    {0x1F56, U"\u03A5\u0313\u0342"}, {0x1F80, U"\u1F08\u0399"}, {0x1F81, U"\u1F09\u0399"},
    {0x1F82, U"\u1F0A\u0399"}, {0x1F83, U"\u1F0B\u0399"}, {0x1F84, U"\u1F0C\u0399"},
    {0x1F85, U"\u1F0D\u0399"}, {0x1F86, U"\u1F0E\u0399"}, {0x1F87, U"\u1F0F\u0399"},
    {0x1F88, U"\u1F08\u0399"}, {0x1F89, U"\u1F09\u0399"}, {0x1F8A, U"\u1F0A\u0399"},
    {0x1F8B, U"\u1F0B\u0399"}, {0x1F8C, U"\u1F0C\u0399"}, {0x1F8D, U"\u1F0D\u0399"},
    {0x1F8E, U"\u1F0E\u0399"}, {0x1F8F, U"\u1F0F\u0399"}, {0x1F90, U"\u1F28\u0399"},
    {0x1F91, U"\u1F29\u0399"}, {0x1F92, U"\u1F2A\u0399"}, {0x1F93, U"\u1F2B\u0399"},
    {0x1F94, U"\u1F2C\u0399"}, {0x1F95, U"\u1F2D\u0399"}, {0x1F96, U"\u1F2E\u0399"},
    {0x1F97, U"\u1F2F\u0399"}, {0x1F98, U"\u1F28\u0399"}, {0x1F99, U"\u1F29\u0399"},
    {0x1F9A, U"\u1F2A\u0399"}, {0x1F9B, U"\u1F2B\u0399"}, {0x1F9C, U"\u1F2C\u0399"},
    {0x1F9D, U"\u1F2D\u0399"}, {0x1F9E, U"\u1F2E\u0399"}, {0x1F9F, U"\u1F2F\u0399"},
    {0x1FA0, U"\u1F68\u0399"}, {0x1FA1, U"\u1F69\u0399"}, {0x1FA2, U"\u1F6A\u0399"},
    {0x1FA3, U"\u1F6B\u0399"}, {0x1FA4, U"\u1F6C\u0399"}, {0x1FA5, U"\u1F6D\u0399"},
    {0x1FA6, U"\u1F6E\u0399"}, {0x1FA7, U"\u1F6F\u0399"}, {0x1FA8, U"\u1F68\u0399"},
    {0x1FA9, U"\u1F69\u0399"}, {0x1FAA, U"\u1F6A\u0399"}, {0x1FAB, U"\u1F6B\u0399"},
    {0x1FAC, U"\u1F6C\u0399"}, {0x1FAD, U"\u1F6D\u0399"}, {0x1FAE, U"\u1F6E\u0399"},
    {0x1FAF, U"\u1F6F\u0399"}, {0x1FB2, U"\u1FBA\u0399"}, {0x1FB3, U"\u0391\u0399"},
    {0x1FB4, U"\u0386\u0399"}, {0x1FB6, U"\u0391\u0342"}, {0x1FB7, U"\u0391\u0342\u0399"},
    {0x1FBC, U"\u0391\u0399"}, {0x1FC2, U"\u1FCA\u0399"}, {0x1FC3, U"\u0397\u0399"},
    {0x1FC4, U"\u0389\u0399"}, {0x1FC6, U"\u0397\u0342"}, {0x1FC7, U"\u0397\u0342\u0399"},
    {0x1FCC, U"\u0397\u0399"}, {0x1FD2, U"\u0399\u0308\u0300"}, {0x1FD3, U"\u0399\u0308\u0301"},
    {0x1FD6, U"\u0399\u0342"}, {0x1FD7, U"\u0399\u0308\u0342"}, {0x1FE2, U"\u03A5\u0308\u0300"},
    {0x1FE3, U"\u03A5\u0308\u0301"}, {0x1FE4, U"\u03A1\u0313"}, {0x1FE6, U"\u03A5\u0342"},
    {0x1FE7, U"\u03A5\u0308\u0342"}, {0x1FF2, U"\u1FFA\u0399"}, {0x1FF3, U"\u03A9\u0399"},
    {0x1FF4, U"\u038F\u0399"}, {0x1FF6, U"\u03A9\u0342"}, {0x1FF7, U"\u03A9\u0342\u0399"},
    {0x1FFC, U"\u03A9\u0399"}, {0xFB00, U"FF"}, {0xFB01, U"FI"}, {0xFB02, U"FL"},
    {0xFB03, U"FFI"}, {0xFB04, U"FFL"}, {0xFB05, U"ST"}, {0xFB06, U"ST"},
    {0xFB13, U"\u0544\u0546"}, {0xFB14, U"\u0544\u0535"}, {0xFB15, U"\u0544\u053B"},
    {0xFB16, U"\u054E\u0546"}, {0xFB17, U"\u0544\u053D"},
});

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

void append_upper(std::string& out, char32_t c) {
  const auto row = std::ranges::lower_bound(kSpecialUpper, c, {}, &SpecialCase::from);
  if (row != kSpecialUpper.end() && row->from == c) {
    for (const char32_t part : row->upper) append_utf8(out, part);
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT; }

void append_title(std::string& out, char32_t c) {
  if (c == 0xDF) return static_cast<void>(out.append("Ss"));
  append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

// `before_cased` and the look-ahead decide between the two small sigmas.
void append_lower(std::string& out, std::string_view text, size_t next, char32_t c, bool before_cased) {
  if (c == 0x130) return static_cast<void>(out.append("i\xCC\x87"));
  if (c == 0x3A3) {
    bool after_cased = false;
    if (next < text.size()) after_cased = is_cased(decode_utf8(text, next));
    return append_utf8(out, before_cased && !after_cased ? 0x3C2 : 0x3C3);
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || i + length > text.size()) return false;
    const size_t start = i;
    if (decode_utf8(text, i) == 0xFFFD && text.substr(start, 3) != "\xEF\xBF\xBD") return false;
  }
  return true;
}

char32_t decode_utf8(std::string_view text, size_t& pos) {
  const auto lead = static_cast<unsigned char>(text[pos++]);
  if (lead < 0x80) return lead;
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  if (lead < 0xC2 || lead > 0xF4 || pos + more > text.size()) return 0xFFFD;
  char32_t c = lead & (0x3F >> more);
  for (int i = 0; i < more; ++i) {
    if (!is_continuation(text[pos + i])) return 0xFFFD;
    c = c << 6 | (static_cast<unsigned char>(text[pos + i]) & 0x3F);
  }
  constexpr std::array<char32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
  if (c < kLeast[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0xFFFD;
  pos += more;
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD;
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
    return;
  }
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr std::array<int, 4> kLead = {0, 0xC0, 0xE0, 0xF0};
  out.push_back(static_cast<char>(kLead[more] | c >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) out.push_back(static_cast<char>(0x80 | (c >> (6 * i) & 0x3F)));
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return !is_continuation(c); }));
}

size_t byte_offset(std::string_view text, size_t n) {
  size_t i = 0;
  while (i < text.size()) {
    if (!is_continuation(text[i])) {
      if (n == 0) return i;
      --n;
    }
    ++i;
  }
  return i;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_alpha(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }

bool is_digit(char32_t c) {
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468);
}

bool is_numeric(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }

bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA; }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  const auto k = category(c);
  return k != UTF8PROC_CATEGORY_CN && k < UTF8PROC_CATEGORY_ZS;
}

bool is_identifier_start(char32_t c) { return c == '_' || is_alpha(c) || category(c) == UTF8PROC_CATEGORY_NL; }

bool is_identifier_part(char32_t c) {
  const auto k = category(c);
  return is_identifier_start(c) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_MN ||
         k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_PC;
}

std::string_view trim_left(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    size_t next = pos;
    if (!is_space(decode_utf8(text, next))) break;
    pos = next;
  }
  return text.substr(pos);
}

std::string_view trim_right(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t start = end - 1;
    while (start > 0 && end - start < 4 && is_continuation(text[start])) --start;
    size_t next = start;
    if (!is_space(decode_utf8(text, next)) || next != end) break;
    end = start;
  }
  return text.substr(0, end);
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) append_upper(out, decode_utf8(text, i));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool before_cased = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    append_lower(out, text, i, c, before_cased);
    before_cased = is_cased(c);
  }
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    in_word ? append_lower(out, text, i, c, true) : append_title(out, c);
    in_word = is_cased(c);
  }
  return out;
}

std::string to_capitalized(std::string_view text) {
  std::string out;
  if (text.empty()) return out;
  size_t i = 0;
  const char32_t first = decode_utf8(text, i);
  append_title(out, first);
  return out + to_lower(text.substr(i));
}

std::string swap_case(std::string_view text) {
  std::string out;
  bool before_cased = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    is_upper(c) ? append_lower(out, text, i, c, before_cased) : append_upper(out, c);
    before_cased = is_cased(c);
  }
  return out;
}

}  // namespace atom::jinja
