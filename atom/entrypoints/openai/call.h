// Call: one HTTP request on its way through a handler, with where its answer goes and what is
// written about it: the counters of its route and one log line.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "atom/entrypoints/http/message.h"
#include "atom/entrypoints/openai/api_error.h"
#include "atom/entrypoints/openai/api_metrics.h"

namespace atom::openai {

// What the log line of a generation says beyond the rest; negative or empty: nothing.
struct CallSummary {
  int64_t prompt_tokens = -1;
  int64_t cached_tokens = -1;
  int64_t completion_tokens = -1;
  double ttft = -1;  // seconds
  std::string finish_reason = {};
  std::string prompt = {};  // only with --log-prompts
};

struct Call {
  http::Request request;
  std::shared_ptr<http::ResponseWriter> writer;
  std::string request_id;  // the client's x-request-id, or ours
  http::Headers headers;   // of every answer: request id, CORS
  std::chrono::steady_clock::time_point arrival;
  std::shared_ptr<ApiMetrics> metrics;
  size_t route = SIZE_MAX;  // index in the route table
  bool access_log = false;
  bool log_prompts = false;
  int64_t bytes_sent = 0;  // of a stream's events

  void send(http::Response response, const CallSummary& summary = {}) const;
  void fail(const ApiError& error, const CallSummary& summary = {}) const {
    send(error_response(error), summary);
  }
  void begin_event_stream() const;
  bool write(std::string_view events) {
    bytes_sent += static_cast<int64_t>(events.size());
    return writer->write(events);
  }
  // The answer is complete, or its client has left (499). send() calls it.
  void done(int status, int64_t bytes, const CallSummary& summary = {}) const;
};

}  // namespace atom::openai
