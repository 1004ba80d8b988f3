// The harmony parser on a table of answers, with the text cut everywhere: control tokens come
// beside the text, as the engine gives them, and never show.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "atom/entrypoints/parsers/parser_table.h"
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

struct Parts {
  std::string reasoning;
  std::string content;
  std::vector<std::string> calls;  // NAME(ARGUMENTS)
  bool operator==(const Parts&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Parts& parts) {
  out << "reasoning [" << parts.reasoning << "] content [" << parts.content << "]";
  for (const std::string& call : parts.calls) out << " " << call;
  return out;
}

// As a client puts the deltas of a stream together.
void collect(const ParsedText& delta, Parts& parts) {
  parts.reasoning += delta.reasoning;
  parts.content += delta.content;
  for (const ToolCallDelta& call : delta.calls) {
    if (call.first) {
      EXPECT_EQ(call.index, static_cast<int32_t>(parts.calls.size()));
      parts.calls.push_back(call.name + ": ");
    }
    ASSERT_EQ(call.index + 1, static_cast<int32_t>(parts.calls.size()));
    parts.calls.back() += call.arguments;
  }
}

// Gives `answer` to a parser: what stands between <| and |> as a control token, the rest as text,
// `step` bytes at a time; 0: whole.
Parts parse(std::string_view answer, size_t step, bool tools = true) {
  const ParserContext context{.tool_names = tools ? std::vector<std::string>{"f", "g"}
                                                  : std::vector<std::string>{}};
  const auto parser = (*find_reasoning_format("openai_gptoss", ""))->make(context, nullptr);
  Parts parts;
  ParsedText delta;
  const auto give = [&] {
    collect(delta, parts);
    delta.clear();
  };
  while (!answer.empty()) {
    if (answer.starts_with("<|")) {
      const size_t size = answer.find("|>") + 2;
      parser->push_control(answer.substr(0, size), delta);
      answer.remove_prefix(size);
    } else {
      size_t size = std::min(answer.find("<|"), answer.size());
      if (step != 0) size = std::min(size, step);
      parser->push(answer.substr(0, size), delta);
      answer.remove_prefix(size);
    }
    if (step != 0) give();
  }
  parser->finish(delta);
  give();
  return parts;
}

struct Case {
  const char* answer;
  Parts want;
};

const Case kCases[] = {
    {"", {}},
    {"Plain text, no header.", {"", "Plain text, no header.", {}}},
    {" to", {"", " to", {}}},
    {"<|channel|>final<|message|>Hello.<|return|>", {"", "Hello.", {}}},
    {"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes. ",
     {"Hm.", "Yes. ", {}}},
    // A call; the recipient on either side of the channel, with and without a type.
    {"<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
     {"Look.", "", {"f: {\"a\": 1}"}}},
    {"<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.f<|channel|>"
     "commentary json<|message|>{\"a\": 1} \n<|call|>",
     {"Look.", "", {"f: {\"a\": 1}"}}},
    {" to=functions.f<|channel|>commentary<|message|>{}<|call|>", {"", "", {"f: {}"}}},
    {"<|channel|>commentary to=functions.f<|constrain|>json<|message|>{\"a\": [2]}",
     {"", "", {"f: {\"a\": [2]}"}}},
    {"<|channel|>commentary to=functions.f<|message|><|call|>", {"", "", {"f: {}"}}},
    // Several, and a preamble.
    {"<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.f<|message|>{}<|call|><|start|>assistant<|channel|>commentary "
     "to=functions.g<|message|>{\"x\": \"<b>\"}<|call|>",
     {"", "I will look.", {"f: {}", "g: {\"x\": \"<b>\"}"}}},
    {"<|channel|>commentary<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Two.",
     {"", "One.\n\nTwo.", {}}},
    {"<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>analysis<|message|>B<|end|"
     ">",
     {"A\n\nB", "", {}}},
    // Broken calls, cut calls, tools of the model's own.
    {"<|channel|>commentary to=functions.f<|message|>not JSON<|call|>", {"", "not JSON", {}}},
    {"<|channel|>commentary to=functions.f<|message|>{\"a\": \"b", {"", "{\"a\": \"b", {}}},
    {"<|channel|>commentary to=functions.f<|message|>{\"a\": 1}} x<|call|>",
     {"", "} x", {"f: {\"a\": 1}"}}},
    {"<|channel|>analysis to=browser.search<|message|>{\"query\": 1}<|call|>",
     {"{\"query\": 1}", "", {}}},
    {"<|channel|>commentary to=python<|message|>1 + 1<|call|>", {"1 + 1", "", {}}},
    // Tokens out of order, headers cut off: nothing shows that is no text, and no text is lost.
    {"<|channel|>analy", {}},
    {"<|channel|>analysis<|message|>A<|end|><|start|>assist", {"A", "", {}}},
    {"<|end|><|end|><|message|>x", {"", "x", {}}},
    {"<|message|>x<|constrain|>y<|channel|>analysis<|message|>z", {"z", "xy", {}}},
    {"<|channel|><|channel|>final<|message|>x", {"", "x", {}}},
    {"a<|channel|>analysis<|message|>b", {"b", "a", {}}},
    // What a grammar forces: bare JSON; and such a call before others.
    {"{\"name\": \"f\", \"parameters\": {\"a\": 1}}", {"", "", {"f: {\"a\": 1}"}}},
    {"{\"name\": \"f\", \"parameters\": {}}<|channel|>commentary "
     "to=functions.g<|message|>{}<|call|>",
     {"", "", {"f: {}", "g: {}"}}},
    {"{\"name\": \"unknown\"}", {"", "{\"name\": \"unknown\"}", {}}},
};

TEST(Harmony, AnswersHoweverTheyAreCut) {
  for (const Case& test : kCases) {
    for (const size_t step : {0, 1, 2, 3, 7}) {
      EXPECT_EQ(parse(test.answer, step), test.want) << test.answer << " by " << step;
    }
  }
}

TEST(Harmony, WithoutToolsThereAreNoCalls) {
  const char* call = "<|channel|>commentary to=functions.f<|message|>{\"a\": 1}<|call|>";
  EXPECT_EQ(parse(call, 0, false), (Parts{"", "{\"a\": 1}", {}}));
  EXPECT_EQ(parse("{\"name\": \"f\", \"parameters\": {}}", 1, false),
            (Parts{"", "{\"name\": \"f\", \"parameters\": {}}", {}}));
}

TEST(Harmony, LongHeadersAreTextAndLongCallsStreamed) {
  const std::string header(2000, 'h');
  EXPECT_EQ(parse("<|start|>" + header, 1), (Parts{"", header, {}}));
  EXPECT_EQ(parse(" to=" + header, 5), (Parts{"", " to=" + header, {}}));
  const std::string head = "<|channel|>commentary to=functions.f<|message|>{\"a\": \"";
  const std::string body(5000, 'b');
  EXPECT_EQ(parse(head + body + "\"}<|call|>", 9),
            (Parts{"", "", {"f: {\"a\": \"" + body + "\"}"}}));
  // Cut off when its beginning is out.
  EXPECT_EQ(parse(head + body, 9), parse(head + body, 0));
}

TEST(Harmony, MarkersInTextAreText) {
  const auto parser = make_harmony_parser({.tool_names = {"f"}});
  ParsedText out;
  parser->push_control("<|channel|>", out);
  parser->push("final", out);
  parser->push_control("<|message|>", out);
  parser->push("<|channel|>analysis<|message|>", out);
  parser->finish(out);
  EXPECT_EQ(out.content, "<|channel|>analysis<|message|>");
  EXPECT_EQ(out.reasoning, "");
}

TEST(Harmony, IsFoundByItsTemplate) {
  const char* source = "<|start|>assistant<|channel|>final<|message|>";
  EXPECT_EQ((*find_reasoning_format("auto", source))->name, "openai_gptoss");
  EXPECT_EQ((*find_tool_format("auto", source))->name, "openai");
  EXPECT_EQ((*find_reasoning_format("harmony", ""))->name, "openai_gptoss");
}

}  // namespace
}  // namespace atom::parsers
