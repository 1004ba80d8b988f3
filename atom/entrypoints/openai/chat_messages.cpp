#include "atom/entrypoints/openai/chat_messages.h"

#include <algorithm>
#include <boost/json.hpp>

#include "atom/core/json.h"
#include "atom/entrypoints/openai/json_writer.h"
#include "atom/entrypoints/openai/request_fields.h"

namespace atom::openai {
namespace json = boost::json;
namespace {

constexpr size_t kMaxTools = 128;
constexpr size_t kMaxNameLength = 256;
constexpr std::string_view kRoles[] = {"system",    "developer", "user",
                                       "assistant", "tool",      "function"};

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

std::string_view text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(json::string_view(key.data(), key.size()));
  return value != nullptr && value->is_string() ? view(value->get_string()) : std::string_view{};
}

// One line each, as vLLM and llama.cpp give them to templates that take strings.
Result<std::string> join_parts(const json::array& parts, const std::string& name) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string part = str_format("{}[{}]", name, i);
    text += i > 0 ? "\n" : "";
    if (parts[i].is_string()) {
      text += view(parts[i].get_string());
      continue;
    }
    const json::object* object = parts[i].if_object();
    if (object == nullptr) return field_error(part, str_format("{} must be an object", part));
    const std::string_view type = text_of(*object, "type");
    if (type.empty())
      return field_error(part + ".type", str_format("{}.type must be a string", part));
    if (type != "text" && type != "input_text" && type != "refusal") {
      return field_error(
          part + ".type",
          str_format("{}.type \"{}\" is not supported; allowed: \"text\"", part, clipped(type)),
          ErrorCode::kUnsupported);
    }
    const json::value* value = object->if_contains(type == "refusal" ? "refusal" : "text");
    if (value == nullptr || !value->is_string()) {
      return field_error(part + ".text", str_format("{}.text must be a string", part));
    }
    text += view(value->get_string());
  }
  return text;
}

// Templates iterate over arguments; clients send them as the JSON text that the model wrote.
Status normalize_tool_calls(json::value& calls, const std::string& name) {
  if (!calls.is_array()) return field_error(name, str_format("{} must be a list", name));
  for (size_t i = 0; i < calls.get_array().size(); ++i) {
    const std::string call = str_format("{}[{}]", name, i);
    json::object* object = calls.get_array()[i].if_object();
    json::value* function = object != nullptr ? object->if_contains("function") : nullptr;
    if (function == nullptr || !function->is_object() ||
        text_of(function->get_object(), "name").empty()) {
      return field_error(call + ".function.name",
                         str_format("{}.function.name must be a string", call));
    }
    json::value* arguments = function->get_object().if_contains("arguments");
    if (arguments == nullptr || !arguments->is_string()) continue;
    const std::string_view text = view(arguments->get_string());
    if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
      *arguments = json::object{};
    } else if (Result<json::value> parsed = parse_json(text); parsed && parsed->is_object()) {
      *arguments = std::move(*parsed);
    } else {
      return field_error(call + ".function.arguments",
                         str_format("{}.function.arguments is not a JSON object", call));
    }
  }
  return {};
}

Status normalize_content(json::object& message, std::string_view role, const std::string& name) {
  json::value* content = message.if_contains("content");
  if (content != nullptr && content->is_string()) return {};
  if (content != nullptr && content->is_array()) {
    ATOM_ASSIGN_OR_RETURN(const std::string text,
                          join_parts(content->get_array(), name + ".content"));
    *content = json::string(text);
    return {};
  }
  if (content != nullptr && !content->is_null()) {
    return field_error(name + ".content",
                       str_format("{}.content must be a string or a list of parts", name));
  }
  if (role != "assistant")
    return field_error(name + ".content", str_format("{}.content is required", name));
  message["content"] = "";
  return {};
}

Status normalize_message(json::value& value, const std::string& name) {
  json::object* message = value.if_object();
  if (message == nullptr) return field_error(name, str_format("{} must be an object", name));
  const std::string_view role = text_of(*message, "role");
  if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
    return field_error(
        name + ".role",
        str_format("{}.role must be one of system, developer, user, assistant, tool, function",
                   name));
  }
  ATOM_RETURN_IF_ERROR(normalize_content(*message, role, name));
  if (json::value* calls = message->if_contains("tool_calls")) {
    if (calls->is_null() || (calls->is_array() && calls->get_array().empty())) {
      message->erase("tool_calls");
    } else {
      ATOM_RETURN_IF_ERROR(normalize_tool_calls(*calls, name + ".tool_calls"));
    }
  }
  const json::value* reasoning = message->if_contains("reasoning");
  const json::value* reasoning_content = message->if_contains("reasoning_content");
  if (reasoning != nullptr && reasoning->is_string() && reasoning_content == nullptr) {
    const json::value copy = *reasoning;
    message->emplace("reasoning_content", copy);
  } else if (reasoning_content != nullptr && reasoning_content->is_string() &&
             reasoning == nullptr) {
    const json::value copy = *reasoning_content;
    message->emplace("reasoning", copy);
  }
  return {};
}

}  // namespace

Result<json::array> normalize_messages(const json::array& messages, std::string_view name) {
  json::array out = messages;
  for (size_t i = 0; i < out.size(); ++i) {
    ATOM_RETURN_IF_ERROR(normalize_message(out[i], str_format("{}[{}]", name, i)));
  }
  return out;
}

Status check_tools(const json::array& tools) {
  if (tools.size() > kMaxTools)
    return field_error("tools", str_format("tools may hold at most {} tools", kMaxTools));
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string name = str_format("tools[{}]", i);
    const json::object* tool = tools[i].if_object();
    if (tool == nullptr) return field_error(name, str_format("{} must be an object", name));
    if (text_of(*tool, "type") != "function") {
      return field_error(name + ".type", str_format("{}.type must be \"function\"", name));
    }
    const json::value* function = tool->if_contains("function");
    if (function == nullptr || !function->is_object()) {
      return field_error(name + ".function", str_format("{}.function must be an object", name));
    }
    const std::string_view tool_name = text_of(function->get_object(), "name");
    const bool printable = std::all_of(tool_name.begin(), tool_name.end(), [](char c) {
      return static_cast<unsigned char>(c) > 0x20 && c != 0x7f;
    });
    if (tool_name.empty() || tool_name.size() > kMaxNameLength || !printable) {
      return field_error(name + ".function.name",
                         str_format("{}.function.name must be 1 to {} characters without spaces",
                                    name, kMaxNameLength));
    }
    for (const char* key : {"description", "strict"}) {
      const json::value* item = function->get_object().if_contains(key);
      const bool text = key[0] == 'd';
      if (item == nullptr || item->is_null() || (text ? item->is_string() : item->is_bool()))
        continue;
      return field_error(
          str_format("{}.function.{}", name, key),
          str_format("{}.function.{} must be {}", name, key, text ? "a string" : "true or false"));
    }
    const json::value* parameters = function->get_object().if_contains("parameters");
    if (parameters != nullptr && !parameters->is_object() && !parameters->is_null()) {
      return field_error(name + ".function.parameters",
                         str_format("{}.function.parameters must be an object", name));
    }
  }
  return {};
}

void rename_role(json::array& messages, std::string_view from, std::string_view to) {
  for (json::value& message : messages) {
    if (text_of(message.get_object(), "role") == from)
      message.get_object()["role"] = json::string_view(to.data(), to.size());
  }
}

void copy_reasoning_to_thinking(json::array& messages) {
  for (json::value& value : messages) {
    json::object& message = value.get_object();
    const json::value* reasoning = message.if_contains("reasoning_content");
    if (reasoning == nullptr || !reasoning->is_string() || message.contains("thinking")) continue;
    if (message.contains("tool_calls") && !text_of(message, "content").empty()) continue;
    const json::value copy = *reasoning;
    message.emplace("thinking", copy);
  }
}

std::vector<std::string> tool_names(const json::array& tools) {
  std::vector<std::string> names;
  for (const json::value& tool : tools) {
    names.emplace_back(text_of(tool.get_object().at("function").get_object(), "name"));
  }
  return names;
}

std::vector<parsers::StringParameter> string_parameters(const json::array& tools) {
  std::vector<parsers::StringParameter> found;
  for (const json::value& tool : tools) {
    const json::object& function = tool.get_object().at("function").get_object();
    const json::value* schema = function.if_contains("parameters");
    if (schema == nullptr || !schema->is_object()) continue;
    const json::value* properties = schema->get_object().if_contains("properties");
    if (properties == nullptr || !properties->is_object()) continue;
    for (const json::key_value_pair& property : properties->get_object()) {
      const json::object* type = property.value().if_object();
      if (type != nullptr && text_of(*type, "type") == "string")
        found.push_back({std::string(text_of(function, "name")), std::string(property.key())});
    }
  }
  return found;
}

bool has_tool(const json::array& tools, std::string_view name) {
  const std::vector<std::string> names = tool_names(tools);
  return std::find(names.begin(), names.end(), name) != names.end();
}

void keep_tools(json::array& tools, const std::vector<std::string>& names) {
  json::array kept;
  const std::vector<std::string> all = tool_names(tools);
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::find(names.begin(), names.end(), all[i]) != names.end()) kept.push_back(tools[i]);
  }
  tools = std::move(kept);
}

}  // namespace atom::openai
