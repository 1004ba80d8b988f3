#include "atom/entrypoints/openai/call.h"

#include <vector>

#include "atom/core/log.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {

void Call::send(http::Response response, const CallSummary& summary) const {
  const int status = response.status;
  const auto bytes = static_cast<int64_t>(response.body.size());
  response.headers.insert(response.headers.end(), headers.begin(), headers.end());
  writer->send(std::move(response));
  done(status, bytes, summary);
}

void Call::begin_event_stream() const {
  http::Response head{.content_type = "text/event-stream; charset=utf-8", .headers = headers};
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");
  writer->begin_stream(std::move(head));
}

void Call::done(int status, int64_t bytes, const CallSummary& summary) const {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - arrival;
  if (metrics) metrics->route(route).count(request.method, status, elapsed.count());
  // What is polled every few seconds would bury the rest.
  const bool polled = request.path == "/health" || request.path == "/metrics";
  const LogLevel level = polled && status < 400 ? LogLevel::kDebug : LogLevel::kInfo;
  if (!access_log || log_level() > level) return;
  const std::string method = clipped(request.method);
  const std::string path = clipped(request.path);
  std::vector<LogField> fields = {{"method", method},
                                  {"path", path},
                                  {"status", int64_t{status}},
                                  {"bytes", bytes},
                                  {"duration_ms", elapsed.count() * 1000},
                                  {"client", std::string_view(request.client)},
                                  {"id", std::string_view(request_id)}};
  const auto add_count = [&](std::string_view name, int64_t value) {
    if (value >= 0) fields.push_back({name, value});
  };
  add_count("prompt_tokens", summary.prompt_tokens);
  add_count("cached_tokens", summary.cached_tokens);
  add_count("completion_tokens", summary.completion_tokens);
  if (summary.ttft >= 0) fields.push_back({"ttft_ms", summary.ttft * 1000});
  if (!summary.finish_reason.empty())
    fields.push_back({"finish_reason", std::string_view(summary.finish_reason)});
  if (!summary.prompt.empty()) fields.push_back({"prompt", std::string_view(summary.prompt)});
  log_event(level, "request", fields);
}

}  // namespace atom::openai
