// Chat answers of a model that writes exactly what a test says: message parts, finish reasons,
// forced calls, logprobs, fields of the template.
#include "atom/entrypoints/chat_fixture.h"
#include "tests/support/byte_tokenizer.h"

namespace atom::chat_testing {
namespace {

using testing_support::byte_ids;

constexpr char kQwen[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if tools %}<tool_call>{{ "
    "tools|tojson }}{% endif %}{% if enable_thinking is false %}<think></think>{% endif %}";
constexpr char kQwenOpen[] = "{{ messages[0].content }}<tool_call></think><think>\n";

// The byte tokenizer, whose special token kByteEot is called `tag`.
class TagTokenizer final : public Tokenizer {
 public:
  explicit TagTokenizer(std::string tag) : tag_(std::move(tag)) {}
  std::vector<int32_t> encode(std::string_view text, bool add_special) const override {
    return bytes_->encode(text, add_special);
  }
  std::string decode(std::span<const int32_t> ids, bool skip) const override {
    return bytes_->decode(ids, skip);
  }
  std::string token_bytes(int32_t id) const override {
    return id == testing_support::kByteEot ? tag_ : bytes_->token_bytes(id);
  }
  std::string_view id_to_token(int32_t id) const override {
    return id == testing_support::kByteEot ? tag_ : bytes_->id_to_token(id);
  }
  std::optional<int32_t> token_to_id(std::string_view token) const override {
    return token == tag_ ? testing_support::kByteEot : bytes_->token_to_id(token);
  }
  bool is_special(int32_t id) const override { return bytes_->is_special(id); }
  int64_t vocab_size() const override { return bytes_->vocab_size(); }
  std::string_view bos_token() const override { return {}; }
  std::string_view eos_token() const override { return {}; }
  std::string_view pad_token() const override { return {}; }
  std::string_view unk_token() const override { return {}; }

 private:
  std::string tag_;
  std::shared_ptr<const Tokenizer> bytes_ = testing_support::make_byte_tokenizer();
};

class ChatAnswerTest : public ChatFixture {
 protected:
  void start(const std::string& text, const std::string& chat_template = kQwen) {
    ChatFixture::start(byte_ids(text), testing_support::make_byte_tokenizer(), chat_template);
  }
};

constexpr char kTools[] =
    R"({"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]})";

std::string tools_and(const std::string& more) {
  std::string out = kTools;
  out.pop_back();
  return out + "," + more + "}";
}

const std::string kCall =
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"\xC3\xA9\"}}\n</tool_call>";

TEST_F(ChatAnswerTest, ReasoningContentAndCalls) {
  start("<think>\nHm.\n</think>\n\nLook:\n" + kCall + "\n" + kCall);
  const json::object answer = ask(kTools);
  const json::object& message = message_of(answer);
  EXPECT_EQ(message.at("reasoning"), "Hm.");
  EXPECT_EQ(message.at("reasoning_content"), "Hm.");
  EXPECT_EQ(message.at("content"), "Look:");
  ASSERT_EQ(message.at("tool_calls").as_array().size(), 2U);
  const json::value& call = message.at("tool_calls").at(1);
  EXPECT_EQ(call.at("type"), "function");
  EXPECT_EQ(call.at("function").at("arguments"), "{\"a\": \"\xC3\xA9\"}");
  EXPECT_NE(call.at("id"), message.at("tool_calls").at(0).at("id"));
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "tool_calls");
  EXPECT_NE(client_->prompt.find("<tool_call>[{"), std::string::npos);

  const json::object one = ask(tools_and(R"("parallel_tool_calls":false)").c_str());
  EXPECT_EQ(message_of(one).at("tool_calls").as_array().size(), 1U);
  const json::object hidden = ask(tools_and(R"("include_reasoning":false)").c_str());
  EXPECT_FALSE(message_of(hidden).contains("reasoning"));
}

TEST_F(ChatAnswerTest, CallsWithoutContentHaveNull) {
  start(kCall);
  const json::object answer = ask(tools_and(R"("n":3)").c_str());
  ASSERT_EQ(answer.at("choices").as_array().size(), 3U);
  EXPECT_TRUE(message_of(answer).at("content").is_null());
  EXPECT_FALSE(message_of(answer).contains("reasoning"));
}

TEST_F(ChatAnswerTest, TextIsReadAsCallsOnlyWhenThereAreTools) {
  start(kCall);
  EXPECT_EQ(message_of(ask("{}")).at("content"), json::value(kCall));
  const json::object none = ask(tools_and(R"("tool_choice":"none")").c_str());
  EXPECT_EQ(message_of(none).at("content"), json::value(kCall));
  EXPECT_EQ(client_->prompt.find("<tool_call>"), std::string::npos);
  EXPECT_EQ(none.at("choices").at(0).at("finish_reason"), "stop");
}

TEST_F(ChatAnswerTest, ReasoningCutShort) {
  start("so many thoughts", kQwenOpen);
  const json::object answer = ask(R"({"max_tokens":7})");
  EXPECT_EQ(message_of(answer).at("reasoning"), "so many");
  EXPECT_TRUE(message_of(answer).at("content").is_null());
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "length");
}

TEST_F(ChatAnswerTest, ReasoningThatTheClientBegan) {
  start("more</think>Yes.");
  const json::object answer = ask(
      R"({"messages":[{"role":"user","content":"?"},{"role":"assistant","content":"<think>Some "}],
          "continue_final_message":true,"add_generation_prompt":false})");
  EXPECT_EQ(message_of(answer).at("reasoning"), "more");
  EXPECT_EQ(message_of(answer).at("content"), "Yes.");
}

TEST_F(ChatAnswerTest, ABrokenCallIsContent) {
  const std::string broken = R"(<tool_call>{"name": "f", "arguments": {"a": nan}}</tool_call>)";
  start(broken);
  const json::object answer = ask(kTools);
  EXPECT_EQ(message_of(answer).at("content"), json::value(broken));
  EXPECT_FALSE(message_of(answer).contains("tool_calls"));
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "stop");
}

TEST_F(ChatAnswerTest, ForcedCalls) {
  start(kCall);
  const json::object required = ask(tools_and(R"("tool_choice":"required")").c_str());
  EXPECT_EQ(required.at("choices").at(0).at("finish_reason"), "tool_calls");
  ASSERT_TRUE(client_->grammar);
  EXPECT_EQ(client_->grammar->kind, GrammarSpec::Kind::kStructuralTag);
  EXPECT_NE(client_->grammar->text.find("tags_with_separator"), std::string::npos);
  EXPECT_NE(client_->grammar->text.find("<think>"), std::string::npos);
  const json::object named =
      ask(tools_and(R"("tool_choice":{"type":"function","function":{"name":"f"}},
                   "chat_template_kwargs":{"enable_thinking":false})")
              .c_str());
  EXPECT_EQ(named.at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(client_->grammar->text.find("<think>"), std::string::npos);
  EXPECT_EQ(message_of(named).at("tool_calls").at(0).at("function").at("name"), "f");
  EXPECT_EQ(error(R"({"tool_choice":"required"})").at("param"), "tool_choice");
  const auto allowed = [](const std::string& mode, const std::string& name) {
    return tools_and(R"("tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":")" + mode +
                     R"(","tools":[{"type":"function","function":{"name":")" + name + R"("}}]}})");
  };
  EXPECT_TRUE(ask(allowed("required", "f").c_str()).contains("choices"));
  EXPECT_EQ(error(allowed("auto", "g").c_str()).at("param"), "tool_choice");
  EXPECT_EQ(error(allowed("no", "f").c_str()).at("param"), "tool_choice.allowed_tools.mode");
  EXPECT_EQ(error(tools_and(R"("tool_choice":{"type":"function","function":{"name":"g"}})").c_str())
                .at("param"),
            "tool_choice");
}

// What cannot be enforced is refused for strict tools; for others the form of the call is enough.
TEST_F(ChatAnswerTest, SchemasThatCannotBeEnforced) {
  start(kCall);
  const std::string tool =
      R"({"tool_choice":"required","tools":[{"type":"function","function":{"name":"f","strict":STRICT,
          "parameters":{"type":"object","uncompilable":1}}}]})";
  const auto with = [&](const char* strict) {
    return std::string(tool).replace(tool.find("STRICT"), 6, strict);
  };
  EXPECT_TRUE(message_of(ask(with("false").c_str())).contains("tool_calls"));
  EXPECT_NE(client_->grammar->text.find("tags_with_separator"), std::string::npos);
  EXPECT_EQ(error(with("true").c_str()).at("param"), "tool_choice");
}

// A model without a form of its own is held to bare JSON.
TEST_F(ChatAnswerTest, ForcedCallsOfAnyModel) {
  start(R"({"name": "f", "parameters": {"a": 1}})", "{{ messages[0].content }}");
  EXPECT_FALSE(message_of(ask(kTools)).contains("tool_calls"));
  const json::object answer = ask(tools_and(R"("tool_choice":"required")").c_str());
  EXPECT_EQ(message_of(answer).at("tool_calls").at(0).at("function").at("arguments"),
            R"({"a": 1})");
}

TEST_F(ChatAnswerTest, ControlTokensReachTheParserAndNotTheText) {
  const char* llama = "<|start_header_id|>ipython{{ '\"parameters\": ' }}{{ messages[0].content }}";
  const auto say = [&](const std::string& before, const std::string& after) {
    std::vector<int32_t> script = byte_ids(before);
    script.push_back(testing_support::kByteEot);
    for (const int32_t id : byte_ids(after)) script.push_back(id);
    ChatFixture::start(script, std::make_shared<TagTokenizer>("<|python_tag|>"), llama);
  };
  say("Look: ", R"({"name": "not_bare", "parameters": {"a": 1}})");
  const json::object answer = ask(tools_and(R"("skip_special_tokens":false)").c_str());
  EXPECT_EQ(message_of(answer).at("content"), "Look:");
  EXPECT_EQ(message_of(answer).at("tool_calls").at(0).at("function").at("name"), "not_bare");
  say("", "print(1)");
  EXPECT_EQ(message_of(ask(kTools)).at("content"), "print(1)");
}

// Its templates raise an exception for ids of another form, when the calls come back as history.
TEST_F(ChatAnswerTest, MistralsCallsHaveIdsThatItsTemplateTakes) {
  constexpr char kMistral[] =
      "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
      "{% if c.id|length != 9 %}{{ raise_exception('9 characters') }}{% endif %}"
      "[TOOL_CALLS][{{ c.function|tojson }}]{% endfor %}{% endif %}{{ m.content }}{% endfor %}";
  std::vector<int32_t> script = {testing_support::kByteEot};
  for (const int32_t id : byte_ids(R"([{"name": "f", "arguments": {"a": 1}}])")) {
    script.push_back(id);
  }
  ChatFixture::start(script, std::make_shared<TagTokenizer>("[TOOL_CALLS]"), kMistral);
  const json::object answer = ask(kTools);
  EXPECT_TRUE(message_of(answer).at("content").is_null());
  const json::value& call = message_of(answer).at("tool_calls").at(0);
  EXPECT_EQ(call.at("function").at("arguments"), R"({"a": 1})");
  EXPECT_EQ(call.at("id").as_string().size(), 9U);
  json::object body = body_of(kTools);
  body["messages"] = json::array{{{"role", "user"}, {"content", "Hi"}}, message_of(answer)};
  post(body);
  EXPECT_NE(client_->prompt.find("[TOOL_CALLS]"), std::string::npos);
}

TEST_F(ChatAnswerTest, LogprobsAndTokenIdsOfAllTokens) {
  start("<think>a</think>b" + kCall);
  const char* extra = R"(,"logprobs":true,"return_token_ids":true,"top_logprobs":1)";
  const std::string body = std::string(kTools).substr(0, sizeof(kTools) - 2) + extra + "}";
  const json::object answer = whole(body.c_str());
  const json::value& choice = answer.at("choices").at(0);
  const size_t tokens = choice.at("token_ids").as_array().size();
  EXPECT_EQ(choice.at("logprobs").at("content").as_array().size(), tokens);
  json::object stream = body_of(body.c_str());
  stream["stream"] = true;
  const std::string bytes = post(stream);
  size_t streamed_tokens = 0;
  for (size_t at = 0; (at = bytes.find("\"top_logprobs\"", at)) != std::string::npos; ++at)
    ++streamed_tokens;
  EXPECT_EQ(streamed_tokens, tokens);
  const json::object hidden =
      whole((body.substr(0, body.size() - 1) + R"(,"include_reasoning":false})").c_str());
  EXPECT_TRUE(hidden.at("choices").at(0).at("logprobs").is_null());
}

TEST_F(ChatAnswerTest, PromptLogprobs) {
  start("x");
  const json::object answer = whole(R"({"prompt_logprobs":1})");
  const json::array& rows = answer.at("prompt_logprobs").as_array();
  ASSERT_EQ(rows.size(), client_->prompt.size());
  EXPECT_TRUE(rows[0].is_null());
  const json::value& second = rows[1].at(std::to_string(int{client_->prompt[1]}));
  EXPECT_EQ(second.at("decoded_token"), json::value(client_->prompt.substr(1, 1)));
  EXPECT_EQ(second.at("rank"), 1);
  EXPECT_LT(second.at("logprob").as_double(), 0);
  EXPECT_EQ(error(R"({"prompt_logprobs":1,"stream":true})").at("param"), "prompt_logprobs");
}

TEST_F(ChatAnswerTest, FieldsOfTheChatTemplate) {
  start("x",
        "{% for m in messages %}{{ m.role }} {% endfor %}{{ documents }}{{ enable_thinking }}");
  whole(R"({"messages":[{"role":"developer","content":"a"}],"thinking":{"type":"disabled"},
            "documents":[{"title":"T"}]})");
  EXPECT_EQ(client_->prompt, "system [{'title': 'T'}]False");
  whole(R"({"reasoning_effort":"none","chat_template_kwargs":{"enable_thinking":true}})");
  EXPECT_EQ(client_->prompt, "user NoneTrue");
  EXPECT_EQ(error(R"({"thinking":7})").at("param"), "thinking");
  EXPECT_EQ(error(R"({"n":128})").at("param"), "n");
  EXPECT_NE(json::value_to<std::string>(error(R"({"max_tokens":-1})").at("message"))
                .find("must be at least 1"),
            std::string::npos);
}

}  // namespace
}  // namespace atom::chat_testing
