// The readers of single request fields whose form is more than one number, flag or string, and what
// all readers share. The table that names them is in request_fields.cpp.
#pragma once

#include <boost/json/fwd.hpp>
#include <optional>
#include <string_view>

#include "atom/entrypoints/openai/request_fields.h"

namespace atom::openai {

// "NAME must be WANTED, not a number"
std::unexpected<Error> type_error(std::string_view name, const char* wanted,
                                  const boost::json::value& got);
// 1.0 is the integer 1; 1.5, 1e400 and what does not fit 64 bits are none.
std::optional<int64_t> as_integer(const boost::json::value& value);

using FieldReader = Status(const boost::json::value& value, const FieldSpec& field,
                           const RequestLimits& limits, ApiRequest& request);
FieldReader read_prompt;
FieldReader read_messages;
FieldReader read_tools;
FieldReader read_tool_choice;
FieldReader read_response_format;  // grammar_fields.cpp
FieldReader read_structured_outputs;
FieldReader read_guided;
FieldReader read_modalities;
FieldReader read_stop;
FieldReader read_stop_token_ids;
FieldReader read_logit_bias;
FieldReader read_stream_options;
FieldReader read_template_kwargs;
FieldReader read_reasoning_effort;
FieldReader read_thinking;
FieldReader read_documents;

}  // namespace atom::openai
