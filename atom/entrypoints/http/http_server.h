// HttpServer: sockets, connections and deadlines behind a pimpl. A few I/O threads, one event loop
// each, thousands of connections per loop and never a thread per stream. It knows HTTP, not what is
// served: that is the Handler. Asio stays in the .cpp files.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "atom/core/error.h"
#include "atom/entrypoints/http/message.h"
#include "atom/entrypoints/http/request_parser.h"

namespace atom::http {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // 0 = any free port
  int io_threads = 1;
  ParserLimits parser;
  int64_t max_total_body_bytes = 536870912;
  int64_t max_connections = 10000;
  int64_t max_stream_backlog = 4194304;
  std::chrono::milliseconds keep_alive_timeout{75'000};
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds write_timeout{30'000};
};

struct HttpStats {
  int64_t open_connections = 0;
  int64_t active_exchanges = 0;  // requests whose answer is not complete
  int64_t disconnects = 0;       // clients that left before the end of the answer, since start
};

class HttpServer {
 public:
  // `refuse` words the answer to what never reaches the handler (framing, limits, deadlines).
  using Refuse = std::function<Response(int status, const std::string& message)>;

  HttpServer(HttpOptions options, Handler handler, Refuse refuse);
  ~HttpServer();  // stop()
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Takes the port, so that a conflict shows before a model is loaded. Connections are refused
  // until listen().
  Status bind();
  Status listen();
  int port() const;  // the bound one

  // Waits until every answer in progress has been written out, or for `deadline`.
  void wait_until_quiet(std::chrono::milliseconds deadline);
  // Closes everything and joins the I/O threads. Idempotent.
  void stop();

  HttpStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace atom::http
