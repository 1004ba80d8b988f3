// Code points, UTF-8 and character classes for the tokenizer. Classes follow the Unicode version of
// the `tokenizers` package (unicode_table.cpp is generated from it), not that of PCRE2 or utf8proc.
// To add a class: extend CharClass and scripts/generate_unicode_table.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace atom {

// Every code point has exactly one class. kHan*: script Han, by general category.
enum CharClass : uint8_t {
  kOther,  // controls, separators that are not white space, unassigned
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMark,
  kNumber,
  kPunct,
  kSymbol,
  kSpace,
  kHanLo,
  kHanLm,
  kHanNumber,
  kHanSymbol,
  kHanMark,
  kHanPunct,
};

// Sets of classes, one bit per class.
using CharSet = uint32_t;
constexpr CharSet char_set(CharClass c) { return CharSet{1} << c; }
inline constexpr CharSet kCharHan = char_set(kHanLo) | char_set(kHanLm) | char_set(kHanNumber) |
                                    char_set(kHanSymbol) | char_set(kHanMark) | char_set(kHanPunct);
inline constexpr CharSet kCharM = char_set(kMark) | char_set(kHanMark);
inline constexpr CharSet kCharN = char_set(kNumber) | char_set(kHanNumber);
inline constexpr CharSet kCharP = char_set(kPunct) | char_set(kHanPunct);
inline constexpr CharSet kCharS = char_set(kSymbol) | char_set(kHanSymbol);
inline constexpr CharSet kCharSpace = char_set(kSpace);
inline constexpr CharSet kCharLmLo =
    char_set(kLm) | char_set(kLo) | char_set(kHanLm) | char_set(kHanLo);
inline constexpr CharSet kCharL = char_set(kLu) | char_set(kLl) | char_set(kLt) | kCharLmLo;
constexpr bool contains(CharSet set, CharClass c) { return (set >> c) & 1; }

namespace detail {
extern const uint32_t kClassRuns[];
extern const size_t kNumClassRuns;
// Combining marks that the normalisers of the reference do not know: to them these are plain
// characters.
extern const uint32_t kUnorderedMarks[][2];  // first, last
extern const size_t kNumUnorderedMarks;

struct ClassTable {
  uint8_t ascii[128];
  uint16_t block[0x1100];  // code point >> 8 -> index of a block of 256 classes
  const uint8_t* classes;
};
// Expanded from the runs once per process.
const ClassTable& class_table();
}  // namespace detail

struct CodePoint {
  char32_t value;
  uint32_t length;  // bytes
};

// `p` points at well-formed UTF-8 (see sanitize_utf8).
inline CodePoint decode_utf8(const char* p) {
  const auto* b = reinterpret_cast<const uint8_t*>(p);
  if (b[0] < 0x80) return {b[0], 1};
  if (b[0] < 0xE0) return {char32_t((b[0] & 0x1Fu) << 6 | (b[1] & 0x3Fu)), 2};
  if (b[0] < 0xF0) {
    return {char32_t((b[0] & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu)), 3};
  }
  return {char32_t((b[0] & 7u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu)),
          4};
}
// Length of the character that starts with this byte of well-formed UTF-8.
inline uint32_t utf8_length(char first) {
  const auto b = static_cast<uint8_t>(first);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}
void append_utf8(char32_t c, std::string& out);

CharClass char_class(char32_t c);

// Length of the well-formed prefix of `text`.
size_t valid_utf8_prefix(std::string_view text);
// Appends `text`, each maximal ill-formed part replaced by one U+FFFD (the rule of Rust's
// from_utf8_lossy and of WHATWG). With `keep_incomplete`, an unfinished character at the very end
// is not appended; the number of bytes consumed is returned.
size_t append_lossy_utf8(std::string_view text, bool keep_incomplete, std::string& out);

// The GPT-2 alphabet that writes every byte as one printable character: byte -> code point and back
// (-1: the code point stands for no byte).
char32_t byte_to_alphabet(uint8_t byte);
int alphabet_to_byte(char32_t c);
// Appends the bytes that `token` spells, or returns false (and appends nothing) when a character of
// it is outside the alphabet.
bool append_alphabet_bytes(std::string_view token, std::string& out);

}  // namespace atom
