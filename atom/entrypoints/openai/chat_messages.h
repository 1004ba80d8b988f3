// Chat messages and tools: checks their shape and brings them into the form chat templates expect.
// Keys it does not know pass through to the template.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"
#include "atom/entrypoints/parsers/output_parser.h"

namespace atom::openai {

// Joins text parts, refuses other parts by name (nothing is ever fetched), turns JSON-string tool
// arguments into objects, makes a missing content the empty string and mirrors reasoning_content
// and reasoning. Errors name messages[i].field; `name` is the request field ("messages" or
// "prompt").
Result<boost::json::array> normalize_messages(const boost::json::array& messages,
                                              std::string_view name);

// For templates that know no such role and would drop its messages.
void rename_role(boost::json::array& messages, std::string_view from, std::string_view to);

// For templates that know the reasoning of an earlier call as "thinking" (GPT-OSS); not beside
// text, which they take for the reasoning then.
void copy_reasoning_to_thinking(boost::json::array& messages);

Status check_tools(const boost::json::array& tools);
// Of checked tools.
// Drops the tools that are not among `names`.
void keep_tools(boost::json::array& tools, const std::vector<std::string>& names);
bool has_tool(const boost::json::array& tools, std::string_view name);
std::vector<std::string> tool_names(const boost::json::array& tools);
std::vector<parsers::StringParameter> string_parameters(const boost::json::array& tools);

}  // namespace atom::openai
