// json_pattern: what it writes, against the definition. Masks of grammars that use it:
// patterns_compiler_test.cpp.
#include "atom/structured_output/json_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "atom/structured_output/char_set.h"

namespace atom {
namespace {

using testing::HasSubstr;

std::string json(std::string_view pattern) {
  const Result<JsonPattern> out = json_string_pattern(pattern, StringForm::kJson);
  return out ? out->text : "refused: " + out.error().message;
}
std::string plain(std::string_view pattern) {
  const Result<JsonPattern> out = json_string_pattern(pattern, StringForm::kPlain);
  return out ? out->text : "refused: " + out.error().message;
}

TEST(JsonPattern, WritesWhatNeedsNoEscapeAsItIs) {
  const std::pair<const char*, const char*> kRows[] = {
      {"^[A-Z][a-z]{2,6}-[0-9]{3}$", R"([A-Z][a-z]{2,6}\u002d[0-9]{3})"},
      {"a|b*|c+?|(?:d|)e??", "a|b*|c+|(?:d|)(?:e|)"},
      {"^a$|^b$", "a|b"},
      {"(^a|b)c(d|e$)", "(?:a|b)c(?:d|e)"},
      {"(?<name>a)(?P<n2>b)(c)", "(?:a)(?:b)(?:c)"},
      {"a{0}b{1}c{2}d{3,}e{0,1}f{0,}g{1,}", "bc{2}d{3}d*(?:e|)f*g+"},
      {"^$", "^$"},
      {"()x", "x"},
      {R"(\d\w)", R"([0-9][0-9A-Z\u005fa-z])"},
      {R"([\w-.])", R"([\u002d-\u002e0-9A-Z\u005fa-z])"},
      {"[a-]", R"([\u002da])"},
      {"[_^]", R"([\u005f\u005e])"},
      {R"(\^)", R"(\u005e)"},
      {"(?i)a[^b-]", R"([Aa](?:[\u0020-\u0021\u0023-\u002c\u002e-A)"
                     R"(C-\u005b\u005d-ac-\u07ff]|[\u0800-\ud7ff\ue000-\uffff]|)"
                     R"([\u{10000}-\u{10ffff}]|\u005c[\u0022\u005cbfnrt]))"},
      {"\u00e4\u20ac\U0001f600", R"(\u00e4\u20ac\u{1f600})"},
      {R"(\ud83d\ude00\x41\cZ)", R"(\u{1f600}A(?:\u005cu001a))"},
      {"a{129}|b{2}", "(?<>a{129}|b{2})"},
      {"b*a{129}", "(?<>b*a{129})"},
      {"(a{129})?", "(?<>(?:(?:a{129})|))"},
      {"b{2}(a{129,200})c*", "b{2}(?:a{129,200})c*"},
      {"]}", R"(\u005d\u007d)"},
  };
  for (const auto& [pattern, written] : kRows) EXPECT_EQ(json(pattern), written) << pattern;
}

TEST(JsonPattern, EscapesWhatJsonEscapes) {
  EXPECT_EQ(json("\""), R"((?:\u005c\u0022))");
  EXPECT_EQ(json(R"(a\\)"), R"(a(?:\u005c\u005c))");
  EXPECT_EQ(json("\n"), R"((?:\u005cn))");
  EXPECT_EQ(json("[ -~]"), R"((?:[\u0020-\u0021\u0023-\u005b\u005d-\u007e]|\u005c[\u0022\u005c]))");
  EXPECT_EQ(json(R"(\s)"), R"((?:\u0020|\u005c[fnrt]))");
  EXPECT_EQ(json(R"(\0)"), R"((?:\u005cu0000))");
  EXPECT_EQ(json(R"([\x00-\x02])"), R"((?:\u005cu0000|\u005cu0001|\u005cu0002))");
  EXPECT_EQ(plain("[ -~]"), R"([\u0020-\u0021\u0023-\u005b\u005d-\u007e])");
}

TEST(JsonPattern, TellsCountedClasses) {
  const auto counted = [](std::string_view pattern) {
    const Result<JsonPattern> out = json_string_pattern(pattern, StringForm::kJson);
    return out ? str_format("{} {} {}", out->counted_class, out->min, out->max) : "refused";
  };
  EXPECT_EQ(counted("^[ab\"]{2,9}$"), "[a-b] 2 9");
  EXPECT_EQ(counted("([a-b]{2,})"), "[a-b] 2 -1");
  for (const char* pattern : {"a{2,9}", "[ab]{2,9}c", "c[ab]{2,9}", "[ab]{2,9}|c", "([ab]{2}){3}"})
    EXPECT_TRUE(counted(pattern).starts_with(' ')) << pattern;
}

TEST(JsonPattern, RefusesWithThePlace) {
  const std::pair<const char*, const char*> kRows[] = {
      {"(?=x)x", "at byte 3: lookahead"},
      {"(?!x)", "lookahead"},
      {"a(?<=x)", "lookbehind"},
      {"(?<!x)", "lookbehind"},
      {R"((a)\1)", "at byte 5: backreferences"},
      {R"(\k<a>)", "backreferences"},
      {R"(\bx)", "word boundaries"},
      {R"(\p{L})", "Unicode properties"},
      {"(?m)a", "kind of group"},
      {"(?<>a)", "name of a group"},
      {"a^b", "'^' is only"},
      {"a$b", "'$' is only"},
      {"(a$|b)c", "'$' is only"},
      {"(^a)*", "anchor in a repeated group"},
      {"a**", "two repetitions"},
      {"*a", "nothing to repeat"},
      {"^+", "nothing to repeat"},
      {"a{,2}", "number of repetitions"},
      {"a{2,1}", "wrong order"},
      {"a{99999}", "too many"},
      {"a{1", "not closed"},
      {"(a", "not closed"},
      {"a)", "unmatched"},
      {"[a", "not closed"},
      {"[]a]", "empty class"},
      {"[z-a]", "wrong order"},
      {R"([^\s\S])", "no character"},
      {R"(\ud800)", "surrogate"},
      {R"([\ud800-\udfff])", "surrogate"},
      {R"(\u{110000})", "no character"},
      {R"(\x4)", "hexadecimal"},
      {R"(\01)", "octal"},
      {R"(\y)", "this escape"},
      {"\\", "backslash"},
      {"\xff", "UTF-8"},
  };
  for (const auto& [pattern, reason] : kRows) {
    EXPECT_THAT(json(pattern), HasSubstr(reason)) << pattern;
    EXPECT_THAT(json(pattern), HasSubstr("refused")) << pattern;
  }
  EXPECT_THAT(plain("a\""), HasSubstr("not supported here"));
  EXPECT_THAT(json(std::string(100, '(') + std::string(100, ')')), HasSubstr("nested"));
}

TEST(CharSet, KeepsRangesApart) {
  CharSet set = {{10, 20}, {30, 40}, {21, 29}, {50, 60}, {5, 5}};
  EXPECT_EQ(set, (CharSet{{5, 5}, {10, 40}, {50, 60}}));
  EXPECT_EQ(set.complement().complement(), set);
  EXPECT_EQ(set.without(CharSet{{15, 55}}), (CharSet{{5, 5}, {10, 14}, {56, 60}}));
  EXPECT_EQ(set.within(CharSet{{15, 55}}), (CharSet{{15, 40}, {50, 55}}));
  EXPECT_EQ(CharSet().complement(), (CharSet{{0, kMaxCharacter}}));
  EXPECT_TRUE(CharSet().complement().complement().empty());
  EXPECT_EQ((CharSet{{'b', 'd'}, {'Z', 'Z'}}.any_case()),
            (CharSet{{'B', 'D'}, {'Z', 'Z'}, {'b', 'd'}, {'z', 'z'}}));
}

}  // namespace
}  // namespace atom
