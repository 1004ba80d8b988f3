// The parsers of tool calls, one file each; parser_table.cpp says which model gets which.
#pragma once

#include <memory>
#include <utility>

#include "atom/entrypoints/parsers/call_stream.h"
#include "atom/entrypoints/parsers/output_parser.h"

namespace atom::parsers {

// All text is content.
std::unique_ptr<OutputParser> make_plain_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_hermes_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_llama3_json_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_deepseek_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_kimi_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_mistral_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_mistral_args_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_glm_parser(const ParserContext& context);
std::unique_ptr<OutputParser> make_harmony_parser(const ParserContext& context);

// Splits off the reasoning and hands the rest to `next`.
std::unique_ptr<OutputParser> make_think_parser(const ParserContext& context,
                                                std::unique_ptr<OutputParser> next);

// Reads calls itself: `next` is not needed.
std::unique_ptr<OutputParser> make_harmony_reasoning(const ParserContext& context,
                                                     std::unique_ptr<OutputParser> next);

}  // namespace atom::parsers
