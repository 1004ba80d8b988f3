#include "atom/entrypoints/openai/api_error.h"

#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace {

const char* error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 501:
      return "not_supported_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kResourceExhausted:
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kDataLoss:
    case ErrorCode::kInternal:
      return 500;
  }
  return 500;
}

}  // namespace

ApiError to_api_error(const Error& error) {
  ApiError out{.status = status_of(error.code), .message = error.message, .param = error.param};
  if (out.status == 500) out.message = "internal error";  // the log has the details
  if (out.message.find("maximum context length") != std::string::npos)
    out.code = "context_length_exceeded";
  if (error.code == ErrorCode::kNotFound && error.param == "model") out.code = "model_not_found";
  return out;
}

std::string error_body(const ApiError& error) {
  std::string out = R"({"error":{"message":)";
  append_json_string(out, error.message);
  out += R"(,"type":")";
  out += error_type(error.status);
  out += R"(","param":)";
  if (error.param.empty()) {
    out += "null";
  } else {
    append_json_string(out, error.param);
  }
  out += R"(,"code":)";
  if (error.code.empty()) {
    append_int(out, error.status);
  } else {
    append_json_string(out, error.code);
  }
  out += "}}";
  return out;
}

http::Response error_response(const ApiError& error) {
  http::Response response{.status = error.status, .body = error_body(error)};
  if (error.status == 503 || error.status == 429) response.headers.emplace_back("Retry-After", "1");
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace atom::openai
