// The structural tags of tool_choice, and that what they describe reads back as calls.
#include "atom/entrypoints/parsers/tool_grammar.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "atom/core/json.h"

namespace atom::parsers {
namespace {

namespace json = boost::json;

const json::array kTools = json::parse(R"([
  {"type": "function", "function": {"name": "get_weather", "strict": true, "parameters":
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
  {"type": "function", "function": {"name": "say\"hi"}}])")
                               .as_array();

json::object format_of(const GrammarSpec& spec) {
  EXPECT_EQ(spec.kind, GrammarSpec::Kind::kStructuralTag);
  const Result<json::value> value = parse_json(spec.text);
  EXPECT_TRUE(value && value->at("type") == "structural_tag");
  return value->at("format").as_object();
}

TEST(ToolGrammar, ATextOfEveryTagReadsBackAsItsCall) {
  for (const ToolFormat& format : tool_formats()) {
    const json::object found =
        format_of(tool_grammar(format.form, {.tools = &kTools}, nullptr, ReasoningStart::kNone));
    EXPECT_EQ(found.at("type"), "tags_with_separator");
    EXPECT_EQ(found.at("at_least_one"), true);
    EXPECT_EQ(found.at("stop_after_first"), false);
    const json::array& tags = found.at("tags").as_array();
    ASSERT_EQ(tags.size(), 2U);
    EXPECT_EQ(tags[0].at("content").at("json_schema").at("required").at(0), "city");
    EXPECT_EQ(tags[1].at("content").at("json_schema").at("type"), "object");
    std::string text;
    for (const json::value& tag : tags) {
      if (!text.empty()) text += json::value_to<std::string>(found.at("separator"));
      const bool is_xml = tag.at("content").as_object().contains("style");
      EXPECT_EQ(is_xml, format.form.style == ArgumentStyle::kGlmXml);
      text += json::value_to<std::string>(tag.at("begin")) +
              (is_xml ? "<arg_key>city</arg_key>\n<arg_value>Bonn</arg_value>"
                      : R"({"city": "Bonn"})") +
              json::value_to<std::string>(tag.at("end"));
    }
    EXPECT_TRUE(text.starts_with(format.form.trigger));
    const auto parser =
        format.make({.tool_names = {"get_weather", "say\"hi"}, .calls_are_valid = true});
    ParsedText out;
    parser->push(text, out);
    parser->finish(out);
    EXPECT_EQ(out.content, "");
    ASSERT_EQ(out.calls.size(), 2U) << format.name;
    EXPECT_EQ(out.calls[0].name, "get_weather");
    EXPECT_EQ(out.calls[1].name, "say\"hi");
    EXPECT_EQ(out.calls[1].arguments, R"({"city": "Bonn"})");
  }
}

TEST(ToolGrammar, ChoicesAndReasoning) {
  const CallForm& form = tool_formats()[0].form;
  const ReasoningFormat& think = reasoning_formats()[0];
  const json::object named = format_of(tool_grammar(
      form, {.tools = &kTools, .named = "get_weather"}, &think, ReasoningStart::kNone));
  EXPECT_EQ(named.at("type"), "tag");
  const json::object inside = format_of(tool_grammar(
      form, {.tools = &kTools, .named = "get_weather"}, &think, ReasoningStart::kInside));
  EXPECT_EQ(inside.at("elements").at(0).at("begin"), "");
  EXPECT_EQ(inside.at("elements").at(0).at("end"), "</think>");
  EXPECT_EQ(inside.at("elements").at(2), json::value(named));
  const json::object possible = format_of(tool_grammar(
      form, {.tools = &kTools, .named = "get_weather"}, &think, ReasoningStart::kPossible));
  EXPECT_EQ(possible.at("elements").at(0).at("type"), "optional");
  EXPECT_EQ(possible.at("elements").at(1), json::value(named));
  // Text, and calls whose strict tools keep to their schemas.
  const GrammarSpec automatic =
      tool_grammar(form, {.tools = &kTools, .required = false, .parallel = false}, nullptr, {});
  EXPECT_EQ(automatic.param, "tools");
  const json::object strict = format_of(automatic);
  EXPECT_EQ(strict.at("type"), "triggered_tags");
  EXPECT_EQ(strict.at("triggers").at(0), "<tool_call>");
  EXPECT_EQ(strict.at("stop_after_first"), true);
}

TEST(ToolGrammar, AnswersOfAFormHaveItAfterReasoningOrInsteadOfCalls) {
  const ReasoningFormat& think = reasoning_formats()[0];
  using Kind = GrammarSpec::Kind;
  const GrammarSpec specs[] = {{.kind = Kind::kJsonObject},
                               {.kind = Kind::kJsonSchema, .text = R"({"type":"array"})"},
                               {.kind = Kind::kRegex, .text = "a+"},
                               {.kind = Kind::kChoice, .text = R"(["a","b"])"},
                               {.kind = Kind::kGrammar, .text = "root ::= \"a\""}};
  for (const GrammarSpec& spec : specs) {
    EXPECT_EQ(after_reasoning(spec, &think, ReasoningStart::kNone), spec);
    EXPECT_EQ(after_reasoning(spec, nullptr, ReasoningStart::kPossible), spec);
    const json::object after = format_of(after_reasoning(spec, &think, ReasoningStart::kInside));
    const json::object either = format_of(
        tool_grammar(tool_formats()[0].form, {.tools = &kTools, .required = false, .answer = &spec},
                     nullptr, {}));
    EXPECT_EQ(either.at("type"), "or");
    EXPECT_EQ(either.at("elements").at(0).at("type"), "tags_with_separator");
    EXPECT_EQ(either.at("elements").at(1), after.at("elements").at(2));
  }
  const GrammarSpec broken{.kind = Kind::kJsonSchema, .text = "{"};
  EXPECT_EQ(after_reasoning(broken, &think, ReasoningStart::kInside), broken);
}

}  // namespace
}  // namespace atom::parsers
