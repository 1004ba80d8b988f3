// Hand-written word scanners against PCRE2: the first byte picks the pattern, the rest is the text
// (bytes that are not UTF-8 become U+FFFD, as before tokenising). Texts with code points that this
// PCRE2's Unicode does not know yet are passed over: our tables are newer.
#include <optional>
#include <string>
#include <vector>

#include "atom/tokenizer/regex.h"
#include "atom/tokenizer/split_scanners.h"
#include "atom/tokenizer/unicode.h"
#include "tests/fuzz/check.h"
#include "tests/fuzz/split_patterns.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 2048) return 0;
  constexpr size_t kCount = std::size(atom::fuzz::kSplitPatterns);
  static std::vector<std::optional<atom::Regex>> regexes(kCount);
  const size_t which = data[0] % kCount;
  const char* pattern = atom::fuzz::kSplitPatterns[which];
  if (!regexes[which]) {
    auto compiled = atom::Regex::compile(pattern);
    FUZZ_CHECK(compiled.has_value());
    regexes[which].emplace(std::move(*compiled));
  }
  const atom::Scanner scanner = atom::find_scanner(pattern);
  FUZZ_CHECK(scanner != nullptr);
  const std::string text =
      atom::fuzz::well_formed({reinterpret_cast<const char*>(data) + 1, size - 1});
  static const atom::Regex unassigned = [] {
    auto compiled = atom::Regex::compile("\\p{Cn}");
    FUZZ_CHECK(compiled.has_value());
    return std::move(*compiled);
  }();
  atom::Regex::Match match{};
  if (text.empty() || unassigned.find(text, 0, match)) return 0;
  bool found = regexes[which]->find(text, 0, match);
  for (size_t at = 0; at < text.size();) {
    const size_t end = scanner(text, at);
    if (!found || at < match.begin) {
      FUZZ_CHECK(end == at);
      at += atom::utf8_length(text[at]);
      continue;
    }
    FUZZ_CHECK(end == match.end && end > at);
    at = end;
    found = at < text.size() && regexes[which]->find(text, at, match);
  }
  return 0;
}
