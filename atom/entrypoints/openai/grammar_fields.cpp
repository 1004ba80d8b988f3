// The readers of the fields that demand a form of the text: response_format, structured_outputs (as
// vLLM has it) and vLLM's older guided_*. They only say what is demanded (GrammarSpec); whether it
// can be enforced, the compiler tells.
#include <boost/json.hpp>

#include "atom/core/json.h"
#include "atom/entrypoints/openai/api_error.h"
#include "atom/entrypoints/openai/field_readers.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace json = boost::json;
namespace {

using Kind = GrammarSpec::Kind;

Status demand(ApiRequest& request, GrammarSpec spec) {
  std::optional<GrammarSpec>& grammar = request.sampling.grammar;
  if (grammar) {
    return field_error(spec.param,
                       str_format("{} and {} exclude each other", grammar->param, spec.param));
  }
  grammar = std::move(spec);
  return {};
}

// A schema as an object, or as the text of one.
Status demand_schema(const json::value& value, std::string name, ApiRequest& request) {
  GrammarSpec spec{.kind = Kind::kJsonSchema, .text = {}, .param = std::move(name)};
  if (value.is_string()) {
    spec.text = value.get_string();
  } else if (value.is_object()) {
    spec.text = json::serialize(value);
  } else {
    return type_error(spec.param, "a JSON schema (an object or its text)", value);
  }
  return demand(request, std::move(spec));
}

Status demand_text(const json::value& value, std::string name, Kind kind, ApiRequest& request) {
  if (!value.is_string()) return type_error(name, "a string", value);
  if (value.get_string().empty())
    return field_error(name, str_format("{} must not be empty", name));
  return demand(request,
                {.kind = kind, .text = std::string(value.get_string()), .param = std::move(name)});
}

Status demand_choice(const json::value& value, std::string name, ApiRequest& request) {
  if (!value.is_array() || value.get_array().empty())
    return type_error(name, "a list of at least one string", value);
  const json::array& choices = value.get_array();
  for (size_t i = 0; i < choices.size(); ++i) {
    const std::string place = str_format("{}[{}]", name, i);
    if (!choices[i].is_string()) return type_error(place, "a string", choices[i]);
    if (choices[i].get_string().empty())
      return field_error(place, str_format("{} must not be empty", place));
  }
  return demand(request,
                {.kind = Kind::kChoice, .text = json::serialize(value), .param = std::move(name)});
}

// vLLM's structural tags: an object, or the text of one.
Status demand_tag(const json::value& value, std::string name, ApiRequest& request) {
  if (!value.is_object() && !value.is_string()) return type_error(name, "a structural tag", value);
  return demand(request, {.kind = Kind::kStructuralTag,
                          .text = value.is_string() ? std::string(value.get_string())
                                                    : json::serialize(value),
                          .param = std::move(name)});
}

Status demand_member(const json::value& value, std::string_view member, const std::string& name,
                     ApiRequest& request) {
  if (member == "json") return demand_schema(value, name, request);
  if (member == "regex") return demand_text(value, name, Kind::kRegex, request);
  if (member == "grammar") return demand_text(value, name, Kind::kGrammar, request);
  if (member == "choice") return demand_choice(value, name, request);
  if (member == "structural_tag") return demand_tag(value, name, request);
  bool wanted = false;  // json_object
  ATOM_RETURN_IF_ERROR(read_bool(value, name, wanted));
  if (!wanted) return field_error(name, str_format("{} must be true or left out", name));
  return demand(request, {.kind = Kind::kJsonObject, .text = {}, .param = name});
}

}  // namespace

Status read_response_format(const json::value& value, const FieldSpec& field, const RequestLimits&,
                            ApiRequest& request) {
  if (!value.is_object()) return type_error(field.name, "an object", value);
  const json::object& format = value.get_object();
  const json::value* type = format.if_contains("type");
  if (type == nullptr || !type->is_string())
    return field_error("response_format.type", "response_format.type must be a string");
  const std::string_view name = type->get_string();
  if (name == "text") return {};
  if (name == "json_object")
    return demand(request, {.kind = Kind::kJsonObject, .text = {}, .param = "response_format"});
  if (name == "structural_tag") return demand_tag(value, "response_format", request);
  if (name != "json_schema") {
    return field_error("response_format.type",
                       str_format("response_format.type \"{}\" is not supported; allowed: "
                                  "\"text\", \"json_object\", \"json_schema\", \"structural_tag\"",
                                  clipped(name)),
                       ErrorCode::kUnsupported);
  }
  const json::value* wrapped = format.if_contains("json_schema");
  if (wrapped == nullptr || !wrapped->is_object()) {
    return field_error("response_format.json_schema",
                       "response_format.json_schema must be an object");
  }
  const json::value* schema = wrapped->get_object().if_contains("schema");
  if (schema == nullptr || !schema->is_object()) {
    return field_error("response_format.json_schema.schema",
                       "response_format.json_schema.schema must be a JSON schema");
  }
  return demand_schema(*schema, "response_format.json_schema.schema", request);
}

Status read_structured_outputs(const json::value& value, const FieldSpec& field,
                               const RequestLimits&, ApiRequest& request) {
  constexpr std::string_view kForms[] = {"json",    "regex",          "choice",
                                         "grammar", "structural_tag", "json_object"};
  if (!value.is_object()) return type_error(field.name, "an object", value);
  const json::object& options = value.get_object();
  for (const std::string_view member : kForms) {
    const json::value* form = options.if_contains(json::string_view(member.data(), member.size()));
    if (form == nullptr || form->is_null()) continue;
    ATOM_RETURN_IF_ERROR(
        demand_member(*form, member, str_format("{}.{}", field.name, member), request));
  }
  if (const json::value* pattern = options.if_contains("whitespace_pattern");
      pattern != nullptr && !pattern->is_null()) {
    return field_error("structured_outputs.whitespace_pattern",
                       "structured_outputs.whitespace_pattern is not supported; "
                       "disable_any_whitespace is",
                       ErrorCode::kUnsupported);
  }
  if (const json::value* compact = options.if_contains("disable_any_whitespace");
      compact != nullptr && !compact->is_null()) {
    bool disable = false;
    ATOM_RETURN_IF_ERROR(read_bool(*compact, "structured_outputs.disable_any_whitespace", disable));
    if (request.sampling.grammar) request.sampling.grammar->any_whitespace = !disable;
  }
  return {};
}

Status read_guided(const json::value& value, const FieldSpec& field, const RequestLimits&,
                   ApiRequest& request) {
  return demand_member(value, field.name.substr(std::string_view("guided_").size()),
                       std::string(field.name), request);
}

}  // namespace atom::openai
