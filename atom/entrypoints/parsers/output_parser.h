// OutputParser: turns what a model writes into the parts of a chat message: reasoning, content and
// tool calls. Fed with the text of one choice in pieces of any size; the concatenation of what it
// gives out does not depend on how the text was cut, so a whole answer is a stream of one piece. It
// knows no JSON shape of an answer and no socket. To add a family: a file that makes a parser, and
// a row in parser_table.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace atom::parsers {

// What is new of one tool call. The first one of a call has its name, the others arguments only.
struct ToolCallDelta {
  int32_t index = 0;  // of the call in its message, from 0
  bool first = false;
  std::string id;  // empty: the server makes one
  std::string name;
  std::string arguments;  // fragment of a JSON text
};

struct ParsedText {
  std::string reasoning;
  std::string content;
  std::vector<ToolCallDelta> calls;

  bool empty() const { return reasoning.empty() && content.empty() && calls.empty(); }
  void clear() {
    reasoning.clear();
    content.clear();
    calls.clear();
  }
  void begin_call(int32_t index, std::string name, std::string id = {});
  void add_arguments(int32_t index, std::string_view fragment);
};

// A parameter of a tool whose value is a string, by its schema.
struct StringParameter {
  std::string tool;
  std::string name;
};

// What a parser has to know of its request.
struct ParserContext {
  std::vector<std::string> tool_names;
  std::vector<StringParameter> string_parameters = {};
  // The prompt ends inside a reasoning block that the template opened.
  bool in_reasoning = false;
  // A grammar guarantees that calls are complete JSON, so arguments need not be held back.
  bool calls_are_valid = false;
};

// One object per choice, one thread at a time. Time is linear in the text; what it holds back is
// bounded by the longest tag, or by one tool call as far as that may still turn out to be none.
class OutputParser {
 public:
  virtual ~OutputParser() = default;
  // Appends to `out` what became certain.
  virtual void push(std::string_view text, ParsedText& out) = 0;
  // A control token of the format (ToolFormat::control_tokens), which is no part of the text.
  virtual void push_control(std::string_view token, ParsedText& out) = 0;
  // The text is over: everything held back is given out.
  virtual void finish(ParsedText& out) = 0;
};

}  // namespace atom::parsers
