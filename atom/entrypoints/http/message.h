// HTTP/1.1 messages as the handlers see them: one complete request in, one response or event stream
// out. Wire syntax belongs to request_parser, sockets to http_server.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace atom::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method;  // as sent; HTTP methods are case-sensitive
  std::string target;  // as sent
  std::string path;    // before '?', percent-decoded once
  int minor_version = 1;
  bool keep_alive = true;  // what the client asked for
  Headers headers;         // names in lower case
  std::string body;
  std::string client;  // address of the peer, without its port
  // While it lives, the body counts against what the server holds of all bodies.
  std::shared_ptr<const void> body_lease;

  // The first field of that (lower-case) name, or empty.
  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  Headers headers;
  std::string body;
  bool close = false;  // end the connection afterwards
};

const char* reason_phrase(int status);

// The answer side of one request: either send(), or begin_stream(), any number of write() and
// end(). Thread-safe; may be called from any thread and outlive the connection. Calls after the
// client has gone do nothing.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  virtual void send(Response response) = 0;
  virtual void begin_stream(Response head) = 0;  // `body` is ignored
  // Bytes of one or several events. False: the client is gone, stop producing.
  virtual bool write(std::string_view bytes) = 0;
  virtual void end() = 0;
  // False: nobody will read an answer, so that the work for it can be left out.
  virtual bool has_client() { return true; }
  // Called once, on an I/O thread, when the client goes away before the answer is complete; at once
  // when it already has.
  virtual void on_disconnect(std::function<void()> callback) = 0;
};

// Runs on an I/O thread and must not block; hands slow work to a pool.
using Handler = std::function<void(Request&&, std::shared_ptr<ResponseWriter>)>;

}  // namespace atom::http
