// HttpLoadClient: many POST requests at once to one server from one thread, each answer's bytes
// handed on with the time at which they arrived at the socket (arrival_clock.h). HTTP/1.1 without
// TLS; connections are kept and used again. Knows nothing of JSON or of what is measured.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "atom/core/error.h"

namespace atom {

struct HttpPost {
  std::string method = "POST";
  std::string path = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
};

struct HttpOutcome {
  int status = 0;           // 0: no answer came
  std::string error = {};   // transport or framing; empty when the answer came whole
  std::string reason = {};  // the status line's words
};

class HttpLoadClient {
 public:
  using Clock = std::chrono::steady_clock;
  using OnData = std::function<void(std::string_view bytes, Clock::time_point arrived)>;
  using OnEnd = std::function<void(const HttpOutcome&)>;

  // Nothing is opened: is it a URL that create() takes?
  static Status check_url(const std::string& base_url);
  // "http://HOST[:PORT][/PREFIX]"; the prefix goes before every path. Resolves the name.
  static Result<std::unique_ptr<HttpLoadClient>> create(const std::string& base_url);
  ~HttpLoadClient();

  // Called from run()'s thread, or before it. on_end comes exactly once, never from inside send().
  void send(HttpPost request, OnData on_data, OnEnd on_end);
  // Calls `action` once, that long from now; run() waits for it.
  void after(std::chrono::nanoseconds delay, std::function<void()> action);
  // The same, but run() may end before.
  void at_most(std::chrono::nanoseconds limit, std::function<void()> action);
  // Every running request ends with an error; timers are dropped.
  void cancel(const std::string& reason);
  // Until no request and no timer is left. `tick` is called about five times a second.
  void run(const std::function<void()>& tick);

 private:
  struct Impl;
  explicit HttpLoadClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atom
