#include "atom/entrypoints/openai/field_readers.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "atom/core/json.h"
#include "atom/entrypoints/openai/chat_messages.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace json = boost::json;
namespace {

constexpr int64_t kMaxStopBytes = 1024;
constexpr int64_t kMaxIds = 1024;  // entries of logit_bias and stop_token_ids
constexpr float kMaxBias = 100.0F;

const char* kind_name(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::int64:
    case json::kind::uint64:
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    case json::kind::object:
      return "an object";
  }
  return "something else";
}

}  // namespace

std::unexpected<Error> type_error(std::string_view name, const char* wanted,
                                  const json::value& got) {
  return field_error(name, str_format("{} must be {}, not {}", name, wanted, kind_name(got)));
}

std::optional<int64_t> as_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_double()) {
    const double d = value.get_double();
    if (d == std::floor(d) && std::abs(d) <= 9007199254740992.0) return static_cast<int64_t>(d);
  }
  return std::nullopt;
}

std::unexpected<Error> field_error(std::string_view name, std::string message, ErrorCode code) {
  return std::unexpected(
      Error{.code = code, .message = std::move(message), .param = std::string(name)});
}

Status read_bool(const json::value& value, std::string_view name, bool& out) {
  if (!value.is_bool()) return type_error(name, "true or false", value);
  out = value.get_bool();
  return {};
}

Result<std::vector<int32_t>> read_token_ids(const json::value& value, std::string_view name,
                                            int64_t vocab_size, int64_t max_count) {
  if (!value.is_array()) return type_error(name, "a list of token ids", value);
  const json::array& items = value.get_array();
  if (static_cast<int64_t>(items.size()) > max_count) {
    return field_error(name.substr(0, name.find('[')),
                       name.starts_with("prompt")
                           ? str_format("This model's maximum context length is {} tokens. "
                                        "However, {} contains {} tokens.",
                                        max_count, name, items.size())
                           : str_format("{} may hold at most {} ids", name, max_count));
  }
  std::vector<int32_t> ids;
  ids.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const std::optional<int64_t> id = items[i].is_number() ? as_integer(items[i]) : std::nullopt;
    if (!id || *id < 0 || *id >= vocab_size) {
      return field_error(str_format("{}[{}]", name, i),
                         str_format("{}[{}] must be a token id in [0, {})", name, i, vocab_size));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

Result<json::object> parse_body(std::string_view body) {
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    return make_error(ErrorCode::kInvalidArgument, "the request body is empty");
  }
  ATOM_ASSIGN_OR_RETURN(json::value value, parse_json(body));
  if (!value.is_object()) {
    return make_error(ErrorCode::kInvalidArgument, "the request body must be a JSON object, not {}",
                      kind_name(value));
  }
  return std::move(value.get_object());
}

Status read_prompt(const json::value& value, const FieldSpec& field, const RequestLimits& limits,
                   ApiRequest& request) {
  if (value.is_string()) {
    request.prompts.emplace_back(std::string(value.get_string()));
    return {};
  }
  if (!value.is_array())
    return type_error(field.name,
                      "a string, a list of strings, a list of token ids or a list of those", value);
  const json::array& items = value.get_array();
  if (items.empty()) return field_error(field.name, "prompt is empty");
  if (items[0].is_number()) {
    ATOM_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          read_token_ids(value, "prompt", limits.vocab_size, limits.max_model_len));
    request.prompts.emplace_back(std::move(ids));
    return {};
  }
  if (static_cast<int64_t>(items.size()) > limits.max_sequences) {
    return field_error(field.name,
                       str_format("prompt may hold at most {} prompts", limits.max_sequences));
  }
  const bool strings = items[0].is_string();
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string name = str_format("prompt[{}]", i);
    if (strings != items[i].is_string() || (!strings && !items[i].is_array())) {
      return type_error(
          name, strings ? "a string like the first" : "a string or a list of token ids", items[i]);
    }
    if (strings) {
      request.prompts.emplace_back(std::string(items[i].get_string()));
      continue;
    }
    ATOM_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          read_token_ids(items[i], name, limits.vocab_size, limits.max_model_len));
    request.prompts.emplace_back(std::move(ids));
  }
  return {};
}

Status read_messages(const json::value& value, const FieldSpec& field, const RequestLimits&,
                     ApiRequest& request) {
  if (!value.is_array()) return type_error(field.name, "a list of messages", value);
  ATOM_ASSIGN_OR_RETURN(request.messages, normalize_messages(value.get_array(), field.name));
  return {};
}

Status read_tools(const json::value& value, const FieldSpec& field, const RequestLimits&,
                  ApiRequest& request) {
  if (!value.is_array()) return type_error(field.name, "a list of tools", value);
  ATOM_RETURN_IF_ERROR(check_tools(value.get_array()));
  request.tools = value.get_array();
  return {};
}

namespace {

const json::value* member(const json::value* value, const char* name) {
  return value != nullptr && value->is_object() ? value->get_object().if_contains(name) : nullptr;
}

std::string text_of(const json::value* value) {
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

// {"type": "function", "function": {"name": …}}, or with the name beside the type.
std::string function_name(const json::value& value) {
  const json::value* type = member(&value, "type");
  if (type != nullptr && text_of(type) != "function") return {};
  const json::value* function = member(&value, "function");
  return text_of(member(function != nullptr ? function : &value, "name"));
}

// {"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": […]}}
Status read_allowed_tools(const json::value& value, ToolChoice& choice) {
  const json::value* inner = member(&value, "allowed_tools");
  if (inner == nullptr) inner = &value;
  const std::string mode = text_of(member(inner, "mode"));
  const json::value* tools = member(inner, "tools");
  if (mode != "auto" && mode != "required") {
    return field_error("tool_choice.allowed_tools.mode",
                       "tool_choice.allowed_tools.mode must be \"auto\" or \"required\"");
  }
  if (tools == nullptr || !tools->is_array() || tools->get_array().empty()) {
    return field_error("tool_choice.allowed_tools.tools",
                       "tool_choice.allowed_tools.tools must be a list of at least one function");
  }
  choice.mode = mode == "auto" ? ToolChoice::Mode::kAuto : ToolChoice::Mode::kRequired;
  for (size_t i = 0; i < tools->get_array().size(); ++i) {
    choice.allowed.push_back(function_name(tools->get_array()[i]));
    if (choice.allowed.back().empty()) {
      const std::string place = str_format("tool_choice.allowed_tools.tools[{}]", i);
      return field_error(place,
                         place + " must be {\"type\": \"function\", \"function\": {\"name\": …}}");
    }
  }
  return {};
}

}  // namespace

Status read_tool_choice(const json::value& value, const FieldSpec& field, const RequestLimits&,
                        ApiRequest& request) {
  using Mode = ToolChoice::Mode;
  ToolChoice choice;
  const std::string text = text_of(&value);
  if (text == "auto" || text == "none" || text == "required") {
    choice.mode = text == "auto" ? Mode::kAuto : text == "none" ? Mode::kNone : Mode::kRequired;
  } else if (text_of(member(&value, "type")) == "allowed_tools") {
    ATOM_RETURN_IF_ERROR(read_allowed_tools(value, choice));
  } else {
    choice = {.mode = Mode::kNamed, .name = function_name(value), .allowed = {}};
    if (choice.name.empty()) {
      return field_error(field.name,
                         "tool_choice must be \"none\", \"auto\", \"required\", "
                         "{\"type\": \"function\", \"function\": {\"name\": …}} or "
                         "{\"type\": \"allowed_tools\", \"allowed_tools\": {…}}");
    }
  }
  request.tool_choice = std::move(choice);
  return {};
}

Status read_modalities(const json::value& value, const FieldSpec& field, const RequestLimits&,
                       ApiRequest&) {
  if (!value.is_array()) return type_error(field.name, "a list of strings", value);
  for (const json::value& item : value.get_array()) {
    if (!item.is_string() || item.get_string() != "text") {
      return field_error(field.name, "modalities: only \"text\" is supported",
                         ErrorCode::kUnsupported);
    }
  }
  return {};
}

Status read_stop(const json::value& value, const FieldSpec& field, const RequestLimits& limits,
                 ApiRequest& request) {
  const auto add = [&](const json::value& item, const std::string& name) -> Status {
    if (!item.is_string()) return type_error(name, "a string", item);
    const json::string& text = item.get_string();
    if (text.empty()) return field_error(name, str_format("{} must not be empty", name));
    if (static_cast<int64_t>(text.size()) > kMaxStopBytes) {
      return field_error(name, str_format("{} must be at most {} bytes", name, kMaxStopBytes));
    }
    request.sampling.stop_strings.emplace_back(text);
    return {};
  };
  if (value.is_string()) return add(value, "stop");
  if (!value.is_array()) return type_error(field.name, "a string or a list of strings", value);
  const json::array& items = value.get_array();
  if (static_cast<int64_t>(items.size()) > limits.max_stop) {
    return field_error(field.name, str_format("stop may hold at most {} strings", limits.max_stop));
  }
  for (size_t i = 0; i < items.size(); ++i)
    ATOM_RETURN_IF_ERROR(add(items[i], str_format("stop[{}]", i)));
  return {};
}

Status read_stop_token_ids(const json::value& value, const FieldSpec& field,
                           const RequestLimits& limits, ApiRequest& request) {
  ATOM_ASSIGN_OR_RETURN(request.sampling.stop_token_ids,
                        read_token_ids(value, field.name, limits.vocab_size, kMaxIds));
  return {};
}

Status read_logit_bias(const json::value& value, const FieldSpec& field,
                       const RequestLimits& limits, ApiRequest& request) {
  if (!value.is_object()) return type_error(field.name, "an object of token id to bias", value);
  const json::object& entries = value.get_object();
  if (static_cast<int64_t>(entries.size()) > kMaxIds) {
    return field_error(field.name, str_format("logit_bias may hold at most {} entries", kMaxIds));
  }
  for (const json::key_value_pair& entry : entries) {
    const std::string_view key(entry.key().data(), entry.key().size());
    int64_t id = 0;
    bool digits = !key.empty() && key.size() <= 10;
    for (const char c : key) {
      digits = digits && c >= '0' && c <= '9';
      id = digits ? id * 10 + (c - '0') : id;
    }
    if (!digits || id >= limits.vocab_size) {
      return field_error("logit_bias", str_format("logit_bias: \"{}\" is not a token id in [0, {})",
                                                  clipped(key), limits.vocab_size));
    }
    const double bias =
        entry.value().is_number() ? entry.value().to_number<double>() : std::nan("");
    if (!std::isfinite(bias)) {
      return field_error("logit_bias", str_format("logit_bias[{}] must be a finite number", id));
    }
    request.sampling.logit_bias.emplace_back(
        static_cast<int32_t>(id), std::clamp(static_cast<float>(bias), -kMaxBias, kMaxBias));
  }
  return {};
}

Status read_stream_options(const json::value& value, const FieldSpec& field, const RequestLimits&,
                           ApiRequest& request) {
  if (!value.is_object()) return type_error(field.name, "an object", value);
  request.has_stream_options = true;
  const json::object& options = value.get_object();
  if (const json::value* item = options.if_contains("include_usage");
      item != nullptr && !item->is_null()) {
    ATOM_RETURN_IF_ERROR(read_bool(*item, "stream_options.include_usage", request.include_usage));
  }
  if (const json::value* item = options.if_contains("continuous_usage_stats");
      item != nullptr && !item->is_null()) {
    ATOM_RETURN_IF_ERROR(
        read_bool(*item, "stream_options.continuous_usage_stats", request.continuous_usage));
  }
  return {};
}

Status read_template_kwargs(const json::value& value, const FieldSpec& field, const RequestLimits&,
                            ApiRequest& request) {
  if (!value.is_object()) return type_error(field.name, "an object", value);
  for (const json::key_value_pair& entry : value.get_object()) {
    for (const std::string_view reserved : {"messages", "tools", "tokenize", "chat_template",
                                            "add_generation_prompt", "continue_final_message"}) {
      if (entry.key() == json::string_view(reserved.data(), reserved.size())) {
        return field_error(field.name,
                           str_format("chat_template_kwargs must not set {}", reserved));
      }
    }
    request.chat_template_kwargs.insert_or_assign(entry.key(), entry.value());
  }
  return {};
}

Status read_reasoning_effort(const json::value& value, const FieldSpec& field, const RequestLimits&,
                             ApiRequest& request) {
  if (!value.is_string()) return type_error(field.name, "a string", value);
  json::object& kwargs = request.chat_template_kwargs;  // what is in them wins
  kwargs.emplace("reasoning_effort", value);
  if (value.get_string() == "none") kwargs.emplace("enable_thinking", false);
  return {};
}

// A switch with many spellings: true, "enabled", {"type": "enabled"}. Templates spell it in two.
Status read_thinking(const json::value& value, const FieldSpec& field, const RequestLimits&,
                     ApiRequest& request) {
  const json::value* type = value.is_object() ? value.get_object().if_contains("type") : &value;
  std::optional<bool> on;
  if (type != nullptr && type->is_bool()) on = type->get_bool();
  if (type != nullptr && type->is_string()) {
    const json::string& text = type->get_string();
    if (text == "adaptive" || text == "auto") return {};  // as the template has it
    if (text == "enabled" || text == "disabled") on = text == "enabled";
  }
  if (!on) {
    return field_error(field.name,
                       "thinking must be true, false or {\"type\": \"enabled\" or \"disabled\"}");
  }
  request.chat_template_kwargs.emplace("enable_thinking", *on);
  request.chat_template_kwargs.emplace("thinking", *on);
  return {};
}

Status read_documents(const json::value& value, const FieldSpec& field, const RequestLimits&,
                      ApiRequest& request) {
  if (!value.is_array()) return type_error(field.name, "a list of objects", value);
  for (const json::value& document : value.get_array()) {
    if (!document.is_object()) return type_error(field.name, "a list of objects", document);
  }
  if (!value.get_array().empty()) request.chat_template_kwargs.emplace("documents", value);
  return {};
}

}  // namespace atom::openai
