#include "atom/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "atom/core/check.h"
#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

int utf8proc_options(UnicodeForm form) {
  switch (form) {
    case UnicodeForm::kNfc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case UnicodeForm::kNfd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case UnicodeForm::kNfkc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    case UnicodeForm::kNfkd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  }
  return 0;
}

// Characters that the reference never moves and never joins to another, unlike utf8proc: marks
// younger than the reference's Unicode, U+11A7 (utf8proc 2.8 drops it after a Hangul syllable) and
// U+11930 (a pair that was added in Unicode 13).
bool is_copied_as_is(char32_t c) {
  if (c == 0x11A7 || c == 0x11930) return true;
  if (c < detail::kUnorderedMarks[0][0]) return false;
  for (size_t i = 0; i < detail::kNumUnorderedMarks; ++i) {
    if (c < detail::kUnorderedMarks[i][0]) return false;
    if (c <= detail::kUnorderedMarks[i][1]) return true;
  }
  return false;
}

// First such character at or after `from`, or the end.
size_t find_copied_as_is(std::string_view text, size_t from) {
  constexpr uint8_t kFirstLead = 0xDF;  // U+07C0 and up
  for (size_t i = from; i < text.size(); ++i) {
    const auto b = static_cast<uint8_t>(text[i]);
    if (b >= kFirstLead && is_copied_as_is(decode_utf8(text.data() + i).value)) return i;
  }
  return text.size();
}

// Orders each run of combining marks by its class. (utf8proc's own way takes quadratic time.)
void order_marks(std::vector<utf8proc_int32_t>& chars) {
  const auto combining = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (size_t i = 0; i < chars.size(); ++i) {
    if (combining(chars[i]) == 0) continue;
    const size_t begin = i;
    while (i < chars.size() && combining(chars[i]) != 0) ++i;
    std::stable_sort(
        chars.begin() + begin, chars.begin() + i,
        [&](utf8proc_int32_t x, utf8proc_int32_t y) { return combining(x) < combining(y); });
  }
}

void append_normalized(UnicodeForm form, std::string_view text, std::string& out) {
  const auto options = static_cast<utf8proc_option_t>(utf8proc_options(form));
  const auto decompose =
      static_cast<utf8proc_option_t>((options & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE);
  std::vector<utf8proc_int32_t> chars;
  chars.reserve(text.size() / 2 + 8);
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = decode_utf8(text.data() + i);
    i += c.length;
    utf8proc_int32_t parts[32];  // the longest decomposition has 18
    const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value),
                                                       parts, std::size(parts), decompose, nullptr);
    ATOM_CHECK(n >= 0 && n <= std::ssize(parts)) << "utf8proc: " << n;
    chars.insert(chars.end(), parts, parts + n);
  }
  order_marks(chars);
  auto count = static_cast<utf8proc_ssize_t>(chars.size());
  if (options & UTF8PROC_COMPOSE) count = utf8proc_normalize_utf32(chars.data(), count, options);
  ATOM_CHECK(count >= 0) << "utf8proc: " << count;
  for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(static_cast<char32_t>(chars[i]), out);
}

bool apply(const UnicodeStep& step, std::string_view text, std::string& out) {
  if (step.form == UnicodeForm::kNfc && is_certainly_nfc(text)) return false;
  out.clear();
  for (size_t at = 0; at < text.size();) {
    const size_t mark = find_copied_as_is(text, at);
    append_normalized(step.form, text.substr(at, mark - at), out);
    at = mark;
    if (mark == text.size()) break;
    const size_t n = utf8_length(text[mark]);
    out.append(text, mark, n);
    at += n;
  }
  return true;
}

bool apply(const PrependStep& step, std::string_view text, std::string& out) {
  if (text.empty()) return false;
  out.assign(step.text);
  out += text;
  return true;
}

bool replace_char(char from, std::string_view to, std::string_view text, std::string& out) {
  out.clear();
  out.reserve(text.size() + text.size() / 4 * (to.size() > 1));
  size_t done = 0;
  while (done < text.size()) {
    const void* hit = std::memchr(text.data() + done, from, text.size() - done);
    const size_t at = hit ? static_cast<const char*>(hit) - text.data() : text.size();
    out.append(text, done, at - done);
    if (hit) out += to;
    done = at + 1;
  }
  return true;
}

bool apply(const ReplaceStep& step, std::string_view text, std::string& out) {
  if (!step.regex) {
    if (text.find(step.literal) == std::string_view::npos) return false;
    if (step.literal.size() == 1) return replace_char(step.literal[0], step.content, text, out);
  }
  out.clear();
  size_t done = 0;
  for (size_t at = 0; at <= text.size();) {
    Regex::Match m{};
    if (step.regex) {
      if (!step.regex->find(text, at, m)) break;
    } else {
      m.begin = text.find(step.literal, at);
      if (m.begin == std::string_view::npos) break;
      m.end = m.begin + step.literal.size();
    }
    out.append(text, done, m.begin - done);
    out += step.content;
    done = m.end;
    at = m.end > m.begin ? m.end : m.end + (m.end < text.size() ? utf8_length(text[m.end]) : 1);
  }
  out.append(text, done);
  return true;
}

bool apply(const StripStep& step, std::string_view text, std::string& out) {
  const size_t left = step.left ? leading_space(text) : 0;
  const size_t right = step.right && left < text.size() ? trailing_space(text) : 0;
  out.assign(text.substr(left, text.size() - left - right));
  return true;
}

// Below U+0300 nothing composes with what stands before it, and everything is its own NFC.
bool below_u0300(std::string_view text, size_t& i) {
  while (i < text.size()) {
    uint64_t word;
    if (i + 8 <= text.size()) {
      std::memcpy(&word, text.data() + i, 8);
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const auto b = static_cast<uint8_t>(text[i]);
    if (b >= 0xCC) return false;
    i += b < 0x80 ? 1 : 2;
  }
  return true;
}

// CJK, kana, Hangul syllables, general punctuation: starters that are their own NFC and never the
// second half of a composition. Ranges where that holds without exception.
bool is_plain(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x3000 && c <= 0x3029) || (c >= 0x3030 && c <= 0x3098) ||
         (c >= 0x309B && c <= 0x312F) || (c >= 0xAC00 && c <= 0xD7A3) ||
         (c >= 0xFF00 && c <= 0xFFEF) || (c >= 0x2010 && c <= 0x206F) ||
         (c >= 0x0400 && c <= 0x0482) || (c >= 0x048A && c <= 0x052F) ||
         (c >= 0x2190 && c <= 0x2319) || (c >= 0x2460 && c <= 0x2ADB) ||
         (c >= 0x1F000 && c <= 0x1FAFF);
}

}  // namespace

bool is_certainly_nfc(std::string_view text) {
  size_t i = 0;
  while (!below_u0300(text, i)) {
    const CodePoint c = decode_utf8(text.data() + i);
    if (!is_plain(c.value)) return false;
    i += c.length;
  }
  return true;
}

size_t leading_space(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const CodePoint c = decode_utf8(text.data() + i);
    if (char_class(c.value) != kSpace) break;
    i += c.length;
  }
  return i;
}

size_t trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t i = end - 1;
    while (i > 0 && (text[i] & 0xC0) == 0x80) --i;
    if (char_class(decode_utf8(text.data() + i).value) != kSpace) break;
    end = i;
  }
  return text.size() - end;
}

void Normalizer::add(NormStep step) { steps_.push_back(std::move(step)); }

std::string_view Normalizer::run(std::string_view text, std::string& buffer) const {
  std::string next;
  for (const NormStep& step : steps_) {
    if (!std::visit([&](const auto& s) { return apply(s, text, next); }, step)) continue;
    buffer.swap(next);
    text = buffer;
  }
  return text;
}

}  // namespace atom
