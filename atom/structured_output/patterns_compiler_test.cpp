// Patterns and formats of JSON strings through masks: every text that may be drawn parses as JSON,
// and its value matches the pattern, as another engine (PCRE2) sees it.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pcre2.h>

#include <boost/json.hpp>
#include <random>

#include "atom/structured_output/grammar_compiler.h"
#include "tests/support/byte_tokenizer.h"

namespace atom {
namespace {

namespace json = boost::json;
using Kind = GrammarSpec::Kind;
using testing::HasSubstr;

constexpr int32_t kEos = testing_support::kByteEos;

Result<std::shared_ptr<const CompiledGrammar>> compile(Kind kind, const json::value& form,
                                                       bool exact = true) {
  static GrammarCompiler compiler(testing_support::make_byte_tokenizer(),
                                  testing_support::kByteVocabSize, {kEos},
                                  {.compile_seconds = 20, .matcher_seconds = 20});
  return compiler.compile({.kind = kind,
                           .text = json::serialize(form),
                           .exact = exact,
                           .any_whitespace = false,
                           .param = "field"});
}

json::value string_of(std::string_view pattern) {
  return {{"type", "string"}, {"pattern", pattern}};
}

std::string refusal(const json::value& schema, bool exact = true) {
  const auto grammar = compile(Kind::kJsonSchema, schema, exact);
  return grammar ? "" : grammar.error().message;
}

bool allows(const GrammarMatcher& matcher, int32_t id) {
  return (matcher.mask()[static_cast<size_t>(id) / 32] >> id % 32 & 1U) != 0;
}

// A random walk of at most 400 bytes; characters that are escaped or escape others come more often
// than chance, so that a grammar that lets them in at the wrong place is caught.
std::optional<std::string> draw(const std::shared_ptr<const CompiledGrammar>& grammar,
                                uint64_t seed) {
  std::mt19937_64 random(seed);
  GrammarMatcher matcher(grammar);
  Status status = matcher.start();
  std::string text;
  while (status && text.size() < 400) {
    std::vector<int32_t> ids, special;
    for (int32_t id = 0; id < testing_support::kByteVocabSize; ++id) {
      if (!allows(matcher, id)) continue;
      ids.push_back(id);
      if (id < 0x20 || id == '"' || id == '\\' || id == kEos || id == '}') special.push_back(id);
    }
    const auto& from = !special.empty() && random() % 3 == 0 ? special : ids;
    const int32_t id = from[random() % from.size()];
    status = matcher.advance(id);
    if (id == kEos) return text;
    EXPECT_LT(id, 256);
    text += static_cast<char>(id);
  }
  EXPECT_TRUE(status) << status.error().message;
  return std::nullopt;
}

bool accepts(const std::shared_ptr<const CompiledGrammar>& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar);
  Status status = matcher.start();
  for (const char c : text) {
    if (!status || !allows(matcher, static_cast<uint8_t>(c))) return false;
    status = matcher.advance(static_cast<uint8_t>(c));
  }
  return status && allows(matcher, kEos);
}

bool matches(const std::string& pattern, std::string_view text) {
  int error = 0;
  size_t place = 0;
  pcre2_compile_context* const context = pcre2_compile_context_create(nullptr);
  pcre2_set_compile_extra_options(context, PCRE2_EXTRA_ALT_BSUX);
  pcre2_code* const code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &error, &place, context);
  EXPECT_NE(code, nullptr) << pattern << " at " << place;
  pcre2_match_data* const data = pcre2_match_data_create_from_pattern(code, nullptr);
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                PCRE2_ANCHORED | PCRE2_ENDANCHORED, data, nullptr);
  pcre2_match_data_free(data);
  pcre2_code_free(code);
  pcre2_compile_context_free(context);
  return found > 0;
}

std::string value_of(const std::string& text) {
  boost::system::error_code failure;
  const json::value value = json::parse(text, failure);
  EXPECT_FALSE(failure) << "no JSON: " << text;
  const json::string* const string = failure ? nullptr : value.if_string();
  EXPECT_NE(string, nullptr) << text;
  return string != nullptr ? std::string(*string) : "";
}

constexpr const char* kPatterns[] = {
    "^[ -~]{1,30}$",
    "^[ -~]{1,200}$",  // so many that the library counts them with a rule of its own
    "^.{0,20}$",
    "^.{150,300}|x$",
    R"(^\S+$)",
    R"(^(\S+\s?)+$)",
    R"(^\W{2}\D\d\w$)",
    "^[^a-z]{3}$",
    "^\"[a-z\"]*\"$",
    R"(^\{"a": "[^"]*"\}$)",
    R"(^C:\\(\w+\\)*\w+\.txt$)",
    "^line\nline\t[\t\r\n]*$",
    R"(^[\x00-\x1f]{2}[\x01-\x07]\x0b\u001f$)",
    R"(^[!-\]]{4}$)",
    R"(^[^\]\\"-]+$)",
    R"(^[\]\[\\^-]{3}$)",
    R"(^[\^x]y[_^-]$)",
    "^(\"|\\\\|/){2,9}$",
    "^((\"?){2}|[^\"]{3})$",
    "^\u00e4[\u00e0-\u00ff]\u20ac[^\U0001f600]\U0001f600$",
    R"(^[\ud7ff-\ue001][\uff00-\u{10fff}]$)",
    R"(^\u{1f600}[\u00e4\u{1f601}]$)",
    "^(?:yes|no|\"maybe\")$|^[\"]{5}$",
    "(?i)^[a-c\"]{2}x$",
    "^(?<quoted>\".\")?$",
    "^[0-9a-f]{8}(-[0-9a-f]{4}){3}$",
};

TEST(Patterns, EveryTextIsJsonOfAMatchingValue) {
  for (const char* pattern : kPatterns) {
    const auto grammar = compile(Kind::kJsonSchema, string_of(pattern));
    ASSERT_TRUE(grammar) << pattern << ": " << grammar.error().message;
    int complete = 0;
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const std::optional<std::string> text = draw(*grammar, seed);
      if (!text) continue;
      ++complete;
      const std::string value = value_of(*text);
      EXPECT_TRUE(matches(pattern, value)) << pattern << " allowed " << *text;
    }
    EXPECT_GE(complete, 5) << pattern;
  }
}

TEST(Patterns, EscapedCharactersMayBeDrawn) {
  const std::pair<const char*, const char*> kRows[] = {
      {"^Say \".*\"$", R"("Say \"hi \\ \"there\" \t.\"")"},
      {"^[ -~]{1,200};$", R"("a \"quoted\" word, a back\\slash;")"},
      {"^[^x]{3}$", R"("\n\"\\")"},
      {R"(^\s*$)", R"(" \t\r\n")"},
      {R"(^\x00\x1f$)", R"("\u0000\u001f")"},
      {R"(^\\d$)", R"("\\d")"},
      {"", R"("any \"text\"")"},
      {"^$", R"("")"},
  };
  for (const auto& [pattern, text] : kRows) {
    const auto grammar = compile(Kind::kJsonSchema, string_of(pattern));
    ASSERT_TRUE(grammar) << pattern << ": " << grammar.error().message;
    EXPECT_TRUE(accepts(*grammar, text)) << pattern << ' ' << text;
    EXPECT_FALSE(accepts(*grammar, std::string(text) + '"')) << pattern;
  }
}

// Small counts become states and large ones rules of the grammar: both in every surrounding.
TEST(Patterns, CountsHoldWhereverTheyStand) {
  struct Row {
    const char* pattern;  // A: a{7,9} or a{150,160}; and, with A standing for its least text,
    std::vector<std::string> matching, other;
  };
  const Row kRows[] = {
      {"A|x", {"A", "x"}, {"aaax", "aaa", "Ax"}},
      {"Ax?", {"A", "Ax"}, {"aaax", "aaa", "x"}},
      {"(A)?", {"A", ""}, {"a", "aaa"}},
      {"(A)?x", {"Ax", "x"}, {"aaax", "xaaa"}},
      {"(Ab)*x", {"Abx", "x", "AbAbx"}, {"aaab", "aaax", "Abaax"}},
      {"b(A|x)", {"bA", "bx"}, {"baaax", "baa"}},
      {"b*A", {"A", "bA", "bbA"}, {"aab", "aabbA"}},
      {"(A|ab)", {"A", "ab"}, {"aab", "Ab"}},
      {"bA", {"bA"}, {"A", "ba"}},
      {"AA", {"AA"}, {"A", "Aaaa"}},
      {"xA.*", {"xA", "xA..."}, {"x", "xaa...", "A"}},
      {"(bA)x", {"bAx"}, {"bA", "bax"}},
      {"(Ab?){1,2}", {"A", "AbA"}, {"abA", "Abaaa"}},
      {"(Ab?){2,}", {"AbA", "AbAbA"}, {"Ab", "aaa"}},
      {"(ab*)?x(a*b)?", {"x", "abbxb", "axaab"}, {"bx", "xa", "bbxb"}},
      {"(a|cb*){2,}", {"aa", "acbb", "cbcba"}, {"a", "cb", "aab", "cbab"}},
  };
  const std::pair<std::string, std::string> kCounts[] = {
      {"a{7,9}", std::string(7, 'a')},
      {"a{7,}", std::string(7, 'a')},
      {"a{150,160}", std::string(150, 'a')},
      {"a{150,}", std::string(150, 'a')},
  };
  const auto fill = [](std::string_view text, const std::string& with) {
    std::string out = "\"";
    for (const char c : text) out += c == 'A' ? with : std::string(1, c);
    return out + '"';
  };
  for (const auto& [count, least] : kCounts) {
    for (const Row& row : kRows) {
      const std::string pattern = fill(row.pattern, count);
      const auto grammar = compile(
          Kind::kJsonSchema, string_of(std::string_view(pattern).substr(1, pattern.size() - 2)));
      ASSERT_TRUE(grammar) << pattern << ": " << grammar.error().message;
      for (const std::string& text : row.matching)
        EXPECT_TRUE(accepts(*grammar, fill(text, least))) << pattern << ' ' << text;
      for (const std::string& text : row.other)
        EXPECT_FALSE(accepts(*grammar, fill(text, least))) << pattern << ' ' << text;
    }
  }
}

TEST(Patterns, KeysAreHeldToo) {
  const auto grammar = compile(
      Kind::kJsonSchema, json::parse(R"({"type":"object","properties":{"a":{"type":"integer"}},
        "patternProperties":{"^\"[a-z]+\"$":{"type":"string","pattern":"^[^0-9]{1,3}$"},
        "^.-$":{"type":"null"},"^(?:.)-$":{"type":"null"}},"additionalProperties":false})"));
  ASSERT_TRUE(grammar) << grammar.error().message;
  EXPECT_TRUE(accepts(*grammar, R"({"\"key\"": "\"\\x"})"));
  EXPECT_FALSE(accepts(*grammar, R"({"key": "x"})"));
  int keys = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const std::optional<std::string> text = draw(*grammar, seed);
    if (!text) continue;
    boost::system::error_code failure;
    const json::value value = json::parse(*text, failure);
    ASSERT_FALSE(failure) << *text;
    for (const auto& [key, inner] : value.as_object()) {
      ++keys;
      EXPECT_TRUE(key == "a" || matches(inner.is_null() ? "^.-$" : "^\"[a-z]+\"$", key)) << *text;
    }
  }
  EXPECT_GT(keys, 10);
}

TEST(Patterns, EveryFormatIsJson) {
  const std::pair<const char*, const char*> kRows[] = {
      {"email", R"("a.b+c@d-e.org")"},
      {"json-pointer", R"("/a~1b/\"\\/")"},
      {"relative-json-pointer", R"("1/a \"b\"")"},
      {"date", R"("2026-02-28")"},
      {"time", R"("12:30:00Z")"},
      {"date-time", R"("2026-02-28T12:30:00Z")"},
      {"duration", R"("P1DT2H")"},
      {"ipv4", R"("127.0.0.1")"},
      {"ipv6", R"("fe80::1:2")"},
      {"hostname", R"("a.example")"},
      {"uuid", R"("00000000-0000-0000-0000-00000000000a")"},
      {"uri", R"("http://a.example/b?c#d")"},
      {"uri-reference", R"("/b?c")"},
      {"uri-template", R"("/b/{c}")"},
      {"an annotation", R"("any \"text\"")"},
  };
  for (const auto& [format, text] : kRows) {
    const auto grammar =
        compile(Kind::kJsonSchema, json::value{{"type", "string"}, {"format", format}});
    ASSERT_TRUE(grammar) << format << ": " << grammar.error().message;
    EXPECT_TRUE(accepts(*grammar, text)) << format;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      if (const std::optional<std::string> drawn = draw(*grammar, seed)) value_of(*drawn);
    }
  }
}

TEST(Patterns, TagsHoldThemToo) {
  const auto tag = [](const char* style) {
    return json::value{{"type", "structural_tag"},
                       {"format",
                        {{"type", "tag"},
                         {"begin", "<a>"},
                         {"content",
                          {{"type", "json_schema"},
                           {"style", style},
                           {"json_schema",
                            {{"type", "object"},
                             {"properties", {{"p", string_of("^x.{0,3}$")}}},
                             {"required", {"p"}}}}}},
                         {"end", "</a>"}}}};
  };
  const auto grammar = compile(Kind::kStructuralTag, tag("json"));
  ASSERT_TRUE(grammar) << grammar.error().message;
  EXPECT_TRUE(accepts(*grammar, R"(<a>{"p": "x\"\\"}</a>)"));
  EXPECT_FALSE(accepts(*grammar, R"(<a>{"p": "x"y"}</a>)"));
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::optional<std::string> text = draw(*grammar, seed);
    ASSERT_TRUE(text);
    const json::value value = json::parse(text->substr(3, text->size() - 7));
    EXPECT_TRUE(matches("^x.{0,3}$", std::string(value.at("p").as_string()))) << *text;
  }
  const auto xml = compile(Kind::kStructuralTag, tag("qwen_xml"));
  ASSERT_TRUE(xml) << xml.error().message;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_THAT(draw(*xml, seed).value_or(""), testing::Not(HasSubstr("\\")));
  }
}

TEST(Patterns, AreRefusedByPlaceOrLeftOut) {
  EXPECT_THAT(refusal(string_of("(?=x)x")), HasSubstr("$.pattern: at byte 3: lookahead"));
  EXPECT_THAT(refusal(json::value{{"type", "object"}, {"patternProperties", {{R"(a\b)", true}}}}),
              HasSubstr("$.patternProperties: at byte 3: word boundaries"));
  EXPECT_THAT(refusal({{"type", "string"}, {"pattern", "a"}, {"format", "date"}}),
              HasSubstr("pattern beside format"));
  EXPECT_EQ(refusal({{"type", "string"}, {"pattern", "a"}, {"format", "a colour"}}), "");
  EXPECT_THAT(refusal({{"$ref", "#/x"}, {"x", string_of("[ -~]")}}), HasSubstr("no schema"));
  EXPECT_THAT(refusal({{"$ref", "#/properties"}, {"properties", string_of("a")}}),
              HasSubstr("no schema"));
  const auto components =
      compile(Kind::kJsonSchema, {{"$ref", "#/components/schemas/a"},
                                  {"components", {{"schemas", {{"a", string_of("^[ -~]$")}}}}}});
  ASSERT_TRUE(components) << components.error().message;
  EXPECT_TRUE(accepts(*components, R"("\"")"));
  EXPECT_FALSE(accepts(*components, R"(""")"));
  const auto loose = compile(Kind::kJsonSchema, string_of("(?=x)x"), false);
  ASSERT_TRUE(loose) << loose.error().message;
  EXPECT_TRUE(accepts(*loose, R"("any \"text\"")"));
}

}  // namespace
}  // namespace atom
