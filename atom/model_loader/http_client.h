// A small HTTP(S) client for the hub: GET and HEAD, redirects, ranges, a streamed body. libcurl
// does the work and is opened with dlopen at the first use, so that the program needs it only for
// downloads. One object per thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "atom/core/error.h"

namespace atom {

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers = {};  // of the last response, names in lower case
  std::string body = {};                            // unless streamed; cut at HttpRequest::max_body

  std::string header(const std::string& name) const;  // empty when absent
};

struct HttpRequest {
  std::string url;
  std::string bearer_token = {};  // not sent on to other hosts by a redirect
  bool head = false;
  bool follow_redirects = false;
  int64_t range_begin = 0;  // > 0: ask for the bytes from here on
  int64_t max_body = 32 << 20;
  // Receives the body of a 2xx response piece by piece; the response has status and headers by
  // then. An error ends the transfer and becomes its result.
  std::function<Status(const HttpResponse&, std::span<const std::byte>)> sink = {};
};

class HttpClient {
 public:
  // Error when libcurl is not installed.
  static Result<std::unique_ptr<HttpClient>> create();
  virtual ~HttpClient() = default;

  // Any status is a response. Errors of code kUnavailable are the network's and worth another try.
  virtual Result<HttpResponse> send(const HttpRequest& request) = 0;
};

}  // namespace atom
