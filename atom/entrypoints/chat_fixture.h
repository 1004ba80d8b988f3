// For tests of chat answers: the routes and the real engine over an executor that writes exactly
// what a test says, without sockets. Every request is made whole and as a stream; what a client
// accumulates of the stream must be the whole message.
#pragma once

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <condition_variable>
#include <mutex>

#include "atom/core/format.h"
#include "atom/core/json.h"
#include "atom/entrypoints/openai/api_server.h"
#include "tests/support/scripted_executor.h"

namespace atom::chat_testing {

namespace json = boost::json;
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
    if (grammar && grammar->text.find("uncompilable") != std::string::npos) {
      return std::unexpected(Error{
          .code = ErrorCode::kInvalidArgument, .message = "uncompilable", .param = grammar->param});
    }
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
  int64_t vocab_size() const override { return engine_->model_config().vocab_size; }

  std::optional<GrammarSpec> grammar;
  std::string prompt;

 private:
  std::unique_ptr<LLMEngine> engine_;
};

class ChatFixture : public testing::Test {
 protected:
  // A model that writes these tokens, then ends.
  void start(std::vector<int32_t> script, std::shared_ptr<const Tokenizer> tokenizer,
             const std::string& chat_template) {
    auto parsed = ChatTemplate::parse(chat_template);
    ASSERT_TRUE(parsed) << parsed.error().message;
    const auto eos = static_cast<int32_t>(tokenizer->vocab_size());
    EngineParts parts{
        .executor = std::make_unique<testing_support::ScriptedExecutor>(
            testing_support::ScriptedOptions{.script = std::move(script), .eos = eos}),
        .tokenizer = std::move(tokenizer),
        .chat_template = std::make_shared<const ChatTemplate>(std::move(*parsed)),
        .chat_template_source = chat_template,
        .model = {.vocab_size = eos + 1, .max_position_embeddings = 8192, .eos_token_ids = {eos}}};
    auto engine = LLMEngine::create_with(std::move(parts));
    ASSERT_TRUE(engine);
    api_.reset();  // its threads may still be in the client before
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
        const std::string_view id = call.at("id").as_string();
        EXPECT_TRUE(id.starts_with("call_") || id.size() == 9) << id;  // 9: Mistral
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

}  // namespace atom::chat_testing
