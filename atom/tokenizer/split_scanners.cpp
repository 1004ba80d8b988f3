#include "atom/tokenizer/split_scanners.h"

#include <cstdint>

#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

// Looks characters up one at a time; ASCII first, since most text is.
class Cursor {
 public:
  explicit Cursor(std::string_view text)
      : table_(detail::class_table()), data_(text.data()), size_(text.size()) {}

  size_t size() const { return size_; }
  bool at_end(size_t i) const { return i >= size_; }
  char byte(size_t i) const { return data_[i]; }
  bool is(size_t i, char c) const { return i < size_ && data_[i] == c; }
  bool is_newline(size_t i) const { return i < size_ && (data_[i] == '\r' || data_[i] == '\n'); }

  // Class of the character at i (< size), and its length.
  CharClass at(size_t i, size_t& length) const {
    const auto b = static_cast<uint8_t>(data_[i]);
    if (b < 0x80) {
      length = 1;
      return static_cast<CharClass>(table_.ascii[b]);
    }
    const CodePoint c = decode_utf8(data_ + i);
    length = c.length;
    return static_cast<CharClass>(
        table_.classes[size_t{table_.block[c.value >> 8]} * 256 + (c.value & 0xFF)]);
  }
  bool in(size_t i, CharSet set) const {
    size_t length;
    return i < size_ && contains(set, at(i, length));
  }
  // End of the run of characters of `set` from i on, at most `limit` characters.
  size_t run(size_t i, CharSet set) const {
    size_t length;
    while (i < size_ && contains(set, at(i, length))) i += length;
    return i;
  }
  size_t run(size_t i, CharSet set, int limit) const {
    size_t length;
    while (limit-- > 0 && i < size_ && contains(set, at(i, length))) i += length;
    return i;
  }
  // Start of the character before i (> 0).
  size_t before(size_t i) const {
    do --i;
    while ((data_[i] & 0xC0) == 0x80);
    return i;
  }

 private:
  const detail::ClassTable& table_;
  const char* data_;
  size_t size_;
};

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// 's 't 're 've 'm 'll 'd at i, letters of either case when any_case; then U+017F is an s as well
// (it folds to s). Returns the end, or i.
size_t contraction(const Cursor& t, size_t i, bool any_case) {
  if (!t.is(i, '\'') || i + 1 >= t.size()) return i;
  const auto letter = [&](size_t k) {
    return k < t.size() ? (any_case ? lower(t.byte(k)) : t.byte(k)) : '\0';
  };
  const char c = letter(i + 1);
  switch (c) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return i + 2;
    case 'r':
    case 'v':
      return letter(i + 2) == 'e' ? i + 3 : i;
    case 'l':
      return letter(i + 2) == 'l' ? i + 3 : i;
    default:
      break;
  }
  if (any_case && i + 2 < t.size() && t.byte(i + 1) == '\xC5' && t.byte(i + 2) == '\xBF')
    return i + 3;
  return i;
}

// \s+(?!\S)|\s+ for a run [i, end) of white space, end > i: all of it at the end of the text, else
// all but its last character, else that character.
size_t spaces_before_word(const Cursor& t, size_t i, size_t end) {
  if (t.at_end(end)) return end;
  const size_t last = t.before(end);
  return last > i ? last : end;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ at a white space character.
size_t white_space(const Cursor& t, size_t i) {
  const size_t end = t.run(i, kCharSpace);
  for (size_t k = end; k > i;) {
    k = t.before(k);
    if (t.is_newline(k)) return k + 1;
  }
  return spaces_before_word(t, i, end);
}

// Characters that `[^\s\p{L}\p{N}]` excludes.
constexpr CharSet kAll = ~CharSet{0};
constexpr CharSet kSymbols = kAll & ~(kCharSpace | kCharL | kCharN);

// ` ?[^\s\p{L}\p{N}]+[\r\n]*` (slash: `[\r\n/]*`) at i, or i.
template <bool kSlash>
size_t symbols_and_newlines(const Cursor& t, size_t i) {
  const size_t start = i + (t.is(i, ' ') ? 1 : 0);
  size_t end = t.run(start, kSymbols);
  if (end == start) return i;
  while (t.is_newline(end) || (kSlash && t.is(end, '/'))) ++end;
  return end;
}

size_t scan_gpt2(std::string_view text, size_t i) {
  const Cursor t(text);
  if (const size_t end = contraction(t, i, false); end > i) return end;
  const size_t start = i + (t.is(i, ' ') ? 1 : 0);
  if (start < t.size()) {
    size_t length;
    const CharClass c = t.at(start, length);
    if (contains(kCharL, c)) return t.run(start, kCharL);
    if (contains(kCharN, c)) return t.run(start, kCharN);
    if (contains(kSymbols, c)) return t.run(start, kSymbols);
  }
  return spaces_before_word(t, i, t.run(i, kCharSpace));
}

// GPT-4, Llama 3, Qwen 2/3, GLM-4: runs of letters with one character before them, kDigits digits
// at a time.
template <int kDigits, CharSet kLetters>
size_t scan_letters(std::string_view text, size_t i) {
  const Cursor t(text);
  if (const size_t end = contraction(t, i, true); end > i) return end;
  size_t length;
  const CharClass c = t.at(i, length);
  if (contains(kLetters, c)) return t.run(i + length, kLetters);
  const bool plain = !contains(kCharL | kCharN, c) && !t.is_newline(i);
  if (plain && t.in(i + length, kLetters)) return t.run(i + length, kLetters);
  if (contains(kCharN, c)) return t.run(i, kCharN, kDigits);
  if (const size_t end = symbols_and_newlines<false>(t, i); end > i) return end;
  return white_space(t, i);
}

constexpr CharSet kUpperSide = char_set(kLu) | char_set(kLt) | kCharLmLo | kCharM;
constexpr CharSet kLowerSide = char_set(kLl) | kCharLmLo | kCharM;

// U*L+ from `start` on, where U and L share the caseless classes; `start` when it does not match.
size_t upper_then_lower(const Cursor& t, size_t start, CharSet upper, CharSet lower) {
  const size_t upper_end = t.run(start, upper);
  const size_t lower_end = t.run(upper_end, lower);
  if (lower_end > upper_end) return lower_end;
  // U* gives back characters until L+ can begin at one of them.
  for (size_t k = upper_end; k > start;) {
    k = t.before(k);
    if (t.in(k, lower)) return t.run(k, lower);
  }
  return start;
}

// U+L* from `start` on, or `start`.
size_t upper_run(const Cursor& t, size_t start, CharSet upper, CharSet lower) {
  const size_t end = t.run(start, upper);
  return end > start ? t.run(end, lower) : start;
}

struct CasedOptions {
  int digits = 3;
  bool contractions = true;
  bool slash = true;  // [\r\n/]* after symbols
  bool han = false;   // [\p{Han}]+ first, and Han is not a letter
};

// GPT-4o (o200k), Tekken, Kimi-K2: words split at a change from lower to upper case.
template <CasedOptions kOptions>
size_t scan_cased(std::string_view text, size_t i) {
  const Cursor t(text);
  constexpr CharSet kNoHan = kOptions.han ? ~kCharHan : kAll;
  constexpr CharSet kUpper = kUpperSide & kNoHan, kLower = kLowerSide & kNoHan;
  if (kOptions.han) {
    if (const size_t end = t.run(i, kCharHan); end > i) return end;
  }
  size_t length;
  const CharClass c = t.at(i, length);
  const bool plain = !contains(kCharL | kCharN, c) && !t.is_newline(i);
  // `[^\r\n\p{L}\p{N}]?U*L+` and then `[^\r\n\p{L}\p{N}]?U+L*`; the character in front is given up
  // only when nothing matches behind it (it may itself be a mark, which is in U and in L).
  const size_t behind = plain ? i + length : i;
  size_t end = upper_then_lower(t, behind, kUpper, kLower);
  if (end == behind) end = plain ? upper_then_lower(t, i, kUpper, kLower) : i;
  if (end == i) {
    end = upper_run(t, behind, kUpper, kLower);
    if (end == behind) end = plain ? upper_run(t, i, kUpper, kLower) : i;
  }
  if (end > i) return kOptions.contractions ? contraction(t, end, true) : end;
  if (contains(kCharN, c)) return t.run(i, kCharN, kOptions.digits);
  if (const size_t e = symbols_and_newlines<kOptions.slash>(t, i); e > i) return e;
  return t.in(i, kCharSpace) ? white_space(t, i) : i;
}

// DeepSeek V3's three patterns.
size_t scan_three_digits(std::string_view text, size_t i) { return Cursor(text).run(i, kCharN, 3); }
size_t scan_one_digit(std::string_view text, size_t i) { return Cursor(text).run(i, kCharN, 1); }

size_t scan_cjk(std::string_view text, size_t i) {
  while (i < text.size() && static_cast<uint8_t>(text[i]) >= 0xE3) {
    const CodePoint c = decode_utf8(text.data() + i);
    const bool inside =
        (c.value >= 0x4E00 && c.value <= 0x9FA5) || (c.value >= 0x3040 && c.value <= 0x30FF);
    if (!inside) break;
    i += c.length;
  }
  return i;
}

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_ascii_punct(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

size_t scan_deepseek(std::string_view text, size_t i) {
  const Cursor t(text);
  if (is_ascii_punct(t.byte(i)) && i + 1 < t.size() && is_ascii_letter(t.byte(i + 1))) {
    size_t end = i + 2;
    while (end < t.size() && is_ascii_letter(t.byte(end))) ++end;
    return end;
  }
  size_t length;
  const CharClass c = t.at(i, length);
  constexpr CharSet kWord = kCharL | kCharM, kMarks = kCharP | kCharS;
  const bool plain = !contains(kCharL | kMarks, c) && !t.is_newline(i);
  if (plain && t.in(i + length, kWord)) return t.run(i + length, kWord);
  if (contains(kWord, c)) return t.run(i, kWord);
  const size_t start = i + (t.is(i, ' ') ? 1 : 0);
  size_t end = t.run(start, kMarks);
  if (end > start) {
    while (t.is_newline(end)) ++end;
    return end;
  }
  return contains(kCharSpace, c) ? white_space(t, i) : i;
}

#define ATOM_TAIL R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define ATOM_SLASH_TAIL R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define ATOM_CONTRACTIONS R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define ATOM_LETTERS R"([^\r\n\p{L}\p{N}]?\p{L}+)"
#define ATOM_CASED_A \
  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
#define ATOM_CASED_B \
  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
#define ATOM_KIMI_U R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]])"
#define ATOM_KIMI_L R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]])"

struct KnownPattern {
  std::string_view pattern;
  Scanner scanner;
};

constexpr KnownPattern kKnownPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", scan_gpt2},
    {ATOM_CONTRACTIONS "|" ATOM_LETTERS R"(|\p{N}{1,3}|)" ATOM_TAIL, scan_letters<3, kCharL>},
    {ATOM_CONTRACTIONS "|" ATOM_LETTERS R"(|\p{N}|)" ATOM_TAIL, scan_letters<1, kCharL>},
    {ATOM_CASED_A ATOM_CONTRACTIONS "?|" ATOM_CASED_B ATOM_CONTRACTIONS
                                    R"(?|\p{N}{1,3}|)" ATOM_SLASH_TAIL,
     scan_cased<CasedOptions{}>},
    {ATOM_CASED_A "|" ATOM_CASED_B R"(|\p{N}|)" ATOM_SLASH_TAIL,
     scan_cased<CasedOptions{.digits = 1, .contractions = false}>},
    {R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?)" ATOM_KIMI_U "*" ATOM_KIMI_L "+" ATOM_CONTRACTIONS
     R"(?|[^\r\n\p{L}\p{N}]?)" ATOM_KIMI_U "+" ATOM_KIMI_L "*" ATOM_CONTRACTIONS
     R"(?|\p{N}{1,3}|)" ATOM_TAIL,
     scan_cased<CasedOptions{.slash = false, .han = true}>},
    {R"(\p{N}{1,3})", scan_three_digits},
    {R"(\p{N})", scan_one_digit},
    {"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", scan_cjk},
    {"[!\"#$%&'()*+,\\-./"
     ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
     " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
     scan_deepseek},
};

}  // namespace

const char* const kGpt2Pattern = kKnownPatterns[0].pattern.data();

Scanner find_scanner(std::string_view pattern) {
  for (const KnownPattern& known : kKnownPatterns) {
    if (known.pattern == pattern) return known.scanner;
  }
  return nullptr;
}

}  // namespace atom
