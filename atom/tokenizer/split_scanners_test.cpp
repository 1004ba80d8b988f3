// Every hand-written scanner against PCRE2 on random text of few, telling characters.
#include "atom/tokenizer/split_scanners.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "atom/tokenizer/regex.h"
#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

const char* const kPatterns[] = {
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"(\p{N}{1,3})",
    R"(\p{N})",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

std::string random_text(std::mt19937& random) {
  static const char* const kPieces[] = {
      "a",  "B",  "é",      "É",      "ǅ",    "ʰ",  "ª",      "中",     "文",     "々",  "〇",
      "あ", "ー", "\u0301", "\u0903", "1",    "٣",  "½",      "'",      "'s",     "'LL", "'\u017f",
      "re", " ",  " ",      "\t",     "\n",   "\r", "\u00a0", "\u3000", "\u2028", "!",   "/",
      "$",  "。", "😀",      "\u200d", "\x01", "_",  "\u0e01", "\u0e31"};
  std::string text;
  for (size_t n = random() % 14; n > 0; --n) text += kPieces[random() % std::size(kPieces)];
  return text;
}

TEST(SplitScanners, EqualPcre2MatchForMatch) {
  std::mt19937 random(3);
  for (const char* pattern : kPatterns) {
    const Scanner scanner = find_scanner(pattern);
    ASSERT_NE(scanner, nullptr) << pattern;
    auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex) << regex.error().message;
    for (int round = 0; round < 20000; ++round) {
      const std::string text = random_text(random);
      Regex::Match match{};
      size_t at = 0;
      for (bool found = !text.empty() && regex->find(text, 0, match); at < text.size();) {
        const size_t end = scanner(text, at);
        if (!found || at < match.begin) {
          ASSERT_EQ(end, at) << pattern << " on " << testing::PrintToString(text);
          at += utf8_length(text[at]);
          continue;
        }
        ASSERT_EQ(end, match.end) << pattern << " on " << testing::PrintToString(text) << " at "
                                  << at;
        at = end;
        found = regex->find(text, at, match);
      }
    }
  }
  EXPECT_EQ(find_scanner("unknown"), nullptr);
}

}  // namespace
}  // namespace atom
