#include <gtest/gtest.h>

#include "atom/tokenizer/tokenizer.h"
#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

// A byte-level vocabulary: a control token, the 256 bytes, then what the merges make.
GgufVocab byte_level_vocab(const std::string& pre) {
  GgufVocab v{.model = "gpt2", .pre = pre};
  v.tokens.push_back("<|end|>");
  v.token_types.push_back(3);
  for (int b = 0; b < 256; ++b) {
    std::string token;
    append_utf8(byte_to_alphabet(static_cast<uint8_t>(b)), token);
    v.tokens.push_back(token);
  }
  for (const char* merge : {"h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "Ġ Ġ"}) {
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    v.merges.push_back(merge);
    v.tokens.push_back(joined);
  }
  v.token_types.resize(v.tokens.size(), 1);
  v.eos_id = 0;
  return v;
}

std::vector<std::string> tokens_of(const Tokenizer& t, std::string_view text) {
  std::vector<std::string> out;
  for (const int32_t id : t.encode(text, false)) out.emplace_back(t.id_to_token(id));
  return out;
}

TEST(GgufVocab, SmollmSplitsDigitsOneByOne) {
  auto t = Tokenizer::from_gguf(byte_level_vocab("smollm"));
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(tokens_of(**t, "hello hello12"),
            (std::vector<std::string>{"hello", "Ġhello", "1", "2"}));
  EXPECT_EQ(tokens_of(**t, "12<|end|>"), (std::vector<std::string>{"1", "2", "<|end|>"}));
  EXPECT_EQ((*t)->eos_token(), "<|end|>");
  EXPECT_TRUE((*t)->is_special(0));
}

TEST(GgufVocab, Gpt2KeepsDigitsTogether) {
  auto t = Tokenizer::from_gguf(byte_level_vocab("gpt-2"));
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(tokens_of(**t, "12"), (std::vector<std::string>{"12"}));
  EXPECT_EQ(tokens_of(**t, "   hello"), (std::vector<std::string>{"ĠĠ", "Ġhello"}));
}

TEST(GgufVocab, QwenNormalises) {
  auto t = Tokenizer::from_gguf(byte_level_vocab("qwen2"));
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ((*t)->encode("e\u0301", false), (*t)->encode("\u00e9", false));
  EXPECT_EQ((*t)->decode((*t)->encode("e\u0301", false), false), "\u00e9");
}

TEST(GgufVocab, ErrorsNameTheKey) {
  const auto message = [](const GgufVocab& v) {
    auto t = Tokenizer::from_gguf(v);
    return t ? std::string("accepted") : t.error().message;
  };
  GgufVocab v = byte_level_vocab("nonsense");
  EXPECT_NE(message(v).find("tokenizer.ggml.pre is \"nonsense\"; supported are"),
            std::string::npos);
  v = byte_level_vocab("gpt-2");
  v.model = "bert";
  EXPECT_NE(message(v).find("tokenizer.ggml.model is \"bert\""), std::string::npos);
  v = byte_level_vocab("gpt-2");
  v.merges.push_back("x yz");
  EXPECT_NE(message(v).find("\"yz\""), std::string::npos);
  v = byte_level_vocab("gpt-2");
  v.merges.push_back("xy");
  EXPECT_NE(message(v).find("tokenizer.ggml.merges[7]"), std::string::npos);
  v = byte_level_vocab("gpt-2");
  v.tokens.push_back("hello");
  v.token_types.push_back(1);
  EXPECT_NE(message(v).find("\"hello\" has two ids"), std::string::npos);
  v.token_types.pop_back();
  EXPECT_NE(message(v).find("tokenizer.ggml.token_type has"), std::string::npos);
  v = byte_level_vocab("gpt-2");
  v.tokens[5] = "\xff\xfe";
  EXPECT_NE(message(v).find("tokenizer.ggml.tokens[5] is not UTF-8"), std::string::npos);
  v = byte_level_vocab("gpt-2");
  v.bos_id = 100000;
  EXPECT_NE(message(v).find("tokenizer.ggml.bos_token_id is 100000"), std::string::npos);
  EXPECT_NE(message(GgufVocab{.model = "gpt2", .pre = "gpt-2"}).find("tokens is empty"),
            std::string::npos);
}

GgufVocab sentencepiece_vocab() {
  GgufVocab v{.model = "llama", .pre = "default"};
  const auto add = [&](const std::string& token, float score, int type) {
    v.tokens.push_back(token);
    v.scores.push_back(score);
    v.token_types.push_back(type);
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  for (int b = 0; b < 256; ++b) add(str_format("<0x{:02X}>", b), 0, 6);
  float score = -1;
  for (const char* token :
       {"▁h", "he", "▁he", "ll", "▁hell", "▁hello", "▁▁", "h", "e", "l", "o", "▁"}) {
    add(token, score--, 1);
  }
  v.bos_id = 1;
  v.unk_id = 0;
  return v;
}

TEST(GgufVocab, SentencePieceMergesByScoreAndFallsBackToBytes) {
  auto t = Tokenizer::from_gguf(sentencepiece_vocab());
  ASSERT_TRUE(t) << t.error().message;
  EXPECT_EQ(tokens_of(**t, "hello"), (std::vector<std::string>{"▁hello"}));
  EXPECT_EQ(tokens_of(**t, "é"), (std::vector<std::string>{"▁", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ((*t)->encode("hello", true).front(), 1);
  EXPECT_EQ((*t)->decode((*t)->encode("hello é  hello", true), true), "hello é  hello");
  EXPECT_EQ((*t)->token_bytes(3 + 0xC3), "\xC3");
  EXPECT_EQ((*t)->token_bytes(*(*t)->token_to_id("▁hello")), " hello");
  EXPECT_EQ((*t)->token_bytes(1), "<s>");
}

}  // namespace
}  // namespace atom
