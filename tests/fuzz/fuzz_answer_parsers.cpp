// Parsers of tool calls and reasoning on whatever a model may write: however the text is cut, the
// same reasoning, content and calls come out; nothing is invented; the arguments of a call that was
// held back are JSON. First byte: format, reasoning, grammar; second: how the text is cut; a NUL in
// the rest is a control token of the format.
#include <boost/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "atom/core/json.h"
#include "atom/entrypoints/parsers/call_stream.h"
#include "atom/entrypoints/parsers/parser_table.h"
#include "atom/entrypoints/parsers/tool_parsers.h"
#include "tests/fuzz/check.h"

namespace {

using namespace atom;
using namespace atom::parsers;

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

void collect(const ParsedText& delta, Parts& parts) {
  parts.reasoning += delta.reasoning;
  parts.content += delta.content;
  for (const ToolCallDelta& call : delta.calls) {
    if (call.first) {
      FUZZ_CHECK(call.index == static_cast<int32_t>(parts.calls.size()));
      parts.calls.push_back({.name = call.name, .arguments = {}});
    }
    FUZZ_CHECK(call.index + 1 == static_cast<int32_t>(parts.calls.size()));
    parts.calls.back().arguments += call.arguments;
  }
}

struct Form {
  const ToolFormat* tools;  // nullptr: none
  const ReasoningFormat* reasoning;
  ParserContext context;
};

Form read_form(uint8_t byte) {
  const std::span<const ToolFormat> tools = tool_formats();
  const std::span<const ReasoningFormat> reasonings = reasoning_formats();
  Form form;
  form.context.tool_names = {"f", "get_weather"};
  form.context.in_reasoning = (byte & 1) != 0;
  form.context.calls_are_valid = (byte & 2) != 0;
  const size_t tool = (byte >> 2) % (tools.size() + 1);
  form.tools = tool < tools.size() ? &tools[tool] : nullptr;
  const size_t reasoning = (byte >> 5) % (reasonings.size() + 1);
  form.reasoning = reasoning < reasonings.size() ? &reasonings[reasoning] : nullptr;
  if (form.reasoning == nullptr) form.context.in_reasoning = false;
  return form;
}

Parts parse(const Form& form, std::string_view text, uint8_t seed) {
  std::unique_ptr<OutputParser> parser =
      form.tools != nullptr ? form.tools->make(form.context) : make_plain_parser(form.context);
  if (form.reasoning != nullptr) parser = form.reasoning->make(form.context, std::move(parser));
  Parts parts;
  std::mt19937 random(seed);
  while (!text.empty()) {
    ParsedText delta;
    if (text[0] == '\0') {
      if (form.tools != nullptr && !form.tools->control_tokens.empty())
        parser->push_control(form.tools->control_tokens[0], delta);
      text.remove_prefix(1);
    } else {
      const size_t run = std::min(text.find('\0'), text.size());
      const size_t piece = seed == 0 ? run : std::min<size_t>(run, random() % (seed % 16U + 1) + 1);
      parser->push(text.substr(0, piece), delta);
      text.remove_prefix(piece);
    }
    collect(delta, parts);
  }
  ParsedText rest;
  parser->finish(rest);
  collect(rest, parts);
  return parts;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const Form form = read_form(data[0]);
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Parts whole = parse(form, text, 0);
  FUZZ_CHECK(parse(form, text, static_cast<uint8_t>(data[1] | 1)) == whole);
  size_t given = whole.reasoning.size() + whole.content.size();
  for (const Call& call : whole.calls) {
    given += call.arguments.size();
    FUZZ_CHECK(!call.name.empty());
    if (form.context.calls_are_valid || call.arguments.size() > CallStream::kHoldBytes / 2)
      continue;
    const auto parsed =
        parse_json(call.arguments, {.max_depth = 1000, .reject_duplicate_keys = false});
    // A string that the model wrote may not be UTF-8 here, a number may be beyond our own reader;
    // everything else must be JSON.
    FUZZ_CHECK(parsed || !fuzz::is_utf8(call.arguments) ||
               parsed.error().message.find("surrogate") != std::string::npos ||
               parsed.error().message.find("exponent") != std::string::npos);
  }
  FUZZ_CHECK(given <= 6 * text.size() + 2 * whole.calls.size());
  return 0;
}
