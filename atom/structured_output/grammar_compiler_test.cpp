#include "atom/structured_output/grammar_compiler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <random>
#include <set>
#include <thread>

#include "tests/support/byte_tokenizer.h"

namespace atom {
namespace {

using Kind = GrammarSpec::Kind;
using testing::HasSubstr;

constexpr int32_t kEos = testing_support::kByteEos;

GrammarLimits small_limits() {
  return {.compile_seconds = 20, .cache_bytes = 32 << 20, .matcher_seconds = 20};
}

GrammarCompiler& byte_compiler() {
  static GrammarCompiler compiler(testing_support::make_byte_tokenizer(),
                                  testing_support::kByteVocabSize, {kEos}, small_limits());
  return compiler;
}

// Words over {a, b, c} of one to three letters as tokens, then an end token: many tokens share
// prefixes, so that masks depend on whole tokens.
class WordTokenizer : public Tokenizer {
 public:
  WordTokenizer() {
    for (int length = 1, count = 3; length <= 3; ++length, count *= 3) {
      for (int i = 0; i < count; ++i) {
        std::string word;
        for (int k = 0, rest = i; k < length; ++k, rest /= 3) {
          word += static_cast<char>('a' + rest % 3);
        }
        words_.push_back(word);
      }
    }
    words_.emplace_back("<end>");
  }
  explicit WordTokenizer(std::vector<std::string> words) : words_(std::move(words)) {
    words_.emplace_back("<end>");
  }
  int32_t end() const { return static_cast<int32_t>(words_.size()) - 1; }
  std::vector<int32_t> encode(std::string_view, bool) const override { return {}; }
  std::string decode(std::span<const int32_t>, bool) const override { return {}; }
  std::string token_bytes(int32_t id) const override { return words_[static_cast<size_t>(id)]; }
  std::string_view id_to_token(int32_t id) const override {
    return words_[static_cast<size_t>(id)];
  }
  std::optional<int32_t> token_to_id(std::string_view) const override { return std::nullopt; }
  bool is_special(int32_t id) const override { return id == end(); }
  int64_t vocab_size() const override { return static_cast<int64_t>(words_.size()); }
  std::string_view bos_token() const override { return {}; }
  std::string_view eos_token() const override { return "<end>"; }
  std::string_view pad_token() const override { return {}; }
  std::string_view unk_token() const override { return {}; }

 private:
  std::vector<std::string> words_;
};

std::vector<int32_t> allowed(const GrammarMatcher& matcher) {
  std::vector<int32_t> out;
  for (size_t word = 0; word < matcher.mask().size(); ++word) {
    for (uint32_t bits = matcher.mask()[word]; bits != 0; bits &= bits - 1) {
      out.push_back(static_cast<int32_t>(word * 32) + std::countr_zero(bits));
    }
  }
  return out;
}

// A random text of at most `max_bytes` that the grammar allows; ends as soon as it may with
// probability one in four. Empty: the walk ran out of bytes.
std::optional<std::string> random_text(const std::shared_ptr<const CompiledGrammar>& grammar,
                                       uint64_t seed, size_t max_bytes) {
  std::mt19937_64 random(seed);
  GrammarMatcher matcher(grammar);
  Status status = matcher.start();
  std::string text;
  while (status && text.size() < max_bytes) {
    std::vector<int32_t> ids = allowed(matcher);
    EXPECT_FALSE(ids.empty()) << text;
    const bool may_end = std::ranges::find(ids, kEos) != ids.end();
    if (may_end && (ids.size() == 1 || random() % 4 == 0)) {
      EXPECT_TRUE(matcher.advance(kEos));
      EXPECT_TRUE(matcher.terminated());
      EXPECT_THAT(allowed(matcher), testing::IsEmpty());
      // As a client sees it: byte sequences that are no characters become U+FFFD.
      return testing_support::make_byte_tokenizer()->decode(testing_support::byte_ids(text), true);
    }
    std::erase(ids, kEos);
    // Closing characters more often than chance, so that walks end.
    std::vector<int32_t> closing;
    std::ranges::copy_if(ids, std::back_inserter(closing),
                         [](int32_t id) { return id == '"' || id == ']' || id == '}'; });
    const std::vector<int32_t>& from = !closing.empty() && random() % 3 == 0 ? closing : ids;
    const int32_t id = from[random() % from.size()];
    EXPECT_LT(id, 256) << "a special token is allowed";
    text += static_cast<char>(id);
    status = matcher.advance(id);
  }
  EXPECT_TRUE(status) << status.error().message;
  return std::nullopt;
}

Result<std::shared_ptr<const CompiledGrammar>> compile(Kind kind, std::string text) {
  return byte_compiler().compile({.kind = kind, .text = std::move(text), .param = "field"});
}

std::string refusal(Kind kind, std::string text) {
  const auto grammar = compile(kind, std::move(text));
  if (grammar) {
    return "";
  }
  EXPECT_EQ(grammar.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(grammar.error().param, "field");
  return grammar.error().message;
}

constexpr const char* kSchemas[] = {
    R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},"required":["a"]})",
    R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":4})",
    R"({"enum":["red","green",1,null,{"a":[1]}]})",
    R"({"const":{"x":"\u00e4\n"}})",
    R"({"type":"string","minLength":2,"maxLength":5})",
    R"({"type":"string","pattern":"^[a-c]+\\d{2}$"})",
    R"({"type":"integer","minimum":-3,"maximum":120})",
    R"({"type":"number"})",
    R"({"anyOf":[{"type":"null"},{"type":"string","maxLength":3}]})",
    R"({"type":["string","null"],"maxLength":4})",
    R"({"type":"object","properties":{"p":{"$ref":"#/$defs/p"}},"required":["p"],
        "$defs":{"p":{"type":"object","properties":{"n":{"type":"string","maxLength":3},
        "c":{"type":"array","items":{"$ref":"#/$defs/p"},"maxItems":2}},"required":["n"]}}})",
    R"({"type":"object","additionalProperties":{"type":"integer"}})",
    R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
    R"({"type":"object","properties":{},"additionalProperties":false})",
    R"({"type":"boolean"})",
    R"({"type":"string","format":"date"})",
    R"({"allOf":[{"type":"integer"}]})",
    R"({"oneOf":[{"type":"boolean"},{"enum":["x",7]}]})",
};

TEST(GrammarCompiler, EveryTextOfASchemaParsesAsJson) {
  for (const char* schema : kSchemas) {
    const auto grammar = compile(Kind::kJsonSchema, schema);
    ASSERT_TRUE(grammar) << schema << ": " << grammar.error().message;
    int complete = 0;
    for (uint64_t seed = 0; seed < 30; ++seed) {
      if (const auto text = random_text(*grammar, seed, 2000)) {
        ++complete;
        boost::system::error_code failure;
        boost::json::parse(*text, failure);
        EXPECT_TRUE(!failure || failure == boost::json::error::exponent_overflow)
            << schema << " allowed " << *text;
      }
    }
    EXPECT_GE(complete, 5) << schema;
  }
}

TEST(GrammarCompiler, AJsonObjectIsAnObject) {
  const auto grammar = compile(Kind::kJsonObject, "");
  ASSERT_TRUE(grammar);
  int with_keys = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    if (const auto text = random_text(*grammar, seed, 2000)) {
      const boost::json::value value = boost::json::parse(*text);
      ASSERT_TRUE(value.is_object()) << *text;
      with_keys += value.get_object().empty() ? 0 : 1;
    }
  }
  EXPECT_GT(with_keys, 5);
}

// The mask of every prefix of random finite languages, against the definition: a token may come if
// some word continues with it, the end if the prefix is a word.
TEST(GrammarCompiler, MasksAreThoseOfTheDefinition) {
  const auto tokenizer = std::make_shared<WordTokenizer>();
  GrammarCompiler compiler(tokenizer, tokenizer->vocab_size() + 3, {tokenizer->end()});
  std::mt19937_64 random(7);
  for (int round = 0; round < 40; ++round) {
    std::set<std::string> language;
    boost::json::array choices;
    for (uint64_t i = 0, count = 1 + random() % 12; i < count; ++i) {
      std::string word(1 + random() % 7, 'a');
      std::ranges::generate(word, [&] { return static_cast<char>('a' + random() % 3); });
      if (language.insert(word).second) {
        choices.emplace_back(word);
      }
    }
    const auto grammar =
        compiler.compile({.kind = Kind::kChoice, .text = boost::json::serialize(choices)});
    ASSERT_TRUE(grammar) << grammar.error().message;
    for (int walk = 0; walk < 5; ++walk) {
      std::string prefix;
      GrammarMatcher matcher(*grammar);
      ASSERT_TRUE(matcher.start());
      while (true) {
        std::vector<int32_t> expected;
        for (int32_t id = 0; id < tokenizer->end(); ++id) {
          const std::string next = prefix + tokenizer->token_bytes(id);
          const auto word = language.lower_bound(next);
          if (word != language.end() && word->starts_with(next)) {
            expected.push_back(id);
          }
        }
        if (language.contains(prefix)) {
          expected.push_back(tokenizer->end());
        }
        ASSERT_EQ(allowed(matcher), expected) << "after \"" << prefix << '"';
        const int32_t id = expected[random() % expected.size()];
        ASSERT_TRUE(matcher.advance(id));
        if (id == tokenizer->end()) {
          break;
        }
        prefix += tokenizer->token_bytes(id);
      }
    }
  }
}

TEST(GrammarCompiler, AForkGoesItsOwnWay) {
  const auto grammar = compile(Kind::kRegex, "ab*c");
  ASSERT_TRUE(grammar);
  GrammarMatcher one(*grammar);
  ASSERT_TRUE(one.start());
  ASSERT_TRUE(one.advance('a'));
  GrammarMatcher two = one.fork();
  ASSERT_TRUE(one.advance('c'));
  EXPECT_THAT(allowed(one), testing::ElementsAre(kEos));
  EXPECT_FALSE(one.allows_other_than(std::vector<int32_t>{kEos, kEos}));
  EXPECT_THAT(allowed(two), testing::ElementsAre('b', 'c'));
  EXPECT_TRUE(two.allows_other_than(std::vector<int32_t>{kEos, 'b'}));
  EXPECT_FALSE(two.advance('x'));
}

TEST(GrammarCompiler, AChoiceIsItsOwnBytes) {
  for (const std::string choice : {"a\x7f"
                                   "ab",
                                   "\n0\t1",
                                   "\x1f"
                                   "c",
                                   "\"\\u0041", "\u00e4b"}) {
    const auto grammar = compile(Kind::kChoice, boost::json::serialize(boost::json::array{choice}));
    ASSERT_TRUE(grammar) << choice;
    EXPECT_EQ(random_text(*grammar, 1, 100), choice);
  }
}

TEST(GrammarCompiler, RefusesByPlaceWhatItCannotEnforce) {
  const auto schema = [](const char* text) { return refusal(Kind::kJsonSchema, text); };
  EXPECT_THAT(schema(R"({"properties":{"a":{"not":{}}}})"),
              HasSubstr("$.properties.a: not is not"));
  EXPECT_THAT(schema(R"({"type":"array","uniqueItems":true})"), HasSubstr("uniqueItems"));
  EXPECT_THAT(schema(R"({"anyOf":[{}],"required":["a"]})"), HasSubstr("required beside anyOf"));
  EXPECT_THAT(schema(R"({"minLength":3})"), HasSubstr("minLength"));
  EXPECT_THAT(schema(R"({"$ref":"http://localhost/x"})"), HasSubstr("only references within"));
  EXPECT_THAT(schema(R"({"$ref":"#/$defs/gone"})"), HasSubstr("gone"));
  EXPECT_THAT(schema(R"({"type":"strin"})"), HasSubstr("$.type must be"));
  EXPECT_THAT(schema(R"({"type":"array","maxItems":1000000000})"), HasSubstr("$.maxItems must be"));
  EXPECT_THAT(schema(R"({"type":"string","pattern":"(?=x)x"})"), HasSubstr("ookahead"));
  EXPECT_THAT(schema(R"({"required":[1]})"), HasSubstr("$.required must be"));
  EXPECT_NE(schema(R"({"type":"string","minLength":5,"maxLength":2})"), "");
  EXPECT_NE(schema("false"), "");
  EXPECT_NE(schema("{"), "");
  EXPECT_NE(schema("[]"), "");
  EXPECT_NE(refusal(Kind::kRegex, "(a"), "");
  EXPECT_NE(refusal(Kind::kRegex, "a(?=b)"), "");
  EXPECT_NE(refusal(Kind::kRegex, R"((a)\1)"), "");
  EXPECT_NE(refusal(Kind::kRegex, "a{0,9999999999999999999999}"), "");
  EXPECT_NE(refusal(Kind::kRegex, std::string(3000, 'a')), "");
  EXPECT_NE(refusal(Kind::kChoice, "[]"), "");
  EXPECT_NE(refusal(Kind::kChoice, R"(["a",""])"), "");
  EXPECT_NE(refusal(Kind::kGrammar, "start ::= \"a\""), "");
  EXPECT_NE(refusal(Kind::kGrammar, "root ::= nowhere"), "");
  EXPECT_NE(refusal(Kind::kStructuralTag, "{}"), "");
  EXPECT_NE(refusal(Kind::kJsonSchema, std::string("{}\0", 3)), "");
  EXPECT_TRUE(compile(Kind::kChoice, R"(["yes","no"])"));
}

TEST(GrammarCompiler, OneOfIsTakenWhereItsBranchesExcludeEachOther) {
  const std::string pets =
      R"("Cat":{"type":"object","properties":{"kind":{"const":"cat","default":"cat"}}},
         "Dog":{"type":"object","properties":{"kind":{"enum":["dog","wolf"]},"age":{"type":"integer"}},
                "required":["age"]}},)";
  const char* const branches = R"("oneOf":[{"$ref":"#/$defs/Cat"},{"$ref":"#/$defs/Dog"}]})";
  const auto schema = [&](const std::string& text) { return refusal(Kind::kJsonSchema, text); };
  EXPECT_THAT(schema(R"({"$defs":{)" + pets + branches), HasSubstr("$.oneOf: its branches may"));
  EXPECT_THAT(schema(R"({"oneOf":[{"type":"integer"},{"type":"number"}]})"), HasSubstr("oneOf"));
  EXPECT_THAT(schema(R"({"oneOf":[{"enum":[1,2]},{"const":2.0}]})"), HasSubstr("oneOf"));
  EXPECT_THAT(schema(R"({"oneOf":[{"const":[1]},{"const":[1.0]}]})"), HasSubstr("oneOf"));
  EXPECT_THAT(schema(R"({"oneOf":[{"$ref":"#"},{"type":"null"}]})"), HasSubstr("oneOf"));
  EXPECT_EQ(schema(R"({"oneOf":[{"type":["null","string"]},{"anyOf":[{"const":1},
      {"type":"boolean"}]}]})"),
            "");
  // As pydantic writes a tagged union: the tag has a default, and is written all the same.
  const auto grammar =
      compile(Kind::kJsonSchema,
              R"({"$defs":{)" + pets + R"("discriminator":{"propertyName":"kind"},)" + branches);
  ASSERT_TRUE(grammar) << grammar.error().message;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    if (const auto text = random_text(*grammar, seed, 2000)) {
      EXPECT_TRUE(boost::json::parse(*text).as_object().contains("kind")) << *text;
    }
  }
}

// Tokens of several characters, of parts of one, and with quotes inside.
class StringTokenizer final : public WordTokenizer {
 public:
  StringTokenizer()
      : WordTokenizer({"\"",
                       "a",
                       "ab",
                       "abcd",
                       "\"a",
                       "\"abcd",
                       "a\"",
                       "\",\"",
                       "\":\"",
                       "\xe4",
                       "\xb8",
                       "\xad",
                       "\xb8\xad",
                       "\xad"
                       "abc",
                       "\"\xe4",
                       "\xe4\xb8",
                       "{",
                       "}",
                       ":",
                       ",",
                       "[",
                       "]",
                       "\"\"",
                       "n",
                       "k",
                       "\r",
                       "\n",
                       " "}) {}
};

TEST(GrammarCompiler, StringsKeepTheirBoundsWhateverTheTokens) {
  const auto tokenizer = std::make_shared<StringTokenizer>();
  GrammarCompiler compiler(tokenizer, tokenizer->vocab_size() + 40, {tokenizer->end()});
  const auto grammar = compiler.compile(
      {.kind = Kind::kJsonSchema,
       .text = R"({"type":"object","properties":{"n":{"type":"string","maxLength":3},
                   "a":{"type":"array","items":{"type":"string","minLength":2,"maxLength":300}},
                   "k":{"anyOf":[{"type":"string","maxLength":0},{"const":"abcd"}]}},
                   "required":["n","a","k"]})",
       .any_whitespace = false});
  ASSERT_TRUE(grammar) << grammar.error().message;
  const auto characters = [](const boost::json::value& value) {
    return std::ranges::count_if(value.as_string(), [](char c) { return (c & 0xc0) != 0x80; });
  };
  std::mt19937_64 random(3);
  int complete = 0, longest = 0;
  for (int walk = 0; walk < 300; ++walk) {
    GrammarMatcher matcher(*grammar);
    ASSERT_TRUE(matcher.start());
    std::string text;
    while (!matcher.terminated() && text.size() < 3000) {
      const std::vector<int32_t> ids = allowed(matcher);
      const int32_t id = ids[random() % ids.size()];
      text += id == tokenizer->end() ? "" : tokenizer->token_bytes(id);
      const Status status = matcher.advance(id);
      ASSERT_TRUE(status) << text << ": " << status.error().message;
    }
    if (!matcher.terminated()) continue;
    ++complete;
    const boost::json::object value = boost::json::parse(text).as_object();
    longest = std::max(longest, static_cast<int>(characters(value.at("n"))));
    EXPECT_LE(characters(value.at("n")), 3) << text;
    for (const boost::json::value& item : value.at("a").as_array())
      EXPECT_GE(characters(item), 2) << text;
    EXPECT_TRUE(value.at("k") == "" || value.at("k") == "abcd") << text;
  }
  EXPECT_GT(complete, 50);
  EXPECT_EQ(longest, 3);
}

TEST(GrammarCompiler, TwoTriesShareOneBudget) {
  const auto tokenizer = testing_support::make_byte_tokenizer();
  GrammarCompiler compiler(tokenizer, testing_support::kByteVocabSize, {kEos}, small_limits());
  double seconds = 5;
  ASSERT_TRUE(compiler.compile({.kind = Kind::kJsonSchema, .text = kSchemas[10]}, &seconds));
  EXPECT_LT(seconds, 5);
  seconds = 0;
  EXPECT_FALSE(compiler.compile({.kind = Kind::kJsonSchema, .text = kSchemas[0]}, &seconds));
  EXPECT_TRUE(compiler.compile({.kind = Kind::kJsonSchema, .text = kSchemas[0]}));  // not kept
}

TEST(GrammarCompiler, KeywordsForPeopleDoNotHinderLooseSchemas) {
  GrammarSpec spec{.kind = Kind::kJsonSchema,
                   .text = R"({"type":"array","items":{"type":"integer"},"uniqueItems":true})",
                   .exact = false};
  EXPECT_TRUE(byte_compiler().compile(spec));
  spec.exact = true;
  EXPECT_FALSE(byte_compiler().compile(spec));
}

// Whatever the allocation at which the budget ends, the compilation is refused and the next one
// works; nothing stays behind (the sanitizer build sees leaks).
TEST(GrammarCompiler, ABudgetMayEndAnywhere) {
  const auto tokenizer = testing_support::make_byte_tokenizer();
  for (const char* text : {kSchemas[0], kSchemas[2], kSchemas[5], kSchemas[10], kSchemas[17]}) {
    int refused = 0;
    for (int64_t bytes = 512; bytes < (4 << 20); bytes += bytes / 23) {
      GrammarLimits limits = small_limits();
      limits.compile_bytes = bytes;
      GrammarCompiler compiler(tokenizer, testing_support::kByteVocabSize, {kEos}, limits);
      const auto grammar = compiler.compile({.kind = Kind::kJsonSchema, .text = text});
      refused += grammar ? 0 : 1;
      if (!grammar) {
        EXPECT_THAT(grammar.error().message, HasSubstr("too complex"));
        EXPECT_EQ(compiler.stats().live_bytes, 0);
      }
    }
    EXPECT_GT(refused, 50) << text;
    EXPECT_LT(refused, 200) << text;
  }
}

TEST(GrammarCompiler, ACompilationThatTakesTooLongIsRefused) {
  GrammarLimits limits = small_limits();
  limits.compile_seconds = 1e-6;  // no machine is as fast
  GrammarCompiler compiler(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                           {kEos}, limits);
  const auto grammar = compiler.compile({.kind = Kind::kJsonSchema, .text = kSchemas[10]});
  ASSERT_FALSE(grammar);
  EXPECT_THAT(grammar.error().message, HasSubstr("CPU time"));
}

TEST(GrammarCompiler, AMatcherThatCostsTooMuchEndsItsSequence) {
  GrammarLimits limits = small_limits();
  limits.matcher_bytes = 64 << 10;
  GrammarCompiler compiler(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                           {kEos}, limits);
  const auto grammar = compiler.compile({.kind = Kind::kRegex, .text = "[a-z]*"});
  ASSERT_TRUE(grammar);
  GrammarMatcher matcher(*grammar);
  ASSERT_TRUE(matcher.start());
  Status status;
  for (int i = 0; i < 100000 && status; ++i) {
    status = matcher.advance('x');
  }
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kResourceExhausted);
}

TEST(GrammarCompiler, TheCacheIsBoundedAndNothingOutlivesItsUse) {
  GrammarLimits limits = small_limits();
  limits.cache_bytes = 1 << 20;
  GrammarCompiler compiler(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                           {kEos}, limits);
  for (int i = 0; i < 200; ++i) {
    const std::string text = "x{1,40}y" + std::to_string(i);
    ASSERT_TRUE(compiler.compile({.kind = Kind::kRegex, .text = text}));
    ASSERT_LE(compiler.stats().cached_bytes, limits.cache_bytes);
    ASSERT_LE(compiler.stats().live_bytes, limits.cache_bytes);
  }
  const GrammarSpec again{.kind = Kind::kRegex, .text = "x{1,40}y199"};
  const int64_t misses = compiler.stats().misses;
  EXPECT_NE(compiler.find(again), nullptr);
  EXPECT_TRUE(compiler.compile(again));
  EXPECT_EQ(compiler.stats().misses, misses);
  EXPECT_EQ(compiler.find({.kind = Kind::kRegex, .text = "never asked for"}), nullptr);
}

TEST(GrammarCompiler, GrammarsInUseCountAgainstTheTotal) {
  GrammarLimits limits = small_limits();
  limits.compile_bytes = 4 << 20;
  limits.total_bytes = (4 << 20) + 4096;
  GrammarCompiler compiler(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                           {kEos}, limits);
  auto held = compiler.compile({.kind = Kind::kJsonSchema, .text = kSchemas[10]});
  ASSERT_TRUE(held);
  const auto refused = compiler.compile({.kind = Kind::kRegex, .text = "a"});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  held->reset();
  EXPECT_TRUE(compiler.compile({.kind = Kind::kRegex, .text = "a"}));
}

TEST(GrammarCompiler, ThreadsShareGrammars) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (uint64_t i = 0; i < 6; ++i) {
        const auto grammar = compile(Kind::kJsonSchema, kSchemas[(t + i) % 6]);
        ASSERT_TRUE(grammar);
        random_text(*grammar, t * 100 + i, 200);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

}  // namespace
}  // namespace atom
