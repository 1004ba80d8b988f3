#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "atom/tokenizer/tokenizer.h"
#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

namespace fs = std::filesystem;

class TokenizerJson : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / ("atom_tokenizer_" + std::to_string(::getpid()));
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  void write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name) << text;
  }
  Result<std::shared_ptr<const Tokenizer>> load(const std::string& json) {
    write("tokenizer.json", json);
    return Tokenizer::from_directory(dir_);
  }
  std::string error_of(const std::string& json) {
    auto t = load(json);
    return t ? "accepted" : t.error().message;
  }

  fs::path dir_;
};

// All bytes, a few merges, `parts` for the other keys of the document.
std::string byte_level(const std::string& parts, const std::string& model_extra = "") {
  std::string vocab, merges;
  int id = 0;
  const auto add = [&](const std::string& token) {
    vocab += (id > 0 ? "," : "") +
             ("\"" + (token == "\"" || token == "\\" ? "\\" + token : token) + "\":") +
             std::to_string(id);
    ++id;
  };
  for (int b = 0; b < 256; ++b) {
    std::string token;
    append_utf8(byte_to_alphabet(static_cast<uint8_t>(b)), token);
    add(token);
  }
  for (const char* m : {"a b", "ab c", "Ġ ab", "ä ½", "ä½ ł", "a a", "aa aa"}) {
    std::string joined = m;
    joined.erase(joined.find(' '), 1);
    add(joined);
    merges += (merges.empty() ? "\"" : ",\"") + std::string(m) + "\"";
  }
  return "{\"model\":{\"type\":\"BPE\"," + model_extra + "\"vocab\":{" + vocab + "},\"merges\":[" +
         merges + "]}," + "\"decoder\":{\"type\":\"ByteLevel\"}," + parts + "}";
}
const char* const kByteLevelPre =
    R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
const char* const kAdded =
    R"("added_tokens":[{"id":300,"content":"<s>","special":true},{"id":301,"content":"<s>x","special":true},)"
    R"({"id":400,"content":"<L>","special":false,"normalized":false,"lstrip":true},)"
    R"({"id":401,"content":"<R>","special":false,"normalized":false,"rstrip":true},)"
    R"({"id":402,"content":"word","special":false,"normalized":false,"single_word":true}],)";

std::vector<std::string> tokens_of(const Tokenizer& t, std::string_view text) {
  std::vector<std::string> out;
  for (const int32_t id : t.encode(text, false)) out.emplace_back(t.id_to_token(id));
  return out;
}

TEST_F(TokenizerJson, ByteLevelMergesAndDecodes) {
  auto t = load(byte_level(std::string(kAdded) + kByteLevelPre));
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(tokens_of(**t, "abc ab"), (std::vector<std::string>{"abc", "Ġab"}));
  EXPECT_EQ((*t)->token_bytes(*(*t)->token_to_id("Ġab")), " ab");
  EXPECT_EQ((*t)->token_bytes(*(*t)->token_to_id("ä½")), "\xE4\xBD");
  for (const std::string text : {"", " ", "你好 abc\r\n\tx", "😀👩‍👩‍👧", "a\0b"}) {
    EXPECT_EQ((*t)->decode((*t)->encode(text, false), false), text);
  }
  EXPECT_EQ((*t)->decode((*t)->encode("a\xE4\xBD", false), false), "a\uFFFD");
  EXPECT_EQ((*t)->vocab_size(), 403);
  EXPECT_EQ((*t)->decode(std::vector<int32_t>{-5, 299, 1 << 30, 300}, false), "<s>");
}

TEST_F(TokenizerJson, AddedTokensAreLeftmostLongestWithTheirFlags) {
  auto t = load(byte_level(std::string(kAdded) + kByteLevelPre));
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(tokens_of(**t, "<s><s>x"), (std::vector<std::string>{"<s>", "<s>x"}));
  EXPECT_EQ(tokens_of(**t, "a \u3000<L>a"), (std::vector<std::string>{"a", "<L>", "a"}));
  EXPECT_EQ(tokens_of(**t, "a<R> \n a"), (std::vector<std::string>{"a", "<R>", "a"}));
  EXPECT_EQ(tokens_of(**t, "word words"),
            (std::vector<std::string>{"word", "Ġ", "w", "o", "r", "d", "s"}));
  EXPECT_EQ((*t)->decode(std::vector<int32_t>{300, 400}, true), "<L>");
}

TEST_F(TokenizerJson, ConfigAddsBosAndEosOnce) {
  write(
      "tokenizer_config.json",
      R"({"add_bos_token":true,"bos_token":{"content":"<s>"},"add_eos_token":true,"eos_token":"<L>","pad_token":null})");
  const std::string post =
      R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
      R"({"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[300],"tokens":["<s>"]}}})";
  for (const std::string& extra : {std::string(), post}) {
    auto t = load(byte_level(std::string(kAdded) + kByteLevelPre + extra));
    ASSERT_TRUE(t) << t.error().message;
    EXPECT_EQ((*t)->encode("", true), (std::vector<int32_t>{300, 400}));
    EXPECT_EQ((*t)->encode("", false), std::vector<int32_t>());
    EXPECT_EQ((*t)->bos_token(), "<s>");
    EXPECT_EQ((*t)->pad_token(), "");
  }
  write("tokenizer_config.json", R"({"add_bos_token":true,"bos_token":"<nope>"})");
  EXPECT_NE(
      error_of(byte_level(kByteLevelPre)).find("tokenizer_config.json: add_bos_token is true"),
      std::string::npos);
}

// A megabyte in one word: the heap, and its result against what doubling must give.
TEST_F(TokenizerJson, OneMegabyteOfOneLetter) {
  auto t = load(byte_level(kByteLevelPre));
  ASSERT_TRUE(t) << t.error().message;
  const std::vector<int32_t> ids = (*t)->encode(std::string(1000003, 'a'), false);
  ASSERT_EQ(ids.size(), 250000u + 2);
  EXPECT_EQ((*t)->id_to_token(ids[0]), "aaaa");
  EXPECT_EQ((*t)->id_to_token(ids[250000]), "aa");
  EXPECT_EQ((*t)->id_to_token(ids[250001]), "a");
}

TEST_F(TokenizerJson, IncrementalDetokenizerEqualsDecode) {
  const std::string sentencepiece =
      R"({"model":{"type":"BPE","byte_fallback":true,"vocab":{"<0xE4>":0,"<0xBD>":1,"<0xA0>":2,"<0x20>":3,"▁":4,)"
      R"("▁a":5,"a":6,"你":7,"<s>":8},"merges":[["▁","a"]]},"added_tokens":[{"id":8,"content":"<s>","special":true}],)"
      R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},)"
      R"({"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}})";
  std::mt19937 random(7);
  for (const std::string& json : {byte_level(std::string(kAdded) + kByteLevelPre), sentencepiece}) {
    auto t = load(json);
    ASSERT_TRUE(t) << t.error().message;
    for (int round = 0; round < 3000; ++round) {
      std::vector<int32_t> ids(random() % 12);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % ((*t)->vocab_size() + 2)) - 1;
      const bool skip = random() % 2;
      IncrementalDetokenizer detokenizer(*t, skip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = detokenizer.push(id);
        EXPECT_EQ(valid_utf8_prefix(piece), piece.size());
        text += piece;
      }
      text += detokenizer.flush();
      ASSERT_EQ(text, (*t)->decode(ids, skip));
    }
  }
}

TEST_F(TokenizerJson, HostileFilesAreRefusedInOneLine) {
  const auto expect = [&](const std::string& json, const std::string& part) {
    const std::string message = error_of(json);
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_NE(message.find("tokenizer.json: "), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  };
  const auto model = [](const std::string& vocab, const std::string& merges) {
    return "{\"model\":{\"type\":\"BPE\",\"vocab\":" + vocab + ",\"merges\":" + merges + "}}";
  };
  expect("", "invalid JSON");
  expect("[]", "not a JSON object");
  expect("{}", "model is missing");
  expect(R"({"model":{"type":"BPE"}})", "model.vocab is missing");
  expect(R"({"model":{"type":"WordPiece","vocab":{}}})", "model.type is \"WordPiece\"");
  expect(model(R"({"a":-1})", "[]"), "id -1");
  expect(model(R"({"a":4294967296})", "[]"), "id 4294967296");
  expect(model(R"({"a":18446744073709551615})", "[]"), "is not an integer");
  expect(model(R"({"a":0.5})", "[]"), "is not an integer");
  expect(model(R"({"a":0,"b":0})", "[]"), "the same id 0");
  expect(model(R"({"a":0,"a":1})", "[]"), "\"a\" has two ids");
  expect(model(R"({"a":"x"})", "[]"), "model.vocab holds a string");
  expect(model(R"([1])", "[]"), "model.vocab is not an object");
  expect(model(R"({"a":0})", "{}"), "model.merges is not a list");
  expect(model(R"({"a":0})", R"(["a"])"), "model.merges entry 0");
  expect(model(R"({"a":0})", R"([["a","a","a"]])"), "model.merges entry");
  expect(model(R"({"a":0})", R"([["a",3]])"), "model.merges entry");
  expect(model(R"({"a":0})", R"(["a b"])"), "\"b\", which is not in the vocabulary");
  expect(byte_level(R"("pre_tokenizer":{"type":"Jieba"})"),
         "pre_tokenizer.type is \"Jieba\"; supported are");
  expect(byte_level(
             R"("normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Magic"}]})"),
         "normalizer.normalizers[1].type is \"Magic\"");
  expect(byte_level(R"("post_processor":{"type":"Bert"})"), "post_processor.type is \"Bert\"");
  expect(
      byte_level(R"("post_processor":{"type":"TemplateProcessing","pair":[],)"
                 R"("single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A"}}],)"
                 R"("special_tokens":{"<s>":{"id":"<s>","ids":[900],"tokens":["<s>"]}}})"),
      "post_processor adds id 900");
  expect(byte_level(
             R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(("}})"),
         "pre_tokenizer.pattern: the regular expression \"((\" is invalid");
  expect(
      byte_level(
          R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":"\\p{N}{1,3}+"}})"),
      "has a + after {n,m}");
  expect(byte_level(R"("added_tokens":[{"id":300,"content":"abc"}])"), "but model.vocab gives it");
  expect(byte_level(R"("added_tokens":[{"id":5,"content":"new"}])"),
         "has id 5, which model.vocab gives to");
  expect(byte_level(R"("added_tokens":[{"id":-3,"content":"new"}])"), "added_tokens[0].id is -3");
  expect(byte_level(kByteLevelPre, "\"unk_token\":\"<unk>\","), "model.unk_token \"<unk>\"");
  std::string deep = R"({"type":"NFC"})";
  for (int i = 0; i < 12; ++i) deep = R"({"type":"Sequence","normalizers":[)" + deep + "]}";
  expect(byte_level("\"normalizer\":" + deep), "nested deeper than 8");
  expect("{\"x\":" + std::string(1000, '[') + std::string(1000, ']') + "}",
         "nesting deeper than 64");
}

TEST_F(TokenizerJson, CutFilesNeverCrash) {
  const std::string whole = byte_level(std::string(kAdded) + kByteLevelPre);
  std::mt19937 random(11);
  for (size_t n = 0; n < whole.size(); n += 1 + random() % 40) {
    EXPECT_NE(error_of(whole.substr(0, n)), "accepted");
    std::string changed = whole;
    changed[n] = static_cast<char>(random());
    (void)load(changed);
  }
}

TEST_F(TokenizerJson, CatastrophicRegexStops) {
  auto t = load(byte_level(
      R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated",)"
      R"("pattern":{"Regex":"(a+)+$|b"}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})"));
  ASSERT_TRUE(t) << t.error().message;
  const std::string text = std::string(40, 'a') + "!";
  EXPECT_EQ((*t)->decode((*t)->encode(text, false), false), text);
}

TEST_F(TokenizerJson, TiktokenFile) {
  write("tokenizer_config.json",
        R"({"added_tokens_decoder":{"260":{"content":"[BOS]","special":true}}})");
  std::string ranks;
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int b = 0; b < 256; ++b) {
    ranks += {digits[b >> 2], digits[(b & 3) << 4], '=', '='};
    ranks += " " + std::to_string(b) + "\n";
  }
  ranks += "aGk= 256\nIGhp 257\n5L2g 258\n";  // "hi", " hi", 你
  write("tiktoken.model", ranks);
  auto t = Tokenizer::from_directory(dir_);
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ((*t)->encode("hi hi[BOS]", false), (std::vector<int32_t>{256, 257, 260}));
  EXPECT_EQ((*t)->encode("你", false), (std::vector<int32_t>{258}));
  EXPECT_EQ((*t)->id_to_token(259), "<|reserved_token_259|>");
  for (const char* bad : {"aGk=\n", "a*k= 1\n", "aGk= x\n", "aGk= -1\n", "", "aGk= 0\naGk= 1\n",
                          "aGk= 0\naG8= 0\n"}) {
    write("tiktoken.model", bad);
    auto refused = Tokenizer::from_directory(dir_);
    ASSERT_FALSE(refused) << bad;
    EXPECT_NE(refused.error().message.find("tiktoken.model: "), std::string::npos);
  }
}

}  // namespace
}  // namespace atom
