// Call: one HTTP request on its way through a handler, with where its answer goes.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "atom/entrypoints/http/message.h"
#include "atom/entrypoints/openai/api_error.h"

namespace atom::openai {

struct Call {
  http::Request request;
  std::shared_ptr<http::ResponseWriter> writer;
  std::string request_id;  // the client's x-request-id, or ours
  http::Headers headers;   // of every answer: request id, CORS
  std::chrono::steady_clock::time_point arrival;
  bool access_log = false;

  void send(http::Response response) const;
  void fail(const ApiError& error) const { send(error_response(error)); }
  void begin_event_stream() const;
  // One line per request, when its answer is complete.
  void log(int status) const;
};

}  // namespace atom::openai
