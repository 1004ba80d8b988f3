// Tool calls and reasoning of real models: their own tokenizers and chat templates, when they are
// at hand: in ATOM_TOKENIZERS_DIR, a folder with one of each model (tokenizer.json and
// tokenizer_config.json), else packed as tokenizers/tokenizers.tar.xz in ATOM_SHARED_DIR, else in
// ../shared beside the source tree.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "atom/entrypoints/chat_fixture.h"

namespace atom::chat_testing {
namespace {

constexpr char kWeather[] = R"("tools":[{"type":"function","function":{"name":"get_weather",
  "description":"Weather of a place","parameters":{"type":"object","properties":
  {"city":{"type":"string"}},"required":["city"]}}}])";

namespace fs = std::filesystem;

class ChatFamiliesTest : public ChatFixture {
 protected:
  static void SetUpTestSuite() {
    if (const char* const given = std::getenv("ATOM_TOKENIZERS_DIR")) {
      folder_ = given;
      return;
    }
    const char* const shared = std::getenv("ATOM_SHARED_DIR");
    const fs::path archive =
        fs::path(shared != nullptr ? shared : "../shared") / "tokenizers/tokenizers.tar.xz";
    if (!fs::exists(archive)) return;
    std::string made = (fs::temp_directory_path() / "atom-tokenizers-XXXXXX").string();
    ASSERT_NE(mkdtemp(made.data()), nullptr);
    folder_ = unpacked_ = made;
    const std::string command = "tar -xJf '" + archive.string() + "' -C '" + made + "'";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  static void TearDownTestSuite() {
    if (!unpacked_.empty()) fs::remove_all(unpacked_);
  }

  // False: skip.
  bool load(const std::string& name) {
    const fs::path path = folder_ / name;
    if (!std::filesystem::exists(path / "tokenizer.json")) return false;
    auto loaded = Tokenizer::from_directory(path);
    EXPECT_TRUE(loaded);
    tokenizer_ = *loaded;
    std::ifstream file(path / "tokenizer_config.json");
    const json::value config = json::parse(std::string(std::istreambuf_iterator<char>(file), {}));
    if (const json::value* source = config.as_object().if_contains("chat_template"))
      chat_template_ = json::value_to<std::string>(*source);
    return true;
  }
  void say(const std::string& text) {
    ChatFixture::start(tokenizer_->encode(text, false), tokenizer_, chat_template_);
  }
  static inline fs::path folder_, unpacked_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string chat_template_;
};

std::string object(std::string_view members) { return "{" + std::string(members) + "}"; }

TEST_F(ChatFamiliesTest, Qwen3) {
  if (!load("qwen3")) GTEST_SKIP() << "no tokenizer of qwen3: set ATOM_SHARED_DIR";
  const std::string city = "M\xC3\xBCnchen \xF0\x9F\xA5\xA8";
  say("<think>\nThe user wants the weather.\n</think>\n\n<tool_call>\n{\"name\": \"get_weather\", "
      "\"arguments\": {\"city\": \"" +
      city + "\"}}\n</tool_call>");
  const json::object answer = ask(object(kWeather).c_str());
  const json::object& message = message_of(answer);
  EXPECT_EQ(message.at("reasoning"), "The user wants the weather.");
  EXPECT_TRUE(message.at("content").is_null());
  const json::value& function = message.at("tool_calls").at(0).at("function");
  EXPECT_EQ(function.at("name"), "get_weather");
  EXPECT_EQ(function.at("arguments"), json::value("{\"city\": \"" + city + "\"}"));
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "tool_calls");
  EXPECT_EQ(answer.at("usage").at("completion_tokens_details").at("reasoning_tokens"), 7);
  EXPECT_NE(client_->prompt.find("<tools>\n{\"type\": \"function\""), std::string::npos);

  // Without thinking the template closes the block in the prompt, and the text is content.
  say("It is sunny.");
  const json::object plain = ask(R"({"chat_template_kwargs":{"enable_thinking":false}})");
  EXPECT_EQ(message_of(plain).at("content"), "It is sunny.");
  EXPECT_TRUE(client_->prompt.ends_with("<think>\n\n</think>\n\n"));
}

TEST_F(ChatFamiliesTest, Qwen3History) {
  if (!load("qwen3")) GTEST_SKIP() << "no tokenizer of qwen3: set ATOM_SHARED_DIR";
  say("Sunny.");
  whole(
      R"({"messages":[{"role":"developer","content":"Be brief."},{"role":"user","content":"Weather?"},
    {"role":"assistant","content":null,"reasoning_content":"Look.","tool_calls":[{"id":"call_1","type":"function",
     "function":{"name":"get_weather","arguments":"{\"city\": \"Bonn\", \"days\": 2}"}}]},
    {"role":"tool","tool_call_id":"call_1","content":[{"type":"text","text":"sun"}]}]})");
  EXPECT_EQ(client_->prompt,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n"
            "<|im_start|>assistant\n<think>\nLook.\n</think>\n\n<tool_call>\n{\"name\": "
            "\"get_weather\", \"arguments\": {\"city\": \"Bonn\", \"days\": 2}}\n</tool_call>"
            "<|im_end|>\n<|im_start|>user\n<tool_response>\nsun\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST_F(ChatFamiliesTest, Llama31) {
  if (!load("llama3_1")) GTEST_SKIP() << "no tokenizer of llama3_1: set ATOM_SHARED_DIR";
  chat_template_ =  // known by what Llama's templates have in common; the folder may hold a base
                    // model
      "{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}"
      "<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}{{ '{\"parameters\": ' }}";
  say(R"({"name": "get_weather", "parameters": {"city": "Bonn"}})");
  const json::object message = message_of(ask(object(kWeather).c_str()));
  EXPECT_EQ(message.at("tool_calls").at(0).at("function").at("arguments"), R"({"city": "Bonn"})");
  EXPECT_TRUE(message.at("content").is_null());
}

TEST_F(ChatFamiliesTest, GptOss) {
  if (!load("gptoss")) GTEST_SKIP() << "no tokenizer of gptoss: set ATOM_SHARED_DIR";
  chat_template_ =
      "{% for message in messages %}<|start|>{{ message.role }}<|message|>"
      "{{ message.thinking or message.content }}<|end|>{% endfor %}<|start|>assistant"
      "{# <|channel|> #}";
  say("<|channel|>analysis<|message|>The user wants the weather.<|end|><|start|>assistant"
      "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
      "{\"city\": \"Bonn\"}<|call|>");
  for (const bool show_specials : {false, true}) {
    const json::object answer = ask(object(std::string(kWeather) + ",\"skip_special_tokens\":" +
                                           (show_specials ? "false" : "true"))
                                        .c_str());
    const json::object& message = message_of(answer);
    EXPECT_EQ(message.at("reasoning"), "The user wants the weather.");
    EXPECT_TRUE(message.at("content").is_null());
    const json::value& function = message.at("tool_calls").at(0).at("function");
    EXPECT_EQ(function.at("name"), "get_weather");
    EXPECT_EQ(function.at("arguments"), R"({"city": "Bonn"})");
    EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "tool_calls");
  }
  say("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
      "Sunny.");
  const json::object plain = ask("{}");
  EXPECT_EQ(message_of(plain).at("content"), "Sunny.");
  EXPECT_EQ(message_of(plain).at("reasoning"), "Hm.");
  EXPECT_TRUE(client_->prompt.ends_with("<|start|>assistant"));
  // Earlier reasoning stands where the template looks for it.
  whole(R"({"messages":[{"role":"user","content":"Weather?"},{"role":"assistant","content":"",
    "reasoning_content":"Look."}]})");
  EXPECT_NE(client_->prompt.find("assistant<|message|>Look.<|end|>"), std::string::npos);
}

}  // namespace
}  // namespace atom::chat_testing
