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

// How arguments are written; the names are those of structural tags.
enum class ArgumentStyle : uint8_t {
  kJson,    // {"key": value}
  kGlmXml,  // <arg_key>key</arg_key><arg_value>value</arg_value>
};

// One tool call as text: before_name NAME before_arguments {…} after_arguments.
struct CallForm {
  std::string_view trigger;  // what a call begins with, and other text does not
  std::string_view before_name;
  std::string_view before_arguments;
  std::string_view after_arguments;
  std::string_view between;  // two calls
  ArgumentStyle style = ArgumentStyle::kJson;
};

struct ToolFormat {
  std::string_view name;
  std::string_view alias;  // another name that clients of other servers use; may be empty
  // Whether the chat template asks the model to write calls in this form.
  bool (*matches)(std::string_view chat_template);
  std::unique_ptr<OutputParser> (*make)(const ParserContext& context);
  CallForm form;
  // Special tokens whose place in the output the parser has to know.
  std::span<const std::string_view> control_tokens;
  // Calls are made of text alone, so that a grammar can hold some of them beside free text.
  bool calls_are_text = true;
  // Of the ids that the server makes, where the template takes letters and digits only; 0: any.
  size_t id_length = 0;
};

// Where the prompt leaves the model.
enum class ReasoningStart : uint8_t {
  kNone,      // the template closed the block, or there is no such thing
  kPossible,  // the model may open one
  kInside,    // the template opened it
};

struct ReasoningFormat {
  std::string_view name;
  std::string_view alias;
  bool (*matches)(std::string_view chat_template);
  std::string_view open;
  std::string_view close;
  std::string_view gap;  // between the block and the answer
  ReasoningStart (*start)(const ReasoningFormat& format, std::string_view prompt);
  std::unique_ptr<OutputParser> (*make)(const ParserContext& context,
                                        std::unique_ptr<OutputParser> next);
  // As in ToolFormat.
  std::span<const std::string_view> control_tokens = {};
  // The tokens that begin an answer which a grammar holds from its first byte on; they end the
  // prompt then. Empty: the grammar says what may come before the answer.
  std::string_view answer_prefix = {};
};

std::span<const ToolFormat> tool_formats();
std::span<const ReasoningFormat> reasoning_formats();

// How calls are demanded of a model that has no form of its own: as bare JSON.
const ToolFormat& generic_tool_format();

// `name` is a format, "auto" (by the template) or "none". nullptr: none.
Result<const ToolFormat*> find_tool_format(std::string_view name, std::string_view chat_template);
Result<const ReasoningFormat*> find_reasoning_format(std::string_view name,
                                                     std::string_view chat_template);

}  // namespace atom::parsers
