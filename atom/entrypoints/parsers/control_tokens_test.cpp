// Tool calls whose markers come as control tokens, beside the text. Markers as text, and everything
// else: parsers_test.cpp; harmony: harmony_test.cpp.
#include <gtest/gtest.h>

#include <string>

#include "atom/entrypoints/parsers/parser_table.h"

namespace atom::parsers {
namespace {

std::unique_ptr<OutputParser> make(std::string_view format) {
  return (*find_tool_format(format, ""))->make({.tool_names = {"f", "get_weather"}});
}

TEST(ControlTokens, PythonTag) {
  ParsedText out;
  auto parser = make("llama3_json");
  parser->push_control("<|python_tag|>", out);
  parser->push(R"({"name": "any_name", "parameters": {"a": 1}})", out);
  parser->push_control("<|eom_id|>", out);
  parser->finish(out);
  ASSERT_EQ(out.calls.size(), 1U);
  EXPECT_EQ(out.calls[0].name, "any_name");
  out.clear();
  parser = make("llama3_json");
  parser->push_control("<|python_tag|>", out);
  parser->push("print({'a': 1})", out);
  parser->finish(out);
  EXPECT_EQ(out.content, "print({'a': 1})");
}

// After its control token every object of the list is a call, whatever its name; other tokens and
// what stands before are text.
TEST(ControlTokens, TheListOfMistral) {
  const std::string list =
      R"( [{"name": "any_name", "arguments": {"a": 1}}, {"name": "f", "arguments": {}, "id": "012345678"}])";
  for (size_t cut = 0; cut <= list.size(); ++cut) {
    ParsedText out;
    const auto parser = make("mistral");
    parser->push(R"(Look: {"name": "f", "arguments": {}})", out);
    parser->push_control("[TOOL_CALLS]", out);
    parser->push(std::string_view(list).substr(0, cut), out);
    parser->push(std::string_view(list).substr(cut), out);
    parser->finish(out);
    ASSERT_EQ(out.calls.size(), 2U) << cut;
    EXPECT_EQ(out.calls[0].name, "any_name");
    EXPECT_EQ(out.calls[0].arguments, R"({"a": 1})");
    EXPECT_EQ(out.calls[1].name, "f");
    EXPECT_EQ(out.content, R"(Look: {"name": "f", "arguments": {}})");
  }
  ParsedText out;  // broken: nothing is lost
  const auto parser = make("mistral");
  parser->push_control("[TOOL_CALLS]", out);
  parser->push(R"([{"name": "f", "arguments": )", out);
  parser->finish(out);
  EXPECT_TRUE(out.calls.empty());
  EXPECT_EQ(out.content, R"([{"name": "f", "arguments": )");
}

TEST(ControlTokens, TheMarkersOfMistral) {
  ParsedText out;
  const auto parser = make("mistral_args");
  parser->push_control("[TOOL_CALLS]", out);
  parser->push("f", out);
  parser->push_control("[CALL_ID]", out);
  parser->push("abc123def", out);
  parser->push_control("[ARGS]", out);
  parser->push("{\"a\": 1}", out);
  parser->finish(out);
  ASSERT_EQ(out.calls.size(), 1U);
  EXPECT_EQ(out.calls[0].id, "abc123def");
  EXPECT_EQ(out.calls[0].name, "f");
  EXPECT_EQ(out.calls[0].arguments, "{\"a\": 1}");
  EXPECT_EQ(out.content, "");
}

// The model's own id is given on, and a control token that breaks off a call is not shown.
TEST(ControlTokens, TheMarkersOfKimi) {
  ParsedText out;
  auto parser = make("kimi_k2");
  parser->push_control("<|tool_calls_section_begin|>", out);
  parser->push_control("<|tool_call_begin|>", out);
  parser->push("functions.f:3", out);
  parser->push_control("<|tool_call_argument_begin|>", out);
  parser->push("{\"a\": 1}", out);
  parser->push_control("<|tool_call_end|>", out);
  parser->push_control("<|tool_call_begin|>", out);
  parser->push("functions.f:4", out);
  parser->push_control("<|tool_call_argument_begin|>", out);
  parser->push("{\"a\": \"", out);
  parser->push_control("<|tool_call_end|>", out);
  parser->finish(out);
  ASSERT_EQ(out.calls.size(), 1U);
  EXPECT_EQ(out.calls[0].id, "functions.f:3");
  EXPECT_EQ(out.calls[0].name, "f");
  EXPECT_EQ(out.calls[0].arguments, "{\"a\": 1}");
  EXPECT_EQ(out.content, "functions.f:4{\"a\": \"");
}

}  // namespace
}  // namespace atom::parsers
