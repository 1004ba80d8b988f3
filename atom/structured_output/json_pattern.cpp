#include "atom/structured_output/json_pattern.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "atom/structured_output/char_set.h"

namespace atom {
namespace {

constexpr int kMaxNesting = 64;
constexpr int64_t kMaxCount = 1 << 16;
// Beyond it the library's automaton of an expression counts with a state, which is right where one
// way leads to it; else it may merge it with others, so that (a{150}|x) matches aax. The rules that
// it makes of what it has no automaton for count well, and slowly.
constexpr int64_t kMaxUnrolled = 128;

// What may stand in a JSON string as it is; surrogates are no characters of UTF-8.
const CharSet kRaw = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0xd7ff}, {0xe000, kMaxCharacter}};
constexpr std::array<std::pair<uint32_t, char>, 7> kShortEscapes = {
    {{'"', '"'}, {'\\', '\\'}, {8, 'b'}, {12, 'f'}, {10, 'n'}, {13, 'r'}, {9, 't'}}};

// Raw or with such an escape; other control characters only where a pattern names nothing else.
const CharSet kNamed = {{8, 10}, {12, 13}, {0x20, 0xd7ff}, {0xe000, kMaxCharacter}};

const CharSet kDigits = {{'0', '9'}};
const CharSet kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
// Spaces of every engine, and of any engine: \s is read narrowly and \S too.
const CharSet kSpaces = {{9, 13}, {' ', ' '}};
const CharSet kAnySpaces = {{9, 13},          {0x1c, ' '},      {0x85, 0x85},     {0xa0, 0xa0},
                            {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                            {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
const CharSet kLineEnds = {{10, 10}, {13, 13}, {0x2028, 0x2029}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(uint32_t c) { return kWord.contains(c) && c != '_'; }

std::string written(uint32_t character) {
  if (is_alnum(character)) return {static_cast<char>(character)};
  return character <= 0xffff ? str_format("\\u{:04x}", character)
                             : str_format("\\u{{{:x}}}", character);
}

std::string written(const CharSet& set) {
  if (set.is_one()) return written(set.ranges()[0].first);
  std::string out = "[", last;
  for (const CharSet::Range& range : set.ranges()) {
    // The library takes an escaped ^ in front for a negation, so it goes to the end.
    const bool caret = range.first == '^';
    if (caret) last = written('^');
    const uint32_t first = range.first + (caret ? 1 : 0);
    if (first > range.last) continue;
    out += written(first);
    if (first < range.last) out += "-" + written(range.last);
  }
  return out + last + "]";
}

// One character of `set` in a JSON string, as one atom of an expression; empty: there is none.
std::string as_json(const CharSet& set, StringForm form) {
  std::string out;
  int branches = 0;
  const auto add = [&](const std::string& branch) { out += (branches++ > 0 ? "|" : "") + branch; };
  // The library lets in what is no UTF-8 where one range spans characters of two and three bytes,
  // or of three and four.
  for (const CharSet::Range& bytes :
       {CharSet::Range{0, 0x7ff}, {0x800, 0xffff}, {0x10000, kMaxCharacter}}) {
    const CharSet raw = set.within(kRaw).within({bytes});
    if (!raw.empty()) add(written(raw));
  }
  if (form == StringForm::kJson) {
    CharSet letters;
    for (const auto& [character, letter] : kShortEscapes) {
      if (set.contains(character)) letters.add(CharSet::one(static_cast<uint8_t>(letter)));
    }
    if (!letters.empty()) add(written('\\') + written(letters));
    for (uint32_t control = 0; control < 0x20 && set.within(kNamed).empty(); ++control) {
      if (set.contains(control)) add(str_format("{}u00{:02x}", written('\\'), control));
    }
  }
  return branches > 1 || out.starts_with(written('\\')) ? "(?:" + out + ")" : out;
}

class PatternReader {
 public:
  PatternReader(std::string_view pattern, StringForm form) : text_(pattern), form_(form) {}

  Result<JsonPattern> read() {
    if (text_.empty()) return finished({.text = as_json(CharSet().complement(), form_) + "*"});
    if (text_.starts_with("(?i)")) {
      any_case_ = true;
      at_ = 4;
    }
    ATOM_ASSIGN_OR_RETURN(Part whole, alternatives(0, {}));
    if (!done()) return refuse("unmatched ')'");
    return finished(std::move(whole));
  }

 private:
  struct Counts {
    int64_t min = 1;
    int64_t max = 1;  // -1: no end
  };
  struct Part {
    std::string text;             // empty: matches the empty text only
    bool anchored = false;        // has an anchor
    bool at_end = false;          // nothing may follow
    bool one_way = true;          // a path without choices or loops, see kMaxUnrolled
    bool counts_far = false;      // has a count beyond kMaxUnrolled
    std::string counted_class{};  // that the whole is `counts` of
    Counts counts{};
  };
  struct Before {
    bool nothing = true;
    bool one_way = true;
  };

  JsonPattern finished(Part whole) const {
    JsonPattern out{.text = std::move(whole.text),
                    .counted_class = std::move(whole.counted_class),
                    .min = whole.counts.min,
                    .max = whole.counts.max};
    if (out.text.empty()) out.text = "^$";
    // Such a group is a plain one to the rules, and an error to the automaton.
    if (as_rules_) out.text = "(?<>" + out.text + ")";
    out.escapes = !as_rules_ && out.text.find(written('\\')) != std::string::npos;
    return out;
  }

  std::unexpected<Error> refuse(std::string_view reason) const {
    return make_error(ErrorCode::kInvalidArgument, "at byte {}: {}", at_ + 1, reason);
  }
  bool done() const { return at_ == text_.size(); }
  bool next_is(char c) const { return !done() && text_[at_] == c; }
  bool take(std::string_view what) {
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }

  // Branches up to a ')' or the end.
  Result<Part> alternatives(int depth, Before before) {
    if (depth > kMaxNesting) return refuse("too many nested groups");
    ATOM_ASSIGN_OR_RETURN(Part all, sequence(depth, before));
    while (take("|")) {
      ATOM_ASSIGN_OR_RETURN(const Part branch, sequence(depth, before));
      all.text += "|" + branch.text;
      all.anchored |= branch.anchored;
      all.at_end |= branch.at_end;
      all.counts_far |= branch.counts_far;
      all.one_way = false;
      all.counted_class.clear();
      as_rules_ |= all.counts_far;
    }
    return all;
  }

  Result<Part> sequence(int depth, Before before) {
    Part all;
    while (!done() && !next_is('|') && !next_is(')')) {
      if (take("^")) {
        if (!before.nothing) return refuse("'^' is only supported at the start");
        all.anchored = true;
      } else if (take("$")) {
        all.anchored = all.at_end = true;
      } else {
        if (all.at_end) return refuse("'$' is only supported at the end");
        ATOM_ASSIGN_OR_RETURN(const Part part, item(depth, before));
        all.counted_class = all.text.empty() ? part.counted_class : "";
        all.counts = part.counts;
        before.nothing = before.nothing && part.text.empty();
        before.one_way = before.one_way && part.one_way;
        all.text += part.text;
        all.anchored |= part.anchored;
        all.at_end |= part.at_end;
        all.one_way &= part.one_way;
        all.counts_far |= part.counts_far;
      }
    }
    return all;
  }

  Result<Part> item(int depth, Before before) {
    if (next_is('(')) {
      ATOM_ASSIGN_OR_RETURN(Part part, group(depth, before));
      const size_t end = at_;
      ATOM_ASSIGN_OR_RETURN(const Counts counts, quantifier());
      if (at_ == end) return part;
      if (part.anchored) return refuse("an anchor in a repeated group is not supported");
      as_rules_ |= part.counts_far || is_far(counts);
      return Part{.text = repeated(part.text, counts), .one_way = false};
    }
    ATOM_ASSIGN_OR_RETURN(CharSet set, one_character());
    if (any_case_) set = set.any_case();
    Part part{.text = as_json(set, form_)};
    if (part.text.empty()) {
      return refuse(form_ == StringForm::kPlain
                        ? "a quote, a backslash or a control character is not supported here"
                        : "no character fits");
    }
    ATOM_ASSIGN_OR_RETURN(part.counts, quantifier());
    part.text = repeated(part.text, part.counts);
    part.counts_far = is_far(part.counts);
    part.one_way = part.counts.min == part.counts.max || (part.counts_far && part.counts.max >= 0);
    as_rules_ |= part.counts_far && !before.one_way;
    if (const CharSet raw = set.within(kRaw); !raw.empty() && !raw.is_one())
      part.counted_class = written(raw);
    return part;
  }

  static bool is_far(Counts counts) { return std::max(counts.min, counts.max) > kMaxUnrolled; }

  // `?` and `{n,}` in other words: the library's automaton takes (ab*)? for (ab*)?b*, and joins the
  // ends of what is repeated without end.
  static std::string repeated(const std::string& text, Counts counts) {
    if (counts.max == 0 || text.empty()) return "";
    if (counts.min == 1 && counts.max == 1) return text;
    if (counts.min == 0 && counts.max == 1) return "(?:" + text + "|)";
    if (counts.min == 0 && counts.max < 0) return text + "*";
    if (counts.min == 1 && counts.max < 0) return text + "+";
    if (counts.max < 0) return str_format("{}{{{}}}{}*", text, counts.min, text);
    if (counts.min == counts.max) return str_format("{}{{{}}}", text, counts.min);
    return str_format("{}{{{},{}}}", text, counts.min, counts.max);
  }

  Result<Part> group(int depth, Before before) {
    take("(");
    if (take("?")) {
      if (next_is('=') || next_is('!')) return refuse("lookahead is not supported");
      if (take("<=") || take("<!")) return refuse("lookbehind is not supported");
      if (take("<") || take("P<")) {
        const size_t end = text_.find_first_not_of(
            "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz", at_);
        if (end == at_ || end == std::string_view::npos || text_[end] != '>')
          return refuse("the name of a group must be of letters, digits and _");
        at_ = end + 1;
      } else if (!take(":")) {
        return refuse("this kind of group is not supported");
      }
    }
    ATOM_ASSIGN_OR_RETURN(Part part, alternatives(depth + 1, before));
    if (!take(")")) return refuse("a group is not closed");
    if (!part.text.empty()) part.text = "(?:" + part.text + ")";
    return part;
  }

  Result<int64_t> number() {
    int64_t value = 0;
    const size_t begin = at_;
    for (; !done() && is_digit(text_[at_]); ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > kMaxCount) return refuse("too many repetitions");
    }
    if (at_ == begin) return refuse("a number of repetitions is missing; a '{' itself is \\{");
    return value;
  }

  // None is once. Lazy ones match the same texts.
  Result<Counts> quantifier() {
    Counts counts;
    if (take("*")) {
      counts = {.min = 0, .max = -1};
    } else if (take("+")) {
      counts = {.min = 1, .max = -1};
    } else if (take("?")) {
      counts = {.min = 0, .max = 1};
    } else if (take("{")) {
      ATOM_ASSIGN_OR_RETURN(counts.min, number());
      counts.max = counts.min;
      if (take(",")) {
        counts.max = -1;
        if (!next_is('}')) {
          ATOM_ASSIGN_OR_RETURN(counts.max, number());
        }
      }
      if (!take("}")) return refuse("a repetition is not closed; a '{' itself is \\{");
      if (counts.max >= 0 && counts.max < counts.min)
        return refuse("the bounds of a repetition are in the wrong order");
    } else {
      return counts;
    }
    take("?");
    if (next_is('*') || next_is('+') || next_is('?') || next_is('{'))
      return refuse("two repetitions in a row are not supported");
    return counts;
  }

  Result<CharSet> one_character() {
    if (next_is('[')) return char_class();
    if (take(".")) return kLineEnds.complement();
    if (next_is('\\')) return escape(/*in_class=*/false, /*negated=*/false);
    if (next_is('*') || next_is('+') || next_is('?') || next_is('{'))
      return refuse("nothing to repeat");
    ATOM_ASSIGN_OR_RETURN(const uint32_t character, literal());
    return CharSet::one(character);
  }

  Result<CharSet> char_class() {
    take("[");
    const bool negated = take("^");
    if (next_is(']')) return refuse("an empty class is not supported; a ']' itself is \\]");
    CharSet set;
    while (!next_is(']')) {
      ATOM_ASSIGN_OR_RETURN(const CharSet first, class_atom(negated));
      if (!next_is('-') || text_.substr(at_).starts_with("-]")) {
        set.add(first);
        continue;
      }
      take("-");
      ATOM_ASSIGN_OR_RETURN(const CharSet last, class_atom(negated));
      if (!first.is_one() || !last.is_one()) {  // as in [\\w-.]: no range
        for (const CharSet& part : {first, CharSet::one('-'), last}) set.add(part);
        continue;
      }
      const CharSet::Range range{first.ranges()[0].first, last.ranges()[0].first};
      if (range.first > range.last) return refuse("a range is in the wrong order");
      set.add(range);
    }
    take("]");
    if (any_case_) set = set.any_case();
    return negated ? set.complement() : set;
  }

  Result<CharSet> class_atom(bool negated) {
    if (done()) return refuse("a class is not closed");
    if (next_is('\\')) return escape(/*in_class=*/true, negated);
    ATOM_ASSIGN_OR_RETURN(const uint32_t character, literal());
    return CharSet::one(character);
  }

  // A character of UTF-8.
  Result<uint32_t> literal() {
    const auto lead = static_cast<uint8_t>(text_[at_]);
    const size_t size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (size == 1) return static_cast<uint8_t>(text_[at_++]);
    uint32_t character = lead & (0x7fU >> size);
    if (lead < 0xc2 || lead > 0xf4 || at_ + size > text_.size()) return refuse("no UTF-8");
    for (size_t i = 1; i < size; ++i) {
      const auto byte = static_cast<uint8_t>(text_[at_ + i]);
      if ((byte & 0xc0) != 0x80) return refuse("no UTF-8");
      character = character << 6 | (byte & 0x3f);
    }
    at_ += size;
    return character;
  }

  // Of a class that is negated, \\s and \\S are the other way round: what is left is narrow again.
  static std::optional<CharSet> named_class(char letter, bool negated) {
    switch (letter) {
      case 'd':
        return kDigits;
      case 'D':
        return kDigits.complement();
      case 'w':
        return kWord;
      case 'W':
        return kWord.complement();
      case 's':
        return negated ? kAnySpaces : kSpaces;
      case 'S':
        return (negated ? kSpaces : kAnySpaces).complement();
      default:
        return std::nullopt;
    }
  }

  Result<CharSet> escape(bool in_class, bool negated) {
    take("\\");
    if (done()) return refuse("ends with a backslash");
    const char letter = text_[at_];
    if (const std::optional<CharSet> set = named_class(letter, negated)) {
      ++at_;
      return *set;
    }
    if (letter == 'b' && in_class) {
      ++at_;
      return CharSet::one(8);
    }
    if (letter == 'b' || letter == 'B') return refuse("word boundaries are not supported");
    if (letter == 'p' || letter == 'P') return refuse("Unicode properties are not supported");
    if (letter == 'k' || (letter >= '1' && letter <= '9'))
      return refuse("backreferences are not supported");
    ATOM_ASSIGN_OR_RETURN(const uint32_t character, character_escape());
    return CharSet::one(character);
  }

  Result<uint32_t> character_escape() {
    const char letter = text_[at_];
    constexpr std::string_view kLetters = "nrtfv0", kControls{"\n\r\t\f\v\0", 6};
    if (const size_t known = kLetters.find(letter); known != std::string_view::npos) {
      ++at_;
      if (letter == '0' && !done() && is_digit(text_[at_]))
        return refuse("octal escapes are not supported");
      return static_cast<uint8_t>(kControls[known]);
    }
    if (take("x")) return hex(2, 2);
    if (take("u")) return unicode_escape();
    if (take("c")) {
      if (done() || !is_alnum(static_cast<uint8_t>(text_[at_])) || is_digit(text_[at_]))
        return refuse("\\c needs a letter");
      return static_cast<uint32_t>(text_[at_++]) % 32;
    }
    if (is_alnum(static_cast<uint8_t>(letter))) return refuse("this escape is not supported");
    return literal();
  }

  Result<uint32_t> unicode_escape() {
    if (take("{")) {
      ATOM_ASSIGN_OR_RETURN(const uint32_t character, hex(1, 6));
      if (!take("}") || character > kMaxCharacter) return refuse("\\u{...} is no character");
      return character;
    }
    ATOM_ASSIGN_OR_RETURN(const uint32_t unit, hex(4, 4));
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    if (unit > 0xdbff || !take("\\u")) return refuse("half a surrogate pair");
    ATOM_ASSIGN_OR_RETURN(const uint32_t low, hex(4, 4));
    if (low < 0xdc00 || low > 0xdfff) return refuse("half a surrogate pair");
    return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
  }

  Result<uint32_t> hex(int min_digits, int max_digits) {
    uint32_t value = 0;
    int digits = 0;
    for (; digits < max_digits && !done(); ++digits, ++at_) {
      const size_t digit = std::string_view("0123456789abcdefABCDEF").find(text_[at_]);
      if (digit == std::string_view::npos) break;
      value = value * 16 + static_cast<uint32_t>(digit < 16 ? digit : digit - 6);
    }
    if (digits < min_digits) return refuse("hexadecimal digits are missing");
    return value;
  }

  const std::string_view text_;
  const StringForm form_;
  size_t at_ = 0;
  bool any_case_ = false;
  bool as_rules_ = false;  // what the automaton would get wrong
};

}  // namespace

Result<JsonPattern> json_string_pattern(std::string_view pattern, StringForm form) {
  return PatternReader(pattern, form).read();
}

}  // namespace atom
