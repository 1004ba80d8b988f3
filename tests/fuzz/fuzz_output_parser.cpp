// From the text of a model to reasoning, content and tool calls. However the text is cut, the parts
// are the same; without calls nothing but tags and spaces at their edges is missing from them and
// nothing is added; the arguments of a call are a JSON object unless it was streamed while it grew.
#include <algorithm>
#include <string>
#include <vector>

#include "atom/core/json.h"
#include "atom/entrypoints/parsers/call_stream.h"
#include "atom/entrypoints/parsers/parser_table.h"
#include "atom/entrypoints/parsers/tool_parsers.h"
#include "tests/fuzz/check.h"

#include <boost/json.hpp>

namespace {

using namespace atom;
using namespace atom::parsers;

struct Parts {
  std::string reasoning;
  std::string content;
  std::vector<std::string> names;
  std::vector<std::string> arguments;
  bool operator==(const Parts&) const = default;
};

struct Form {
  const ToolFormat* tools = nullptr;
  const ReasoningFormat* reasoning = nullptr;
  ParserContext context;
};

// Bits of the first byte: one each for reasoning, an open block and a grammar, the others for the
// tool format.
Form read_form(uint8_t byte) {
  Form form;
  const size_t tool = static_cast<size_t>(byte & 3) + static_cast<size_t>(byte >> 5) * 4;
  if (tool < tool_formats().size()) form.tools = &tool_formats()[tool];
  if ((byte & 4) != 0) form.reasoning = &reasoning_formats()[0];
  form.context = {.tool_names = {"f", "get_weather"},
                  .in_reasoning = (byte & 8) != 0,
                  .calls_are_valid = (byte & 16) != 0};
  return form;
}

void collect(const ParsedText& delta, Parts& parts) {
  parts.reasoning += delta.reasoning;
  parts.content += delta.content;
  for (const ToolCallDelta& call : delta.calls) {
    if (call.first) {
      FUZZ_CHECK(!call.name.empty());
      parts.names.push_back(call.name);
      parts.arguments.emplace_back();
    }
    FUZZ_CHECK(call.index + 1 == static_cast<int32_t>(parts.names.size()));
    parts.arguments.back() += call.arguments;
  }
}

Parts parse(const Form& form, std::string_view text, const std::vector<size_t>& cuts) {
  auto parser =
      form.tools != nullptr ? form.tools->make(form.context) : make_plain_parser(form.context);
  if (form.reasoning != nullptr) parser = form.reasoning->make(form.context, std::move(parser));
  Parts parts;
  ParsedText delta;
  for (size_t i = 0; !text.empty(); ++i) {
    const size_t count = cuts.empty() ? text.size() : std::min(text.size(), cuts[i % cuts.size()]);
    delta.clear();
    parser->push(text.substr(0, count), delta);
    collect(delta, parts);
    text.remove_prefix(count);
  }
  delta.clear();
  parser->finish(delta);
  collect(delta, parts);
  return parts;
}

std::string without_spaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (!is_json_space(c)) out += c;
  }
  return out;
}

// What is left of the text without the tags of its reasoning, found the naive way.
std::string without_think_tags(const Form& form, std::string_view text) {
  std::string out(text);
  if (form.reasoning == nullptr) return out;
  const size_t start = std::min(out.find_first_not_of(" \t\r\n"), out.size());
  const bool opened = std::string_view(out).substr(start).starts_with("<think>");
  if (opened) out.erase(start, 7);
  if (!opened && !form.context.in_reasoning) return out;
  if (const size_t end = out.find("</think>"); end != std::string::npos) out.erase(end, 8);
  return out;
}

// Whether the format reads its control tokens also where they arrive as text.
bool reads_markers(const ToolFormat* tools) {
  return tools != nullptr &&
         std::ranges::any_of(tools->control_tokens, [&](std::string_view token) {
           return tools->form.before_name.starts_with(token);
         });
}

// Markers of control tokens are no text anywhere.
std::string without_markers(const Form& form, std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t marker = 0;
    if (reads_markers(form.tools)) {
      for (const std::string_view token : form.tools->control_tokens) {
        if (text.starts_with(token)) marker = token.size();
      }
    }
    if (marker == 0) out += text[0];
    text.remove_prefix(std::max<size_t>(marker, 1));
  }
  return out;
}

// Also of those that the removal of others puts together.
std::string without_any_marker(const Form& form, std::string text) {
  for (size_t size = text.size() + 1; text.size() < size;) {
    size = text.size();
    text = without_markers(form, text);
  }
  return text;
}

bool is_subsequence(std::string_view part, std::string_view text) {
  size_t at = 0;
  for (const char c : text) at += at < part.size() && part[at] == c ? 1 : 0;
  return at == part.size();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3 || size > 8192) return 0;
  const Form form = read_form(data[0]);
  const std::vector<size_t> cuts = {data[1] % 32U + 1, data[2] % 32U + 1};
  // The engine gives out whole characters; the cuts here are between any bytes.
  const std::string text = fuzz::well_formed({reinterpret_cast<const char*>(data) + 3, size - 3});

  const Parts whole = parse(form, text, {});
  FUZZ_CHECK(whole == parse(form, text, cuts));
  FUZZ_CHECK(whole == parse(form, text, {1}));

  FUZZ_CHECK(is_subsequence(whole.reasoning + whole.content, text));
  // Inside reasoning a marker that is no token of the vocabulary is text.
  if (reads_markers(form.tools) && form.reasoning != nullptr) return 0;
  const std::string tagged = without_think_tags(form, text);
  const std::string left = without_spaces(without_markers(form, tagged));
  const std::string given = without_spaces(whole.reasoning + whole.content);
  // An object that breaks off is given out as it was, with what looked like a marker in a string.
  if (whole.names.empty()) {
    FUZZ_CHECK(without_any_marker(form, given) == without_any_marker(form, left));
  }
  FUZZ_CHECK(given.size() + 10 * whole.names.size() <= without_spaces(tagged).size());
  if (form.context.calls_are_valid || text.size() > CallStream::kHoldBytes) return 0;
  for (const std::string& arguments : whole.arguments) {
    // Numbers too large for a double are JSON all the same, but not to every reader.
    const Result<boost::json::value> value = parse_json(arguments);
    FUZZ_CHECK(value ? value->is_object()
                     : arguments.find_first_of("eE0123456789\\") != arguments.npos);
  }
  return 0;
}
