#include "atom/benchmark/backend.h"

#include <algorithm>
#include <boost/json.hpp>

#include "atom/core/printable.h"

namespace atom {
namespace {

namespace json = boost::json;

json::value optional_number(const std::optional<int64_t>& value) {
  return value ? json::value(*value) : json::value(nullptr);
}

std::string completions_body(const BackendRequest& request) {
  json::object body{{"model", request.model},
                    {"prompt", request.prompt},
                    {"temperature", 0.0},
                    {"best_of", request.best_of},
                    {"max_tokens", request.output_len},
                    {"logprobs", optional_number(request.logprobs)},
                    {"stream", true},
                    {"stream_options", {{"include_usage", true}}}};
  if (request.ignore_eos) body["ignore_eos"] = true;
  return json::serialize(body);
}

std::string chat_body(const BackendRequest& request) {
  json::object body{
      {"model", request.model},
      {"messages",
       json::array{json::object{
           {"role", "user"},
           {"content", json::array{json::object{{"type", "text"}, {"text", request.prompt}}}}}}},
      {"temperature", 0.0},
      {"max_completion_tokens", request.output_len},
      {"stream", true},
      {"stream_options", {{"include_usage", true}}}};
  if (request.ignore_eos) body["ignore_eos"] = true;
  return json::serialize(body);
}

std::string tgi_body(const BackendRequest& request) {
  json::object parameters{{"best_of", request.best_of},
                          {"max_new_tokens", request.output_len},
                          {"do_sample", true},
                          {"temperature", 0.01},
                          {"top_p", 0.99}};
  if (request.ignore_eos) parameters["ignore_eos_token"] = true;
  return json::serialize(
      json::object{{"inputs", request.prompt}, {"parameters", std::move(parameters)}});
}

std::string trt_llm_body(const BackendRequest& request) {
  json::object body{{"accumulate_tokens", true},
                    {"text_input", request.prompt},
                    {"temperature", 0.0},
                    {"top_p", 1.0},
                    {"max_tokens", request.output_len},
                    {"stream", true}};
  if (request.ignore_eos) body["min_length"] = request.output_len;
  return json::serialize(body);
}

std::string mii_body(const BackendRequest& request) {
  return json::serialize(json::object{{"prompt", request.prompt},
                                      {"max_tokens", request.output_len},
                                      {"temperature", 0.01},
                                      {"top_p", 1.0}});
}

const json::value* member(const json::value* value, std::string_view key) {
  const auto* object = value != nullptr ? value->if_object() : nullptr;
  return object != nullptr ? object->if_contains(key) : nullptr;
}

std::string text_of(const json::value* value) {
  const auto* text = value != nullptr ? value->if_string() : nullptr;
  return text != nullptr ? std::string(*text) : std::string();
}

std::string error_text(const json::value& error) {
  const json::value* message = member(&error, "message");
  return printable(message != nullptr && message->is_string() ? text_of(message)
                                                              : json::serialize(error));
}

// Parsed without a heap as long as it is small: a client reads a hundred thousand of these a
// second.
class Event {
 public:
  Status parse(std::string_view text) {
    json::parser parser(json::storage_ptr(), json::parse_options{.max_depth = 64}, scratch_);
    parser.reset(&memory_);
    json::error_code error;
    parser.write(text, error);
    if (error) {
      return make_error(ErrorCode::kUnavailable, "the answer is not JSON ({}): {}", error.message(),
                        printable(text, 80));
    }
    root_.emplace(parser.release());
    return {};
  }
  const json::value& root() const { return *root_; }

 private:
  unsigned char scratch_[2048];
  unsigned char first_[2048];
  json::monotonic_resource memory_{first_};
  std::optional<json::value> root_;  // in memory_
};

// `text_key` is where a choice keeps its piece of text.
template <class TextOf>
Result<StreamEvent> read_openai(std::string_view text, TextOf text_of_choice) {
  StreamEvent event;
  if (text == "[DONE]") {
    event.done = true;
    return event;
  }
  Event parsed;
  ATOM_RETURN_IF_ERROR(parsed.parse(text));
  const json::value& root = parsed.root();
  const json::value* error = member(&root, "error");
  if (error != nullptr && !error->is_null()) {
    event.error = error_text(*error);
    return event;
  }
  const json::value* choices = member(&root, "choices");
  if (choices != nullptr && choices->is_array() && !choices->get_array().empty()) {
    event.has_choice = true;
    event.text = text_of_choice(choices->get_array()[0]);
  } else if (const json::value* usage = member(&root, "usage")) {
    const json::value* count = member(usage, "completion_tokens");
    if (count != nullptr && count->is_int64()) event.completion_tokens = count->get_int64();
  }
  return event;
}

Result<StreamEvent> read_completions(std::string_view text) {
  return read_openai(text,
                     [](const json::value& choice) { return text_of(member(&choice, "text")); });
}

Result<StreamEvent> read_chat(std::string_view text) {
  return read_openai(text, [](const json::value& choice) {
    const json::value* delta = member(&choice, "delta");
    return text_of(member(delta, "reasoning_content")) + text_of(member(delta, "content"));
  });
}

Result<StreamEvent> read_tgi(std::string_view text) {
  Event parsed;
  ATOM_RETURN_IF_ERROR(parsed.parse(text));
  const json::value& root = parsed.root();
  StreamEvent event{.has_choice = true};
  if (const json::value* error = member(&root, "error")) {
    event.error = error_text(*error);
    return event;
  }
  event.text = text_of(member(member(&root, "token"), "text"));
  const json::value* whole = member(&root, "generated_text");
  event.done = whole != nullptr && whole->is_string();
  return event;
}

Result<StreamEvent> read_trt_llm(std::string_view text) {
  Event parsed;
  ATOM_RETURN_IF_ERROR(parsed.parse(text));
  const json::value& root = parsed.root();
  return StreamEvent{.has_choice = true, .text = text_of(member(&root, "text_output"))};
}

Result<StreamEvent> read_mii(std::string_view text) {
  Event parsed;
  ATOM_RETURN_IF_ERROR(parsed.parse(text));
  const json::value& root = parsed.root();
  StreamEvent event{.has_choice = true, .done = true};
  const json::value* list = member(&root, "text");
  if (list == nullptr || !list->is_array() || list->get_array().empty()) {
    event.error = "the answer has no text";
    return event;
  }
  event.text = text_of(&list->get_array()[0]);
  return event;
}

constexpr Backend completions(std::string_view name) {
  return {.name = name,
          .path_suffix = "completions",
          .default_endpoint = "/v1/completions",
          .body = completions_body,
          .read = read_completions};
}

constexpr Backend kBackends[] = {
    {.name = "tgi",
     .path_suffix = "generate_stream",
     .default_endpoint = "/generate_stream",
     .body = tgi_body,
     .read = read_tgi},
    completions("vllm"),
    completions("lmdeploy"),
    {.name = "deepspeed-mii",
     .path_suffix = "",
     .default_endpoint = "/v1/completions",
     .streams = false,
     .body = mii_body,
     .read = read_mii},
    completions("openai"),
    {.name = "openai-chat",
     .path_suffix = "chat/completions",
     .default_endpoint = "/v1/chat/completions",
     .chat = true,
     .body = chat_body,
     .read = read_chat},
    {.name = "tensorrt-llm",
     .path_suffix = "generate_stream",
     .default_endpoint = "/v2/models/ensemble/generate_stream",
     .body = trt_llm_body,
     .read = read_trt_llm},
    completions("scalellm"),
    completions("sglang"),
};

}  // namespace

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Backend& backend : kBackends) names.emplace_back(backend.name);
  return names;
}

const Backend* find_backend(std::string_view name) {
  for (const Backend& backend : kBackends) {
    if (backend.name == name) return &backend;
  }
  return nullptr;
}

std::optional<std::string_view> EventSplitter::next() {
  if (at_ > 0 && at_ == buffer_.size()) {
    buffer_.clear();
    at_ = searched_ = 0;
  }
  while (true) {
    const size_t end = buffer_.find('\n', std::max(at_, searched_));
    if (end == std::string::npos) {
      searched_ = buffer_.size();
      if (at_ > size_t{64} << 10) {
        buffer_.erase(0, at_);
        searched_ -= at_;
        at_ = 0;
      }
      return std::nullopt;
    }
    std::string_view line(buffer_.data() + at_, end - at_);
    at_ = end + 1;
    searched_ = at_;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.starts_with("data:")) continue;
    line.remove_prefix(5);
    while (line.starts_with(' ')) line.remove_prefix(1);
    if (!line.empty()) return line;
  }
}

}  // namespace atom
