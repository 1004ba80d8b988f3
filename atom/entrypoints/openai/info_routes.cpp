// The routes that answer at once: models, health, version, tokenising, debugging.
#include <algorithm>

#include "atom/core/json.h"
#include "atom/entrypoints/openai/api_server.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace json = boost::json;
namespace {

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
  if (!known) return error_response(to_api_error(known.error()));
  return http::Response{.body = model_object(*known)};
}

// What keeps the server from serving, or nothing.
std::optional<ApiError> ApiServer::trouble() const {
  if (draining_.load())
    return ApiError{.status = 503, .message = "the server is shutting down", .code = "draining"};
  const EngineStats stats = engine_.stats();
  if (stats.condition == EngineCondition::kDead) {
    return ApiError{.status = 503,
                    .message = "the engine has stopped after repeated failures",
                    .code = "engine_dead"};
  }
  if (stats.condition == EngineCondition::kStalled) {
    return ApiError{.status = 503,
                    .message = str_format("the engine has made no progress for {:.0f} s",
                                          stats.seconds_since_progress),
                    .code = "engine_stalled"};
  }
  return std::nullopt;
}

std::optional<http::Response> ApiServer::health(Call&) {
  if (const std::optional<ApiError> error = trouble()) return error_response(*error);
  return http::Response{.body = R"({"status":"ok"})"};
}

std::optional<http::Response> ApiServer::version(Call&) {
  return http::Response{.body = R"({"version":")" ATOM_VERSION R"("})"};
}

// For tokenising, a request may say which model it means.
Status ApiServer::check_model(const json::object& body) const {
  const json::value* model = body.if_contains("model");
  if (model == nullptr || model->is_null()) return {};
  if (!model->is_string()) return field_error("model", "model must be a string");
  ATOM_RETURN_IF_ERROR(find_model(std::string_view(model->get_string())));
  return {};
}

std::optional<http::Response> ApiServer::tokenize(Call& call) {
  const auto answer = [&]() -> Result<std::string> {
    ATOM_ASSIGN_OR_RETURN(const json::object body, parse_body(call.request.body));
    ATOM_RETURN_IF_ERROR(check_model(body));
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
    ATOM_RETURN_IF_ERROR(check_model(body));
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

// The fields of ATOM's endpoint, and total_drafts: forwards that verified any; `distribution`:
// forwards by the number of drafts they accepted.
std::optional<http::Response> ApiServer::mtp_stats(Call&) {
  const EngineStats stats = engine_.stats();
  const DraftStats& drafts = stats.drafts;
  std::string distribution;
  std::string percent;
  for (size_t accepted = 0; accepted <= drafts.num_accepted_at.size(); ++accepted) {
    const int64_t at_least =
        accepted == 0 ? drafts.num_forwards : drafts.num_accepted_at[accepted - 1];
    const int64_t more =
        accepted < drafts.num_accepted_at.size() ? drafts.num_accepted_at[accepted] : 0;
    if (at_least <= more) continue;
    const std::string key =
        (distribution.empty() ? "\"" : ",\"") + std::to_string(accepted) + "\":";
    append_int(distribution += key, at_least - more);
    append_decimal(percent += key, 100.0 * static_cast<double>(at_least - more) /
                                       static_cast<double>(drafts.num_forwards));
  }
  std::string body =
      stats.draft_method == DraftMethod::kNone ? "{\"enabled\":false" : "{\"enabled\":true";
  append_int(body += ",\"total_drafts\":", drafts.num_drafts);
  append_int(body += ",\"total_draft_tokens\":", drafts.num_draft_tokens);
  append_int(body += ",\"total_accepted_tokens\":", drafts.num_accepted_tokens);
  append_decimal(body += ",\"acceptance_rate\":", drafts.acceptance_rate());
  append_decimal(body += ",\"average_tokens_per_forward\":", drafts.tokens_per_forward());
  body += ",\"distribution\":{" + distribution + "},\"distribution_percent\":{" + percent + "}}";
  return http::Response{.body = std::move(body)};
}

// Whatever body a client posts is taken (the benchmark sends its request along); an object may name
// the folder of the traces.
std::optional<http::Response> ApiServer::start_profile(Call& call) {
  std::string output_dir;
  if (const Result<json::value> body = parse_json(call.request.body); body && body->is_object()) {
    if (const json::value* given = body->get_object().if_contains("output_dir")) {
      if (!given->is_string()) {
        return error_response(
            {.status = 400, .message = "output_dir must be a string", .param = "output_dir"});
      }
      output_dir = given->get_string();
    }
  }
  if (const Status started = engine_.start_profile(output_dir); !started)
    return error_response(to_api_error(started.error()));
  return http::Response{.body = R"({"status":"success","message":"Profiling started"})"};
}

// Answers when the traces are there.
std::optional<http::Response> ApiServer::stop_profile(Call&) {
  const Result<std::vector<std::string>> traces = engine_.stop_profile();
  if (!traces) return error_response(to_api_error(traces.error()));
  std::string body = R"({"status":"success","message":"Profiling stopped","traces":[)";
  for (const std::string& path : *traces) {
    if (&path != traces->data()) body += ',';
    append_json_string(body, path);
  }
  return http::Response{.body = body + "]}"};
}

}  // namespace atom::openai
