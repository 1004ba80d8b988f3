// The one translator from what went wrong to what a client sees: OpenAI's error object and its
// status. Messages name the field and the allowed range; they never carry paths, addresses or more
// than 128 characters of input (clipped()).
#pragma once

#include <string>

#include "atom/core/error.h"
#include "atom/entrypoints/http/message.h"

namespace atom::openai {

struct ApiError {
  int status = 400;
  std::string message;
  std::string param = {};  // dotted request field; empty: null
  std::string code = {};   // OpenAI's word for it; empty: the status as a number
};

ApiError to_api_error(const Error& error);

// {"error": {"message", "type", "param", "code"}}
std::string error_body(const ApiError& error);
http::Response error_response(const ApiError& error);

}  // namespace atom::openai
