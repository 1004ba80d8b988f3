#include "atom/entrypoints/parsers/tool_grammar.h"

#include <boost/json.hpp>

#include "atom/core/json.h"

namespace atom::parsers {
namespace json = boost::json;
namespace {

// Between two tokens of JSON. Small models never stop indenting, until max_tokens ends them.
constexpr int kMaxWhitespace = 32;

json::object json_format(json::value schema) {
  return {{"type", "json_schema"},
          {"json_schema", std::move(schema)},
          {"max_whitespace_cnt", kMaxWhitespace}};
}

json::object schema_of(const json::object& function, bool enforced) {
  const json::value* parameters = function.if_contains("parameters");
  json::object schema;
  if (enforced && parameters != nullptr && parameters->is_object()) {
    schema = parameters->get_object();
  }
  if (!schema.contains("type") && !schema.contains("$ref") && !schema.contains("anyOf"))
    schema["type"] = "object";
  return schema;
}

bool is_strict(const json::object& function) {
  const json::value* strict = function.if_contains("strict");
  return strict != nullptr && strict->is_bool() && strict->get_bool();
}

const json::object& function_of(const json::value& tool) {
  return tool.get_object().at("function").get_object();
}

// One call: the text around its arguments, and their schema.
json::object call_tag(const CallForm& form, const json::object& function, bool enforced) {
  const json::string& name = function.at("name").get_string();
  std::string begin(form.before_name);
  if (begin.ends_with('"')) {  // the name as it stands between quotes
    const std::string quoted = json::serialize(json::value(name));
    begin += quoted.substr(1, quoted.size() - 2);
  } else {
    begin += name;
  }
  begin += form.before_arguments;
  json::object arguments = json_format(schema_of(function, enforced));
  if (form.style == ArgumentStyle::kGlmXml) arguments["style"] = "glm_xml";
  return {{"type", "tag"},
          {"begin", begin},
          {"content", std::move(arguments)},
          {"end", json::string_view(form.after_arguments.data(), form.after_arguments.size())}};
}

json::string text(std::string_view view) { return json::string(view.data(), view.size()); }

std::optional<json::object> as_format(const GrammarSpec& spec);

json::object calls(const CallForm& form, const ToolGrammarRequest& request) {
  const bool pure = request.required || request.answer != nullptr;  // calls without text
  json::array tags;
  for (const json::value& tool : *request.tools) {
    const json::object& function = function_of(tool);
    const json::string& name = function.at("name").get_string();
    if (!request.named.empty() && name != text(request.named)) continue;
    tags.push_back(call_tag(form, function, (pure && !request.loose) || is_strict(function)));
  }
  if (!request.named.empty()) return tags.at(0).get_object();
  if (pure) {
    return {{"type", "tags_with_separator"},
            {"tags", std::move(tags)},
            {"separator", text(form.between)},
            {"at_least_one", true},
            {"stop_after_first", !request.parallel}};
  }
  return {{"type", "triggered_tags"},
          {"triggers", json::array{text(form.trigger)}},
          {"tags", std::move(tags)},
          {"stop_after_first", !request.parallel}};
}

// A block of reasoning in front of `format`, where the model is in one or may begin one.
json::object with_reasoning(json::object format, const ReasoningFormat* reasoning,
                            ReasoningStart start) {
  if (reasoning == nullptr || start == ReasoningStart::kNone) return format;
  const bool inside = start == ReasoningStart::kInside;
  const json::object block{{"type", "tag"},
                           {"begin", inside ? json::string() : text(reasoning->open)},
                           {"content", {{"type", "any_text"}}},
                           {"end", text(reasoning->close)}};
  json::object gap{{"type", "optional"},
                   {"content", {{"type", "const_string"}, {"value", text(reasoning->gap)}}}};
  if (inside) {
    return {{"type", "sequence"}, {"elements", json::array{block, gap, std::move(format)}}};
  }
  const json::object first{{"type", "sequence"}, {"elements", json::array{block, gap}}};
  return {{"type", "sequence"},
          {"elements",
           json::array{json::object{{"type", "optional"}, {"content", first}}, std::move(format)}}};
}

std::string structural_tag(json::object format) {
  return json::serialize(json::object{{"type", "structural_tag"}, {"format", std::move(format)}});
}

// A grammar as a part of a structural tag; nothing for one that is a structural tag itself.
std::optional<json::object> as_format(const GrammarSpec& spec) {
  using Kind = GrammarSpec::Kind;
  switch (spec.kind) {
    case Kind::kJsonObject:
      return json_format(json::object{{"type", "object"}});
    case Kind::kJsonSchema: {
      Result<json::value> schema = parse_json(spec.text);
      if (!schema) return std::nullopt;  // the compiler says why
      return json_format(std::move(*schema));
    }
    case Kind::kRegex:
      return json::object{{"type", "regex"}, {"pattern", spec.text}};
    case Kind::kGrammar:
      return json::object{{"type", "grammar"}, {"grammar", spec.text}};
    case Kind::kChoice: {
      const Result<json::value> choices = parse_json(spec.text);
      if (!choices || !choices->is_array()) return std::nullopt;
      json::array elements;
      for (const json::value& choice : choices->get_array())
        elements.push_back(json::object{{"type", "const_string"}, {"value", choice}});
      return json::object{{"type", "or"}, {"elements", std::move(elements)}};
    }
    case Kind::kStructuralTag:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

bool has_strict_tool(const json::array& tools) {
  for (const json::value& tool : tools) {
    if (is_strict(function_of(tool))) return true;
  }
  return false;
}

GrammarSpec tool_grammar(const CallForm& form, const ToolGrammarRequest& request,
                         const ReasoningFormat* reasoning, ReasoningStart start) {
  json::object format = calls(form, request);
  if (request.answer != nullptr) {
    std::optional<json::object> answer = as_format(*request.answer);
    if (!answer) return *request.answer;
    format = {{"type", "or"}, {"elements", json::array{std::move(format), std::move(*answer)}}};
  }
  return {.kind = GrammarSpec::Kind::kStructuralTag,
          .text = structural_tag(with_reasoning(std::move(format), reasoning, start)),
          .exact = request.answer != nullptr || has_strict_tool(*request.tools),
          .param = request.required            ? "tool_choice"
                   : request.answer != nullptr ? request.answer->param
                                               : "tools"};
}

GrammarSpec after_reasoning(GrammarSpec spec, const ReasoningFormat* reasoning,
                            ReasoningStart start) {
  if (reasoning == nullptr || start == ReasoningStart::kNone) return spec;
  std::optional<json::object> format = as_format(spec);
  if (!format) return spec;
  spec.text = structural_tag(with_reasoning(std::move(*format), reasoning, start));
  spec.kind = GrammarSpec::Kind::kStructuralTag;
  return spec;
}

}  // namespace atom::parsers
