// The routes that answer at once: models, health, version, metrics, tokenising.
#include <algorithm>

#include "atom/entrypoints/openai/api_server.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace json = boost::json;
namespace {

void append_ids(std::string& out, std::span<const int32_t> ids) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, ids[i]);
  }
  out += ']';
}

void append_member(std::string& out, std::string_view name, std::string_view text) {
  out += ',';
  append_json_string(out, name);
  out += ':';
  if (text.empty()) {
    out += "null";
  } else {
    append_json_string(out, text);
  }
}

Result<bool> optional_bool(const json::object& body, std::string_view name, bool fallback) {
  const json::value* value = body.if_contains(json::string_view(name.data(), name.size()));
  if (value == nullptr || value->is_null()) return fallback;
  bool out = false;
  ATOM_RETURN_IF_ERROR(read_bool(*value, name, out));
  return out;
}

// One metric with its only label.
class MetricsText {
 public:
  explicit MetricsText(std::string_view model) {
    append_json_string(label_, model);
    label_ = "{model_name=" + label_;
  }
  void add(std::string_view name, std::string_view type, std::string_view help, double value) {
    text_ += str_format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
    sample(name, "", value);
  }
  void head(std::string_view name, std::string_view type, std::string_view help) {
    text_ += str_format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
  }
  void sample(std::string_view name, std::string_view more_labels, double value) {
    text_ += str_format("{}{}{}}} {}\n", name, label_, more_labels, value);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string label_;
  std::string text_;
};

}  // namespace

std::string ApiServer::model_object(const std::string& id) const {
  std::string out = "{\"id\":";
  append_json_string(out, id);
  out += ",\"object\":\"model\",\"created\":";
  append_int(out, created_);
  out += ",\"owned_by\":\"atom\",\"root\":";
  append_json_string(out, options_.served_model_names[0]);
  out += ",\"parent\":null,\"max_model_len\":";
  append_int(out, options_.limits.max_model_len);
  out += '}';
  return out;
}

std::optional<http::Response> ApiServer::list_models(Call&) {
  std::string body = "{\"object\":\"list\",\"data\":[";
  for (size_t i = 0; i < options_.served_model_names.size(); ++i) {
    if (i > 0) body += ',';
    body += model_object(options_.served_model_names[i]);
  }
  body += "]}";
  return http::Response{.body = std::move(body)};
}

std::optional<http::Response> ApiServer::show_model(Call& call) {
  const std::string id = call.request.path.substr(std::string_view("/v1/models/").size());
  const Result<std::string> known = find_model(id);
  if (!known) {
    ApiError error = to_api_error(known.error());
    error.code = "model_not_found";
    return error_response(error);
  }
  return http::Response{.body = model_object(*known)};
}

std::optional<http::Response> ApiServer::health(Call&) {
  if (draining_.load())
    return error_response({.status = 503, .message = "the server is shutting down"});
  if (!engine_.stats().alive)
    return error_response({.status = 503, .message = "the engine does not make progress"});
  return http::Response{.body = R"({"status":"ok"})"};
}

std::optional<http::Response> ApiServer::version(Call&) {
  return http::Response{.body = R"({"version":")" ATOM_VERSION R"("})"};
}

std::optional<http::Response> ApiServer::metrics(Call&) {
  const EngineStats stats = engine_.stats();
  const double used = stats.num_blocks > 0 ? 1.0 - static_cast<double>(stats.num_free_blocks) /
                                                       static_cast<double>(stats.num_blocks)
                                           : 0.0;
  MetricsText out(options_.served_model_names[0]);
  out.add("vllm:num_requests_running", "gauge", "Sequences in the running batch.",
          static_cast<double>(stats.num_running));
  out.add("vllm:num_requests_waiting", "gauge", "Sequences waiting to be scheduled.",
          static_cast<double>(stats.num_waiting));
  out.add("vllm:kv_cache_usage_perc", "gauge", "Used share of the KV cache, 1 = all.", used);
  out.add("vllm:prompt_tokens_total", "counter", "Prompt tokens processed.",
          static_cast<double>(stats.prompt_tokens));
  out.add("vllm:generation_tokens_total", "counter", "Tokens generated.",
          static_cast<double>(stats.generation_tokens));
  out.add("vllm:num_preemptions_total", "counter", "Sequences preempted.",
          static_cast<double>(stats.num_preemptions));
  out.add("vllm:prefix_cache_queries_total", "counter",
          "Prompt tokens looked up in the prefix cache.",
          static_cast<double>(stats.prefix_cache_queries));
  out.add("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.",
          static_cast<double>(stats.prefix_cache_hits));
  out.head("vllm:request_success_total", "counter", "Requests ended, by reason.");
  out.sample("vllm:request_success_total", ",finished_reason=\"stop\"",
             static_cast<double>(counters_.finished_stop.load()));
  out.sample("vllm:request_success_total", ",finished_reason=\"length\"",
             static_cast<double>(counters_.finished_length.load()));
  out.sample("vllm:request_success_total", ",finished_reason=\"abort\"",
             static_cast<double>(counters_.finished_abort.load()));
  out.sample("vllm:request_success_total", ",finished_reason=\"error\"",
             static_cast<double>(counters_.finished_error.load()));
  out.add("atom:num_sequences_in_flight", "gauge", "Sequences admitted and not finished.",
          static_cast<double>(counters_.in_flight.load()));
  out.add("atom:kv_cache_blocks", "gauge", "KV cache blocks.",
          static_cast<double>(stats.num_blocks));
  out.add("atom:kv_cache_free_blocks", "gauge", "KV cache blocks free or evictable.",
          static_cast<double>(stats.num_free_blocks));
  out.add("atom:engine_steps_total", "counter", "Steps of the engine.",
          static_cast<double>(stats.num_steps));
  return http::Response{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                        .body = out.take()};
}

std::optional<http::Response> ApiServer::tokenize(Call& call) {
  const auto answer = [&]() -> Result<std::string> {
    ATOM_ASSIGN_OR_RETURN(const json::object body, parse_body(call.request.body));
    const json::value* model = body.if_contains("model");
    if (model != nullptr && model->is_string())
      ATOM_RETURN_IF_ERROR(find_model(std::string_view(model->get_string())));
    const json::value* messages = body.if_contains("messages");
    const bool chat = messages != nullptr && !messages->is_null();
    ATOM_ASSIGN_OR_RETURN(bool add_special, optional_bool(body, "add_special", !chat));
    ATOM_ASSIGN_OR_RETURN(add_special, optional_bool(body, "add_special_tokens", add_special));
    ATOM_ASSIGN_OR_RETURN(const bool strings, optional_bool(body, "return_token_strs", false));
    std::string text;
    if (chat) {
      json::object copy = body;  // the chat fields mean what they mean in /v1/chat/completions
      copy.erase("add_special");
      ATOM_ASSIGN_OR_RETURN(const ApiRequest request,
                            parse_request(kChat, json::serialize(copy), options_.limits));
      ATOM_ASSIGN_OR_RETURN(text, render(request));
    } else {
      const json::value* prompt = body.if_contains("prompt");
      if (prompt == nullptr) prompt = body.if_contains("content");
      if (prompt == nullptr || !prompt->is_string())
        return field_error("prompt", "prompt must be a string");
      text = std::string(prompt->get_string());
    }
    const Tokenizer& tokenizer = *engine_.tokenizer();
    const std::vector<int32_t> ids = tokenizer.encode(text, add_special);
    std::string out = "{\"count\":";
    append_int(out, static_cast<int64_t>(ids.size()));
    out += ",\"max_model_len\":";
    append_int(out, options_.limits.max_model_len);
    out += ",\"tokens\":";
    append_ids(out, ids);
    out += ",\"token_strs\":";
    if (!strings) return out + "null}";
    out += '[';
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) out += ',';
      append_json_string(out, tokenizer.id_to_token(ids[i]));
    }
    return out + "]}";
  }();
  if (!answer) return error_response(to_api_error(answer.error()));
  return http::Response{.body = *answer};
}

std::optional<http::Response> ApiServer::detokenize(Call& call) {
  const auto answer = [&]() -> Result<std::string> {
    ATOM_ASSIGN_OR_RETURN(const json::object body, parse_body(call.request.body));
    const json::value* tokens = body.if_contains("tokens");
    if (tokens == nullptr) return field_error("tokens", "tokens is required");
    ATOM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          read_token_ids(*tokens, "tokens", options_.limits.vocab_size, 1 << 22));
    std::string out = "{\"prompt\":";
    append_json_string(out, engine_.tokenizer()->decode(ids, false));
    return out + "}";
  }();
  if (!answer) return error_response(to_api_error(answer.error()));
  return http::Response{.body = *answer};
}

std::optional<http::Response> ApiServer::tokenizer_info(Call&) {
  const Tokenizer& tokenizer = *engine_.tokenizer();
  std::string body = "{\"tokenizer_class\":\"PreTrainedTokenizerFast\"";
  append_member(body, "bos_token", tokenizer.bos_token());
  append_member(body, "eos_token", tokenizer.eos_token());
  append_member(body, "pad_token", tokenizer.pad_token());
  append_member(body, "unk_token", tokenizer.unk_token());
  append_member(body, "chat_template",
                options_.chat_template_source.empty() ? engine_.chat_template_source()
                                                      : options_.chat_template_source);
  body += ",\"model_max_length\":";
  append_int(body, options_.limits.max_model_len);
  body += ",\"vocab_size\":";
  append_int(body, tokenizer.vocab_size());
  body += '}';
  return http::Response{.body = std::move(body)};
}

}  // namespace atom::openai
