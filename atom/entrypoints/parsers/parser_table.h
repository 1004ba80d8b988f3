// Which parser reads which model: a row for each format of tool calls and of reasoning, found by
// the chat template or named by a flag (vLLM's names). To add a family: a row here and the file
// that makes its parser.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/entrypoints/parsers/output_parser.h"

namespace atom::parsers {

struct ToolFormat {
  std::string_view name;
  std::string_view alias;  // another name that clients of other servers use; may be empty
  // Whether the chat template asks the model to write calls in this form.
  bool (*matches)(std::string_view chat_template);
  std::unique_ptr<OutputParser> (*make)(const ParserContext& context);
  // Special tokens whose place in the output the parser has to know.
  std::span<const std::string_view> control_tokens;
};

struct ReasoningFormat {
  std::string_view name;
  std::string_view alias;
  bool (*matches)(std::string_view chat_template);
  // The prompt leaves the model inside a reasoning block.
  bool (*open_at_end)(std::string_view prompt);
  std::unique_ptr<OutputParser> (*make)(const ParserContext& context,
                                        std::unique_ptr<OutputParser> next);
};

std::span<const ToolFormat> tool_formats();
std::span<const ReasoningFormat> reasoning_formats();

// `name` is a format, "auto" (by the template) or "none". nullptr: none.
Result<const ToolFormat*> find_tool_format(std::string_view name, std::string_view chat_template);
Result<const ReasoningFormat*> find_reasoning_format(std::string_view name,
                                                     std::string_view chat_template);

}  // namespace atom::parsers
