// Chat answers of a model that writes exactly what a test says: the routes and the real engine over
// a scripted executor, without sockets. Every request is made whole and as a stream; what a client
// accumulates of the stream must be the whole message.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

#include "atom/core/format.h"
#include "atom/core/json.h"
#include "atom/entrypoints/openai/api_server.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/scripted_executor.h"

namespace atom {
namespace {

namespace json = boost::json;
using testing_support::byte_ids;

constexpr char kQwen[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if tools %}<tool_call>{{ "
    "tools|tojson }}{% endif %}{% if enable_thinking is false %}<think></think>{% endif %}";
constexpr char kQwenOpen[] = "{{ messages[0].content }}<tool_call></think><think>\n";

class Writer final : public http::ResponseWriter {
 public:
  void send(http::Response response) override {
    const std::lock_guard lock(mutex_);
    status = response.status;
    bytes = std::move(response.body);
    done_ = true;
    ready_.notify_all();
  }
  void begin_stream(http::Response head) override { status = head.status; }
  bool write(std::string_view text) override {
    bytes += text;
    return true;
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    ready_.notify_all();
  }
  void on_disconnect(std::function<void()>) override {}
  bool wait() {
    std::unique_lock lock(mutex_);
    return ready_.wait_for(lock, std::chrono::seconds(60), [this] { return done_; });
  }
  int status = 0;
  std::string bytes;

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  bool done_ = false;
};

// The engine, which keeps to no grammar: the script decides. Remembers what was asked of it.
class Client final : public openai::EngineClient {
 public:
  explicit Client(std::unique_ptr<LLMEngine> engine) : engine_(std::move(engine)) {}
  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback) override {
    grammar = std::exchange(request.sampling.grammar, std::nullopt);
    prompt = engine_->tokenizer()->decode(request.prompt_token_ids, false);
    return engine_->add_request(std::move(request), std::move(callback));
  }
  void abort(RequestId id) override { engine_->abort(id); }
  EngineStats stats() const override { return engine_->stats(); }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override {
    return engine_->tokenizer();
  }
  const ChatTemplate* chat_template() const override { return engine_->chat_template(); }
  std::string_view chat_template_source() const override { return engine_->chat_template_source(); }
  int64_t max_model_len() const override { return engine_->max_model_len(); }
  int64_t vocab_size() const override { return testing_support::kByteVocabSize; }

  std::optional<GrammarSpec> grammar;
  std::string prompt;

 private:
  std::unique_ptr<LLMEngine> engine_;
};

class ChatAnswerTest : public testing::Test {
 protected:
  void start(const std::string& text, const std::string& chat_template = kQwen) {
    auto parsed = ChatTemplate::parse(chat_template);
    ASSERT_TRUE(parsed);
    testing_support::ScriptedOptions options{.script = byte_ids(text),
                                             .eos = testing_support::kByteEos};
    EngineParts parts{
        .executor = std::make_unique<testing_support::ScriptedExecutor>(std::move(options)),
        .tokenizer = testing_support::make_byte_tokenizer(),
        .chat_template = std::make_shared<const ChatTemplate>(std::move(*parsed)),
        .chat_template_source = chat_template,
        .model = {.vocab_size = testing_support::kByteVocabSize,
                  .max_position_embeddings = 8192,
                  .eos_token_ids = {testing_support::kByteEos}}};
    auto engine = LLMEngine::create_with(std::move(parts));
    ASSERT_TRUE(engine);
    client_ = std::make_unique<Client>(std::move(*engine));
    api_ = std::make_unique<openai::ApiServer>(
        *client_, nullptr, openai::ApiOptions{.served_model_names = {"m"}, .max_in_flight = 64});
  }
  std::string post(const json::object& body, int want_status = 200) {
    const auto writer = std::make_shared<Writer>();
    http::Request request{.method = "POST", .path = "/v1/chat/completions"};
    request.body = json::serialize(body);
    api_->handle(std::move(request), writer);
    EXPECT_TRUE(writer->wait());
    EXPECT_EQ(writer->status, want_status) << writer->bytes;
    return writer->bytes;
  }
  static json::object body_of(const char* extra) {
    json::object body = json::parse(extra).as_object();
    body.emplace("messages", json::array{{{"role", "user"}, {"content", "Hi"}}});
    body.emplace("max_tokens", 4000);
    return body;
  }
  json::object error(const char* extra, int status = 400) {
    return json::parse(post(body_of(extra), status)).at("error").as_object();
  }
  json::object whole(const char* extra) { return json::parse(post(body_of(extra))).as_object(); }

  // The choices as a client puts a stream together, and every chunk's shape.
  std::vector<json::object> streamed(const char* extra) {
    json::object body = body_of(extra);
    body["stream"] = true;
    const std::string bytes = post(body);
    std::vector<json::object> choices;
    EXPECT_TRUE(bytes.ends_with("data: [DONE]\n\n"));
    for (size_t at = 0; at + 14 < bytes.size();) {
      const size_t end = bytes.find("\n\n", at);
      const json::value chunk = json::parse(bytes.substr(at + 6, end - at - 6));
      at = end + 2;
      for (const json::value& choice : chunk.at("choices").as_array())
        accumulate(choice.as_object(), choices);
    }
    return choices;
  }
  static void accumulate(const json::object& choice, std::vector<json::object>& choices) {
    const auto index = static_cast<size_t>(choice.at("index").as_int64());
    if (choices.size() <= index) choices.resize(index + 1);
    json::object& sum = choices[index];
    const json::object& delta = choice.at("delta").as_object();
    EXPECT_EQ(delta.contains("role"), !sum.contains("role"));
    EXPECT_FALSE(sum.contains("finish_reason"));
    if (!choice.at("finish_reason").is_null()) sum["finish_reason"] = choice.at("finish_reason");
    for (const char* key : {"role", "content", "reasoning", "reasoning_content"}) {
      if (!delta.contains(key)) continue;
      sum[key] = (sum.contains(key) ? json::value_to<std::string>(sum[key]) : "") +
                 json::value_to<std::string>(delta.at(key));
    }
    if (!delta.contains("tool_calls")) return;
    if (!sum.contains("tool_calls")) sum["tool_calls"] = json::array();
    json::array& calls = sum["tool_calls"].as_array();
    for (const json::value& part : delta.at("tool_calls").as_array()) {
      const auto at = static_cast<size_t>(part.at("index").as_int64());
      const json::object& function = part.at("function").as_object();
      if (part.as_object().contains("id")) {
        EXPECT_EQ(at, calls.size());
        EXPECT_EQ(part.at("type"), "function");
        calls.push_back({{"name", function.at("name")}, {"arguments", ""}});
      } else {
        EXPECT_FALSE(function.contains("name"));
      }
      calls.at(at).at("arguments") = json::value_to<std::string>(calls.at(at).at("arguments")) +
                                     json::value_to<std::string>(function.at("arguments"));
    }
  }
  // Asks in both ways and gives the whole answer, which must say what the stream said.
  json::object ask(const char* extra) {
    const json::object answer = whole(extra);
    const std::vector<json::object> stream = streamed(extra);
    const json::array& choices = answer.at("choices").as_array();
    EXPECT_EQ(stream.size(), choices.size());
    for (size_t i = 0; i < choices.size() && i < stream.size(); ++i) {
      const json::object& message = choices[i].at("message").as_object();
      EXPECT_EQ(stream[i].at("finish_reason"), choices[i].at("finish_reason"));
      for (const char* key : {"content", "reasoning", "reasoning_content"}) {
        const json::value* text = message.if_contains(key);
        const json::value* other = stream[i].if_contains(key);
        EXPECT_EQ(text != nullptr && text->is_string() ? *text : json::value(""),
                  other != nullptr ? *other : json::value(""));
      }
      EXPECT_EQ(message.contains("tool_calls"), stream[i].contains("tool_calls"));
      if (!message.contains("tool_calls")) continue;
      json::array calls;
      for (const json::value& call : message.at("tool_calls").as_array()) {
        EXPECT_TRUE(std::string_view(call.at("id").as_string()).starts_with("call_"));
        calls.push_back(call.at("function"));
      }
      EXPECT_EQ(json::value(calls), stream[i].at("tool_calls"));
    }
    return answer;
  }
  static const json::object& message_of(const json::object& answer) {
    return answer.at("choices").at(0).at("message").as_object();
  }

  std::unique_ptr<Client> client_;
  std::unique_ptr<openai::ApiServer> api_;
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
  EXPECT_EQ(error(tools_and(R"("tool_choice":{"type":"function","function":{"name":"g"}})").c_str())
                .at("param"),
            "tool_choice");
}

// A model without a form of its own is held to bare JSON.
TEST_F(ChatAnswerTest, ForcedCallsOfAnyModel) {
  start(R"({"name": "f", "parameters": {"a": 1}})", "{{ messages[0].content }}");
  EXPECT_FALSE(message_of(ask(kTools)).contains("tool_calls"));
  const json::object answer = ask(tools_and(R"("tool_choice":"required")").c_str());
  EXPECT_EQ(message_of(answer).at("tool_calls").at(0).at("function").at("arguments"),
            R"({"a": 1})");
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
}  // namespace atom
