#include "atom/entrypoints/openai/call.h"

#include "atom/core/log.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {

void Call::send(http::Response response) const {
  const int status = response.status;
  response.headers.insert(response.headers.end(), headers.begin(), headers.end());
  writer->send(std::move(response));
  log(status);
}

void Call::begin_event_stream() const {
  http::Response head{.content_type = "text/event-stream; charset=utf-8", .headers = headers};
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");
  writer->begin_stream(std::move(head));
}

void Call::log(int status) const {
  if (!access_log) return;
  const auto elapsed =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - arrival);
  log_info("{} {} {} {:.1f} ms id={}", request.method, clipped(request.path), status,
           elapsed.count(), request_id);
}

}  // namespace atom::openai
