// The API routes behind the HTTP parser: any body gets exactly one answer, never 500. What the
// validator lets through keeps every promise of SamplingParams; a refusal is an OpenAI error object
// with a clean message; an answer is JSON, and the same request streamed says the same.
// First byte: c chat, p completions, t tokenize, d detokenize; the rest is the body.
#include <boost/json.hpp>
#include <cmath>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "atom/core/json.h"
#include "atom/core/log.h"
#include "atom/entrypoints/openai/api_server.h"
#include "tests/fuzz/check.h"
#include "tests/support/byte_tokenizer.h"

namespace {

using namespace atom;
namespace json = boost::json;

constexpr int64_t kMaxModelLen = 4096;
constexpr const char* kTemplate =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}{% for c in "
    "m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{% if enable_thinking %}<think>{% "
    "endif %}{% if add_generation_prompt %}<assistant>{% endif %}";

void check_request(const GenerationRequest& request) {
  const SamplingParams& p = request.sampling;
  const auto prompt = static_cast<int64_t>(request.prompt_token_ids.size());
  FUZZ_CHECK(prompt > 0);
  for (const int32_t id : request.prompt_token_ids)
    FUZZ_CHECK(id >= 0 && id < testing_support::kByteVocabSize);
  FUZZ_CHECK(p.temperature >= 0 && p.temperature <= 2);
  FUZZ_CHECK(p.top_p > 0 && p.top_p <= 1 && p.min_p >= 0 && p.min_p <= 1 && p.top_k >= -1);
  FUZZ_CHECK(std::abs(p.presence_penalty) <= 2 && std::abs(p.frequency_penalty) <= 2);
  FUZZ_CHECK(p.repetition_penalty > 0 && p.repetition_penalty <= 100);
  FUZZ_CHECK(p.max_tokens > 0 || (p.max_tokens == 0 && p.prompt_logprobs));
  FUZZ_CHECK(prompt + p.max_tokens <= kMaxModelLen);
  FUZZ_CHECK(p.min_tokens >= 0 && p.min_tokens <= p.max_tokens);
  FUZZ_CHECK(p.n >= 1 && p.n <= 128 && p.stop_strings.size() <= 16);
  for (const std::string& stop : p.stop_strings) FUZZ_CHECK(!stop.empty() && stop.size() <= 1024);
  for (const int32_t id : p.stop_token_ids)
    FUZZ_CHECK(id >= 0 && id < testing_support::kByteVocabSize);
  for (const auto& [id, bias] : p.logit_bias)
    FUZZ_CHECK(id >= 0 && id < testing_support::kByteVocabSize && std::abs(bias) <= 100);
  if (p.logprobs) FUZZ_CHECK(*p.logprobs >= 0 && *p.logprobs <= 20);
  if (p.prompt_logprobs) FUZZ_CHECK(*p.prompt_logprobs >= 0 && *p.prompt_logprobs <= 20);
}

// Answers at once: two events, the text a function of prompt and choice.
class InstantEngine final : public openai::EngineClient {
 public:
  InstantEngine() : tokenizer_(testing_support::make_byte_tokenizer()) {
    auto parsed = ChatTemplate::parse(kTemplate);
    FUZZ_CHECK(parsed.has_value());
    template_.emplace(std::move(*parsed));
  }
  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback) override {
    check_request(request);
    const int64_t tokens = std::min<int64_t>(request.sampling.max_tokens, 2);
    int64_t made = 0;
    for (int64_t step = tokens == 0 ? 1 : 0; step < std::max<int64_t>(1, tokens); ++step) {
      RequestOutput out{.request_id = ++last_id_,
                        .num_prompt_tokens = static_cast<int64_t>(request.prompt_token_ids.size())};
      if (step == (tokens == 0 ? 1 : 0) && request.sampling.prompt_logprobs)
        out.prompt_logprobs.assign(request.prompt_token_ids.size(), std::nullopt);
      emit(request.sampling, out, step, step + 1 >= tokens, made, callback);
    }
    if (tokens == 0) {
      RequestOutput out{.request_id = last_id_, .finished = true};
      out.prompt_logprobs.assign(request.prompt_token_ids.size(), std::nullopt);
      for (int32_t i = 0; i < request.sampling.n; ++i)
        out.choices.push_back({.index = i, .finish_reason = FinishReason::kLength});
      callback(std::move(out));
    }
    return last_id_;
  }
  void abort(RequestId) override {}
  EngineStats stats() const override { return {}; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
  const ChatTemplate* chat_template() const override { return &*template_; }
  std::string_view chat_template_source() const override { return kTemplate; }
  int64_t max_model_len() const override { return kMaxModelLen; }
  int64_t vocab_size() const override { return testing_support::kByteVocabSize; }

 private:
  static void emit(const SamplingParams& sampling, RequestOutput& out, int64_t step, bool last,
                   int64_t& made, const OutputCallback& callback) {
    if (sampling.max_tokens == 0) return;
    static constexpr const char* kTexts[] = {"a\xc3\xa9\"", "\x01\xf0\x9f\x98\x80\n"};
    for (int32_t i = 0; i < sampling.n; ++i) {
      ChoiceDelta delta{.index = i, .text = kTexts[step], .token_ids = {'a' + i % 4}};
      if (sampling.logprobs) {
        delta.logprobs = {{.logprob = -0.5F, .rank = 1}};
        for (int32_t t = 0; t < *sampling.logprobs; ++t)
          delta.logprobs[0].top.emplace_back(t + 120, -0.5F - static_cast<float>(t));
      }
      if (last) delta.finish_reason = FinishReason::kLength;
      out.choices.push_back(std::move(delta));
    }
    made += sampling.n;
    out.num_generated_tokens = made;
    out.finished = last;
    callback(std::move(out));
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  RequestId last_id_ = 0;
};

class Answer final : public http::ResponseWriter {
 public:
  void send(http::Response response) override {
    const std::lock_guard lock(mutex_);
    FUZZ_CHECK(!done && !streaming);
    status = response.status;
    body = std::move(response.body);
    finish();
  }
  void begin_stream(http::Response head) override {
    const std::lock_guard lock(mutex_);
    FUZZ_CHECK(!done && !streaming);
    status = head.status;
    streaming = true;
  }
  bool write(std::string_view bytes) override {
    const std::lock_guard lock(mutex_);
    FUZZ_CHECK(streaming && !done);
    body += bytes;
    return true;
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    FUZZ_CHECK(streaming && !done);
    finish();
  }
  void on_disconnect(std::function<void()>) override {}
  void wait() {
    std::unique_lock lock(mutex_);
    FUZZ_CHECK(wake_.wait_for(lock, std::chrono::seconds(20), [this] { return done; }));
  }

  int status = 0;
  std::string body;
  bool streaming = false;
  bool done = false;

 private:
  void finish() {
    done = true;
    wake_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable wake_;
};

struct Api {
  InstantEngine engine;
  openai::ApiServer server{
      engine, nullptr, {.served_model_names = {"m"}, .model = "m", .pool_threads = 1}};

  std::shared_ptr<Answer> post(std::string_view path, std::string body) {
    auto answer = std::make_shared<Answer>();
    server.handle({.method = "POST",
                   .target = std::string(path),
                   .path = std::string(path),
                   .body = std::move(body)},
                  answer);
    answer->wait();
    // The request lets go of its sequences a moment after its answer.
    for (int i = 0; server.api_metrics().in_flight.load() != 0; ++i) {
      FUZZ_CHECK(i < 1'000'000);
      std::this_thread::yield();
    }
    return answer;
  }
};

void check_error(const Answer& answer) {
  FUZZ_CHECK(answer.status == 400 || answer.status == 404 || answer.status == 501 ||
             answer.status == 503);
  const auto parsed = parse_json(answer.body);
  FUZZ_CHECK(parsed.has_value());
  const json::object& error = parsed->at("error").as_object();
  FUZZ_CHECK(error.size() == 4 && error.contains("type") && error.contains("code"));
  FUZZ_CHECK(fuzz::is_clean_message(std::string_view(error.at("message").as_string())));
  const json::value& param = error.at("param");
  FUZZ_CHECK(param.is_null() || fuzz::is_clean_message(std::string_view(param.as_string()), 400));
}

struct Choice {
  std::string text;
  std::string finish_reason;
  bool operator==(const Choice&) const = default;
};
using Choices = std::map<int64_t, Choice>;

std::string text_of(const json::object& choice, const char* part) {
  const json::value* text = choice.if_contains("text");
  if (text == nullptr) {
    const json::value* message = choice.if_contains(part);
    FUZZ_CHECK(message != nullptr);
    text = message->as_object().if_contains("content");
  }
  return text != nullptr && text->is_string() ? std::string(text->get_string()) : std::string();
}

void add(Choices& choices, const json::object& body, const char* part) {
  for (const json::value& value : body.at("choices").as_array()) {
    const json::object& object = value.as_object();
    Choice& choice = choices[object.at("index").to_number<int64_t>()];
    FUZZ_CHECK(choice.finish_reason.empty());  // nothing after the end of a choice
    choice.text += text_of(object, part);
    const json::value& reason = object.at("finish_reason");
    if (!reason.is_null()) choice.finish_reason = reason.as_string();
  }
}

Choices read_choices(const Answer& answer) {
  Choices choices;
  if (!answer.streaming) {
    const auto parsed = parse_json(answer.body);
    FUZZ_CHECK(parsed.has_value());
    add(choices, parsed->as_object(), "message");
    return choices;
  }
  std::string_view rest = answer.body;
  bool done = false;
  while (!rest.empty()) {
    const size_t end = rest.find("\n\n");
    FUZZ_CHECK(!done && end != std::string_view::npos && rest.starts_with("data: "));
    const std::string_view event = rest.substr(6, end - 6);
    rest.remove_prefix(end + 2);
    done = event == "[DONE]";
    if (done) continue;
    const auto parsed = parse_json(event);
    FUZZ_CHECK(parsed.has_value());
    add(choices, parsed->as_object(), "delta");
  }
  FUZZ_CHECK(done);
  return choices;
}

// The same request with the other value of `stream`, if it can be written.
std::optional<std::string> turned(const std::string& body) {
  auto parsed = parse_json(body);
  if (!parsed || !parsed->is_object()) return {};
  json::object& object = parsed->get_object();
  const json::value* stream = object.if_contains("stream");
  const bool streamed = stream != nullptr && stream->is_bool() && stream->get_bool();
  object["stream"] = !streamed;
  object.erase("stream_options");
  std::string text = json::serialize(object);
  if (!parse_json(text)) return {};  // 1e400 is read as infinity, which has no JSON form
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 1 << 16) return 0;
  static Api* api = [] {
    set_log_level(LogLevel::kOff);
    return new Api;
  }();
  const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const char kind = static_cast<char>(data[0]);
  const char* path = kind == 't'   ? "/tokenize"
                     : kind == 'd' ? "/detokenize"
                     : kind == 'p' ? "/v1/completions"
                                   : "/v1/chat/completions";
  const std::shared_ptr<Answer> first = api->post(path, body);
  if (first->status != 200) {
    check_error(*first);
    return 0;
  }
  if (kind == 't' || kind == 'd') {
    FUZZ_CHECK(parse_json(first->body).has_value());
    return 0;
  }
  const Choices choices = read_choices(*first);
  FUZZ_CHECK(!choices.empty());
  for (const auto& [index, choice] : choices) FUZZ_CHECK(!choice.finish_reason.empty());
  const std::optional<std::string> other = turned(body);
  if (!other) return 0;
  const std::shared_ptr<Answer> second = api->post(path, *other);
  FUZZ_CHECK(second->status == 200 && second->streaming != first->streaming);
  FUZZ_CHECK(read_choices(*second) == choices);
  return 0;
}
