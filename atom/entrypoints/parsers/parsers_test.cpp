// Every parser on a table of texts, whole, at every split into two, byte by byte and at random
// splits: always the same parts. Texts that are no calls come out as they went in.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <random>

#include "atom/core/format.h"
#include "atom/core/json.h"
#include "atom/entrypoints/parsers/parser_table.h"
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

struct Call {
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};

struct Parts {
  std::string reasoning;
  std::string content;
  std::vector<Call> calls;
  bool operator==(const Parts&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Parts& parts) {
  out << "reasoning [" << parts.reasoning << "] content [" << parts.content << "]";
  for (const Call& call : parts.calls) out << " " << call.name << "(" << call.arguments << ")";
  return out;
}

struct Case {
  const char* form;  // "hermes", "llama3_json"; with "+think" or "+open" (the prompt opened it)
  std::string text;
  Parts want;
};

std::unique_ptr<OutputParser> make(std::string_view form, bool valid = false) {
  ParserContext context{.tool_names = {"f", "get_weather"},
                        .string_parameters = {{"f", "s"}},
                        .calls_are_valid = valid};
  context.in_reasoning = form.ends_with("+open");
  const std::string_view tool = form.substr(0, form.find('+'));
  auto parser =
      tool.empty() ? make_plain_parser(context) : (*find_tool_format(tool, ""))->make(context);
  if (form.find('+') == std::string_view::npos) return parser;
  return (*find_reasoning_format("qwen3", ""))->make(context, std::move(parser));
}

// As a client puts the deltas of a stream together.
void collect(const ParsedText& delta, Parts& parts) {
  parts.reasoning += delta.reasoning;
  parts.content += delta.content;
  for (const ToolCallDelta& call : delta.calls) {
    if (call.first) {
      EXPECT_EQ(call.index, static_cast<int32_t>(parts.calls.size()));
      parts.calls.push_back({.name = call.name, .arguments = {}});
    }
    ASSERT_EQ(call.index + 1, static_cast<int32_t>(parts.calls.size()));
    parts.calls.back().arguments += call.arguments;
  }
}

Parts parse(std::string_view form, std::string_view text, const std::vector<size_t>& cuts,
            bool valid = false) {
  const auto parser = make(form, valid);
  Parts parts;
  size_t at = 0;
  const auto feed = [&](std::string_view piece) {
    ParsedText delta;
    parser->push(piece, delta);
    collect(delta, parts);
  };
  for (const size_t cut : cuts) {
    feed(text.substr(at, cut - at));
    at = cut;
  }
  feed(text.substr(at));
  ParsedText rest;
  parser->finish(rest);
  collect(rest, parts);
  return parts;
}

void check_all_splits(std::string_view form, std::string_view text, const Parts& want) {
  EXPECT_EQ(parse(form, text, {}), want) << form << ": " << text;
  for (size_t cut = 0; cut <= text.size(); ++cut)
    ASSERT_EQ(parse(form, text, {cut}), want) << form << " cut at " << cut << ": " << text;
  std::vector<size_t> bytes(text.size());
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i;
  ASSERT_EQ(parse(form, text, bytes), want) << form << " by bytes: " << text;
}

const Call kParis{"get_weather", R"({"city": "Paris"})"};
const std::string kHermesParis =
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";

const std::string kDeepSeekParis =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
    "{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";

const std::string kGlmParis =
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>";

const Case kCases[] = {
    // Plain text.
    {"hermes", "Hello <b>world</b> {1}\n", {"", "Hello <b>world</b> {1}\n", {}}},
    {"hermes", "", {}},
    {"hermes", " \n", {"", " \n", {}}},
    {"llama3_json", "Hello {world} [1, 2]", {"", "Hello {world} [1, 2]", {}}},
    // One call, several, with text around.
    {"hermes", kHermesParis, {"", "", {kParis}}},
    {"hermes", "\n\n" + kHermesParis + "\n", {"", "", {kParis}}},
    {"hermes", "Let me look.\n" + kHermesParis, {"", "Let me look.", {kParis}}},
    {"hermes", kHermesParis + "\n" + kHermesParis, {"", "", {kParis, kParis}}},
    {"hermes", "A\n" + kHermesParis + "\nB", {"", "A\nB", {kParis}}},
    {"hermes", kHermesParis + "\n\nDone.\n", {"", "Done.\n", {kParis}}},
    {"hermes",
     R"(<tool_call>{"name":"f","arguments":{}}{"name":"f","arguments":{"a":1}}</tool_call>)",
     {"", R"({"name":"f","arguments":{"a":1}}</tool_call>)", {{"f", "{}"}}}},
    // The model's own JSON text is kept.
    {"hermes",
     "<tool_call>{\"name\":\"f\",\"arguments\":{ \"a\" :[1,2.50e+3,-0.1,null,true] ,\"b\":{}}}"
     "</tool_call>",
     {"", "", {{"f", R"({ "a" :[1,2.50e+3,-0.1,null,true] ,"b":{}})"}}}},
    {"hermes",
     R"(<tool_call>{"arguments": {"x": "\"}"}, "name": "f"}</tool_call>)",
     {"", "", {{"f", R"({"x": "\"}"})"}}}},
    // Tags and braces in strings are text of the string.
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": {"x": "</tool_call><tool_call>{"}}</tool_call>)",
     {"", "", {{"f", R"({"x": "</tool_call><tool_call>{"})"}}}},
    {"hermes",
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"caf\xC3\xA9 "
     "\xF0\x9F\x98\x80\"}}</tool_call>\xC3\xA9",
     {"", "\xC3\xA9", {{"f", "{\"x\": \"caf\xC3\xA9 \xF0\x9F\x98\x80\"}"}}}},
    // Spellings.
    {"hermes",
     R"(<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>)",
     {"", "", {{"f", R"({"a": 1})"}}}},
    {"hermes", R"(<tool_call>{"name": "f"}</tool_call>)", {"", "", {{"f", "{}"}}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": null}</tool_call>)",
     {"", "", {{"f", "{}"}}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>)",
     {"", "", {{"f", R"({"a": 1})"}}}},
    {"hermes",
     R"(<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}</tool_call>)",
     {"", "", {{"f", R"({"a": 1})"}}}},
    {"hermes",
     R"(<tool_call>{"name": "a\u00e9b", "arguments": {}}</tool_call>)",
     {"",
      "",
      {{"a\xC3\xA9"
        "b",
        "{}"}}}},
    // A line break inside a string is what models get wrong most.
    {"hermes",
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"a\nb\x01\"}}</tool_call>",
     {"", "", {{"f", R"({"x": "a\nb\u0001"})"}}}},
    // Braces missing or too many, closing tag missing.
    {"hermes",
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}\n</tool_call>",
     {"", "", {{"f", R"({"a": 1})"}}}},
    {"hermes",
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}}\n</tool_call>",
     {"", "", {{"f", R"({"a": 1})"}}}},
    {"hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {}}", {"", "", {{"f", "{}"}}}},
    {"hermes",
     "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n" + kHermesParis,
     {"", "", {{"f", "{}"}, kParis}}},
    // No calls: everything stays.
    {"hermes", "<tool_call>", {"", "<tool_call>", {}}},
    {"hermes", "a <tool_cal", {"", "a <tool_cal", {}}},
    {"hermes",
     "<tool_call> \n not json </tool_call>",
     {"", "<tool_call> \n not json </tool_call>", {}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": {"a": "unclosed)",
     {"", R"(<tool_call>{"name": "f", "arguments": {"a": "unclosed)", {}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>)",
     {"", R"(<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>)", {}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": [1]}</tool_call>)",
     {"", R"(<tool_call>{"name": "f", "arguments": [1]}</tool_call>)", {}}},
    {"hermes",
     R"(<tool_call>{"name": 7, "arguments": {}}</tool_call>)",
     {"", R"(<tool_call>{"name": 7, "arguments": {}}</tool_call>)", {}}},
    {"hermes",
     R"(<tool_call>{'name': 'f', 'arguments': {}}</tool_call>)",
     {"", R"(<tool_call>{'name': 'f', 'arguments': {}}</tool_call>)", {}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>)",
     {"", R"(<tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>)", {}}},
    {"hermes",
     R"(<tool_call>{"name": "f", "name": "g", "arguments": {}}</tool_call>)",
     {"", R"(<tool_call>{"name": "f", "name": "g", "arguments": {}}</tool_call>)", {}}},
    {"hermes", "x </tool_call> y", {"", "x </tool_call> y", {}}},
    // The good call after a broken one.
    {"hermes",
     "<tool_call>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
     {"", "<tool_call>", {{"f", "{}"}}}},
    {"hermes",
     R"(<tool_call>{"name": <tool_call>{"name": "f", "arguments": {}}</tool_call>)",
     {"", R"(<tool_call>{"name":)", {{"f", "{}"}}}},
    // Llama.
    {"llama3_json",
     R"({"name": "get_weather", "parameters": {"city": "Paris"}})",
     {"", "", {kParis}}},
    {"llama3_json",
     R"({"type": "function", "name": "f", "parameters": {}})",
     {"", "", {{"f", "{}"}}}},
    {"llama3_json",
     R"({"name": "f", "parameters": {}}; {"name": "f", "parameters": {"a": 1}})",
     {"", "", {{"f", "{}"}, {"f", R"({"a": 1})"}}}},
    {"llama3_json",
     "[{\"name\": \"f\", \"parameters\": {}},\n{\"name\": \"f\", \"parameters\": {}}]",
     {"", "", {{"f", "{}"}, {"f", "{}"}}}},
    {"llama3_json", R"(I call: {"name": "f", "parameters": {}})", {"", "I call:", {{"f", "{}"}}}},
    {"llama3_json",
     R"({"name": "unknown", "parameters": {}})",
     {"", R"({"name": "unknown", "parameters": {}})", {}}},
    {"llama3_json", R"({"name": "f"})", {"", R"({"name": "f"})", {}}},
    {"llama3_json",
     R"({"answer": 42, "name": "f", "parameters": {}})",
     {"", R"({"answer": 42, "name": "f", "parameters": {}})", {}}},
    {"llama3_json", R"({ {"name": "f", "parameters": {}})", {"", "{", {{"f", "{}"}}}},
    {"llama3_json", R"([1, 2] and {"a": {"b": [)", {"", R"([1, 2] and {"a": {"b": [)", {}}},
    // DeepSeek V3 and R1, V3.1; Kimi-K2.
    {"deepseek_v3", "Hello <｜tool> <b>", {"", "Hello <｜tool> <b>", {}}},
    {"deepseek_v3", kDeepSeekParis, {"", "", {kParis}}},
    {"deepseek_v3", "Let me look.\n" + kDeepSeekParis + "\n", {"", "Let me look.", {kParis}}},
    {"deepseek_v3",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<"
     "｜tool▁call▁end｜>"
     "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": "
     "\"<｜tool▁call▁end｜>\"}\n```"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     {"", "", {{"f", "{}"}, {"f", R"({"a": "<｜tool▁call▁end｜>"})"}}}},
    {"deepseek_v31",
     "A<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\"}"
     "<｜tool▁call▁end｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>",
     {"", "A", {kParis, {"f", "{}"}}}},
    // Without its section, without its ends, and broken: text without markers.
    {"deepseek_v31", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", {"", "", {{"f", "{}"}}}},
    {"deepseek_v31", "x <｜tool▁calls▁begin｜>y<｜tool▁calls▁end｜>", {"", "x y", {}}},
    {"deepseek_v31", "<｜tool▁call▁begin｜>f{\"a\": 1}", {"", "f{\"a\": 1}", {}}},
    {"deepseek_v31",
     "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": }<｜tool▁call▁end｜>!",
     {"", "f{\"a\": }!", {}}},
    {"deepseek_v31", "<｜tool▁call▁begin｜><｜tool▁sep｜>{}", {"", "{}", {}}},
    {"deepseek_v31",
     "<｜tool▁call▁begin｜>g<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}",
     {"", "g", {{"f", "{}"}}}},
    {"deepseek_v31", "a <｜tool▁cal", {"", "a <｜tool▁cal", {}}},
    {"deepseek_v31", "a <<｜tool▁sep｜> b", {"", "a < b", {}}},
    {"deepseek_v31+open", "Hm.</think>" + kDeepSeekParis, {"Hm.", "", {kParis}}},
    {"kimi_k2",
     "Look: <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
     "<|tool_call_argument_begin|>{\"city\": \"Paris\"}<|tool_call_end|><|tool_call_begin|>"
     "functions.a:b:12<|tool_call_argument_begin|> {\"x\": \"a\nb\"}\n<|tool_call_end|>"
     "<|tool_calls_section_end|>",
     {"", "Look:", {kParis, {"a:b", R"({"x": "a\nb"})"}}}},
    {"kimi_k2", "x <|tool_call_end|> y", {"", "x  y", {}}},
    // Mistral. Its list follows a control token (ControlTokens): as text alone it is none.
    {"mistral",
     R"([{"name": "f", "arguments": {}}])",
     {"", R"([{"name": "f", "arguments": {}}])", {}}},
    {"mistral", "a [b] {c}\n", {"", "a [b] {c}\n", {}}},
    {"mistral_args", "a [b] [ARGS] [TOOL_C", {"", "a [b]  [TOOL_C", {}}},
    {"mistral_args",
     "Look.\n[TOOL_CALLS]get_weather[ARGS]{\"city\": "
     "\"Paris\"}[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]"
     "{\"a\": \"[ARGS]{\"}",
     {"", "Look.", {kParis, {"f", R"({"a": "[ARGS]{"})"}}}},
    {"mistral_args", "[[TOOL_CALLS]f[ARGS] {}", {"", "[", {{"f", "{}"}}}},
    {"mistral_args", "[TOOL_CALLS]f[ARGS]{\"a\": }", {"", "f{\"a\": }", {}}},
    {"mistral_args", "[TOOL_CALLS]f{}", {"", "f{}", {}}},
    {"mistral_args", "[TOOL_CALLS]f[CALL_ID]x", {"", "fx", {}}},
    // GLM: values are JSON, or strings where the schema or the text says so.
    {"glm45", "Hello <tool_cal", {"", "Hello <tool_cal", {}}},
    {"glm45", kGlmParis, {"", "", {kParis}}},
    {"glm45",
     "Let me look.\n" + kGlmParis + "\n" + kGlmParis,
     {"", "Let me look.", {kParis, kParis}}},
    {"glm45", kGlmParis + "\nDone.", {"", "Done.", {kParis}}},
    {"glm45",
     "<tool_call>f<arg_key>s</arg_key><arg_value>12</arg_value><arg_key>n</arg_key><arg_value>12"
     "</arg_value><arg_key> o </arg_key> <arg_value>{\"a\": [1, null]}\n</arg_value></tool_call>",
     {"", "", {{"f", R"({"s": "12", "n": 12, "o": {"a": [1, null]}})"}}}},
    {"glm45",
     "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value> a\n\"<b>\" </arg_key> </arg_value>\n"
     "<arg_key>t</arg_key><arg_value></arg_value></tool_call>",
     {"", "", {{"f", R"({"s": " a\n\"<b>\" </arg_key> ", "t": ""})"}}}},
    {"glm45",
     "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>b</arg_key><arg_value>x"
     "</arg_value><arg_key>a</arg_key><arg_value>2</arg_value></tool_call>",
     {"", "", {{"f", R"({"a": 2, "b": "x"})"}}}},
    {"glm45", "<tool_call>f\n</tool_call>", {"", "", {{"f", "{}"}}}},
    // Only the closing tag is missing; more is missing; no call at all.
    {"glm45",
     "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>\n</tool",
     {"", "", {{"f", R"({"a": 1})"}}}},
    {"glm45", "<tool_call>f\n", {"", "<tool_call>f\n", {}}},
    {"glm45",
     "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg",
     {"", "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg", {}}},
    {"glm45", "a <tool_call></tool_call> b", {"", "a <tool_call></tool_call> b", {}}},
    {"glm45",
     "<tool_call>two words<arg_key>a</arg_key>",
     {"", "<tool_call>two words<arg_key>a</arg_key>", {}}},
    {"glm45", "<tool_call>{\"a\": 1}</tool_call>", {"", "<tool_call>{\"a\": 1}</tool_call>", {}}},
    {"glm45", "<tool_call>a<tool_call>f</tool_call>", {"", "<tool_call>a", {{"f", "{}"}}}},
    {"glm45",
     "<tool_call>f<arg_key>a</arg_key>x<arg_value>1</arg_value></tool_call>",
     {"", "<tool_call>f<arg_key>a</arg_key>x<arg_value>1</arg_value></tool_call>", {}}},
    {"glm45+think", "<think>Hm.</think>\n" + kGlmParis, {"Hm.", "", {kParis}}},
    {"glm45+open", "Hm.</think>" + kGlmParis, {"Hm.", "", {kParis}}},
    // Reasoning.
    {"+think", "<think>\nHm.\n</think>\n\nYes.", {"Hm.", "Yes.", {}}},
    {"+think", "<think>\n\n</think>\n\nYes.", {"", "Yes.", {}}},
    {"+think", "\n<think>a</think>b", {"a", "b", {}}},
    {"+think", "Yes.<think>no</think>", {"", "Yes.<think>no</think>", {}}},
    {"+think", "<think>endless\n", {"endless\n", "", {}}},
    {"+think", "<thi", {"", "<thi", {}}},
    {"+think", "<thinking> is a tag", {"", "<thinking> is a tag", {}}},
    {"+think", "<think>a </thin b</think>c</think>", {"a </thin b", "c</think>", {}}},
    {"+think", " ", {"", " ", {}}},
    {"+open", "\nHm.\n</think>\n\nYes.\n", {"Hm.", "Yes.\n", {}}},
    {"+open", "<think>\nHm.</think>Yes.", {"Hm.", "Yes.", {}}},
    {"+open", "cut short", {"cut short", "", {}}},
    {"+open", "</think>Yes.", {"", "Yes.", {}}},
    {"hermes+think",
     "<think>\n<tool_call> or not?\n</think>\n\n" + kHermesParis,
     {"<tool_call> or not?", "", {kParis}}},
    {"hermes+think", "<think>\n\n</think>\n\nLook:\n" + kHermesParis, {"", "Look:", {kParis}}},
    {"llama3_json+open",
     R"(Hm.</think>{"name": "f", "parameters": {}})",
     {"Hm.", "", {{"f", "{}"}}}},
};

TEST(Parsers, EverySplitGivesTheSameParts) {
  for (const Case& c : kCases) check_all_splits(c.form, c.text, c.want);
}

TEST(Parsers, RandomSplitsOfJoinedTexts) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 4; ++i) text += kCases[random() % std::size(kCases)].text;
    for (const char* form : {"hermes", "llama3_json", "+think", "hermes+open", "deepseek_v3",
                             "kimi_k2", "glm45", "mistral", "mistral_args"}) {
      std::vector<size_t> cuts;
      for (size_t at = random() % 8; at < text.size(); at += 1 + random() % 16) cuts.push_back(at);
      ASSERT_EQ(parse(form, text, cuts), parse(form, text, {})) << form << ": " << text;
    }
  }
}

// Arguments are always JSON, whatever the model writes, until they are streamed while they grow.
TEST(Parsers, LongArgumentsAreStreamed) {
  const std::string head = R"(<tool_call>{"name": "f", "arguments": {"x": ")";
  const std::string body(10000, 'y');
  for (const bool valid : {false, true}) {
    const auto parser = make("hermes", valid);
    ParsedText out;
    parser->push(head, out);
    EXPECT_EQ(out.calls.size(), valid ? 1U : 0U);
    parser->push(std::string_view(body).substr(0, 3000), out);
    ASSERT_EQ(out.calls.size(), 1U);
    EXPECT_EQ(out.calls[0].name, "f");
    EXPECT_EQ(out.calls[0].arguments, R"({"x": ")" + body.substr(0, 3000));
    parser->push(std::string_view(body).substr(3000), out);
    parser->push("\"}}</tool_call>", out);
    parser->finish(out);
    ASSERT_EQ(out.calls.size(), 1U);
    EXPECT_EQ(out.calls[0].arguments, R"({"x": ")" + body + "\"}");
    EXPECT_EQ(out.content, "");
  }
  // Broken after that: the call stays incomplete and the rest is text.
  const Parts broken = parse("hermes", head + body + "\"]}</tool_call>", {});
  EXPECT_EQ(broken, parse("hermes", head + body + "\"]}</tool_call>", {7, 100, 5000}));
  EXPECT_EQ(broken.content, "]}</tool_call>");
  ASSERT_EQ(broken.calls.size(), 1U);
}

TEST(Parsers, TakesTimeLinearInTheText) {
  // A megabyte a byte at a time; quadratic work would take minutes.
  const std::string units[] = {"<tool_call>",
                               "{",
                               "<",
                               "a",
                               "\n",
                               "<tool_call>{\"name\":\"",
                               "</tool_call>",
                               kHermesParis,
                               "<think>",
                               "{\"name\":",
                               "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{",
                               "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>"};
  for (const std::string& unit : units) {
    std::string text;
    while (text.size() < 1000000) text += unit;
    for (const char* form :
         {"hermes+think", "llama3_json", "hermes+open", "deepseek_v31", "glm45"}) {
      const auto parser = make(form);
      ParsedText out;
      size_t size = 0;
      for (const char& c : text) {
        parser->push({&c, 1}, out);
        if (out.empty()) continue;
        size += out.content.size() + out.reasoning.size() + out.calls.size();
        out.clear();
      }
      parser->finish(out);
      // In reasoning, leading newlines are the format's.
      if (unit == "\n" && std::string_view(form).ends_with("+open")) continue;
      EXPECT_GT(size + out.content.size() + out.reasoning.size(), 0U) << form << " " << unit;
    }
  }
}

TEST(ParserTable, FindsFormatsByNameAndTemplate) {
  const auto tool = [](std::string_view name, std::string_view source) -> std::string {
    const auto found = find_tool_format(name, source);
    if (!found) return found.error().message;
    return *found == nullptr ? "none" : std::string((*found)->name);
  };
  EXPECT_EQ(tool("auto", "x <tool_call>\\n{\\\"name\\\""), "hermes");
  EXPECT_EQ(tool("auto", "<tool_call><arg_key>"), "glm45");
  EXPECT_EQ(tool("auto", "<|im_start|>"), "none");
  EXPECT_EQ(tool("none", "<tool_call>"), "none");
  EXPECT_EQ(tool("llama3", ""), "llama3_json");
  EXPECT_EQ(tool("auto", "<｜tool▁calls▁begin｜>'```json'"), "deepseek_v3");
  EXPECT_EQ(tool("auto", "<｜tool▁calls▁begin｜>"), "deepseek_v31");
  EXPECT_EQ(tool("auto", "<|tool_calls_section_begin|>"), "kimi_k2");
  EXPECT_EQ(tool("auto", "[TOOL_CALLS] ["), "mistral");
  EXPECT_EQ(tool("auto", "[TOOL_CALLS]' + name + '[ARGS]"), "mistral_args");
  EXPECT_NE(tool("no_such", "").find("allowed: auto, none, hermes"), std::string::npos);
  EXPECT_EQ((*find_reasoning_format("auto", "a</think>"))->name, "qwen3");
  EXPECT_EQ(*find_reasoning_format("auto", ""), nullptr);
  const ReasoningFormat& think = **find_reasoning_format("qwen3", "");
  const auto start = [&](std::string_view prompt) { return think.start(think, prompt); };
  EXPECT_EQ(start("assistant\n<think>\n"), ReasoningStart::kInside);
  EXPECT_EQ(start("assistant\n<think>\n\n</think>\n\n"), ReasoningStart::kNone);
  EXPECT_EQ(start("what is <think>?<|im_end|>\n"), ReasoningStart::kPossible);
  EXPECT_EQ(start(""), ReasoningStart::kPossible);
}

}  // namespace
}  // namespace atom::parsers
