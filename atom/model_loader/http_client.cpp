#include "atom/model_loader/http_client.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "atom/model_loader/text.h"

namespace atom {
namespace {

constexpr size_t kMaxHeaders = 200;
constexpr long kConnectSeconds = 10;
// CURLOPT_PROTOCOLS and CURLOPT_REDIR_PROTOCOLS by number: their string successors are unknown to
// libcurl before 7.85, these to none.
constexpr auto kProtocols = static_cast<CURLoption>(CURLOPTTYPE_LONG + 181);
constexpr auto kRedirProtocols = static_cast<CURLoption>(CURLOPTTYPE_LONG + 182);
constexpr long kStallSeconds = 30;  // no byte for this long is a broken transfer

struct Curl {
  decltype(&curl_global_init) global_init = nullptr;
  decltype(&curl_easy_init) easy_init = nullptr;
  decltype(&curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&curl_easy_reset) easy_reset = nullptr;
  decltype(&curl_easy_setopt) easy_setopt = nullptr;
  decltype(&curl_easy_perform) easy_perform = nullptr;
  decltype(&curl_easy_strerror) easy_strerror = nullptr;
  decltype(&curl_slist_append) slist_append = nullptr;
  decltype(&curl_slist_free_all) slist_free_all = nullptr;
};

template <class Function>
bool resolve(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Result<Curl> open_curl() {
  void* library = nullptr;
  for (const char* name : {"libcurl.so.4", "libcurl-gnutls.so.4"}) {
    library = dlopen(
        name, RTLD_NOW | RTLD_LOCAL);  // never closed: its threads and atexit handlers stay valid
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    return make_error(
        ErrorCode::kUnsupported,
        "downloading needs libcurl.so.4, which is not installed (apt install libcurl4)");
  }
  Curl curl;
  const bool complete = resolve(library, "curl_global_init", curl.global_init) &&
                        resolve(library, "curl_easy_init", curl.easy_init) &&
                        resolve(library, "curl_easy_cleanup", curl.easy_cleanup) &&
                        resolve(library, "curl_easy_reset", curl.easy_reset) &&
                        resolve(library, "curl_easy_setopt", curl.easy_setopt) &&
                        resolve(library, "curl_easy_perform", curl.easy_perform) &&
                        resolve(library, "curl_easy_strerror", curl.easy_strerror) &&
                        resolve(library, "curl_slist_append", curl.slist_append) &&
                        resolve(library, "curl_slist_free_all", curl.slist_free_all);
  if (!complete || curl.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    return make_error(ErrorCode::kUnsupported, "downloading needs a working libcurl.so.4");
  }
  return curl;
}

std::string trimmed_lower(std::string_view text, bool lower) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  std::string out(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
  if (lower)
    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return std::tolower(c); });
  return out;
}

struct Transfer {
  const HttpRequest& request;
  HttpResponse response;
  Status status;  // of the sink
};

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& response = static_cast<Transfer*>(user)->response;
  const std::string_view line(data, size * count);
  if (line.starts_with(
          "HTTP/")) {  // a new response: redirects and 100-continue come before the last one
    response.headers.clear();
    response.body.clear();
    const size_t space = line.find(' ');
    response.status = space == std::string_view::npos
                          ? 0
                          : std::atoi(std::string(line.substr(space + 1, 3)).c_str());
    return line.size();
  }
  const size_t colon = line.find(':');
  if (colon != std::string_view::npos && response.headers.size() < kMaxHeaders) {
    response.headers[trimmed_lower(line.substr(0, colon), true)] =
        trimmed_lower(line.substr(colon + 1), false);
  }
  return line.size();
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const size_t bytes = size * count;
  HttpResponse& response = transfer.response;
  if (transfer.request.sink && response.status / 100 == 2) {
    transfer.status = transfer.request.sink(response, std::as_bytes(std::span(data, bytes)));
    return transfer.status ? bytes : 0;
  }
  const auto room = static_cast<size_t>(transfer.request.max_body) - response.body.size();
  response.body.append(data, std::min(bytes, room));
  return bytes;
}

class CurlClient final : public HttpClient {
 public:
  CurlClient(const Curl& curl, CURL* handle) : curl_(curl), handle_(handle) {}
  ~CurlClient() override { curl_.easy_cleanup(handle_); }

  Result<HttpResponse> send(const HttpRequest& request) override {
    Transfer transfer{.request = request, .response = {}, .status = {}};
    curl_slist* headers = curl_.slist_append(nullptr, "Accept-Encoding: identity");
    if (!request.bearer_token.empty()) {
      headers =
          curl_.slist_append(headers, ("Authorization: Bearer " + request.bearer_token).c_str());
    }
    set_options(request, transfer, headers);
    const CURLcode code = curl_.easy_perform(handle_);
    curl_.slist_free_all(headers);
    if (!transfer.status) return std::unexpected(std::move(transfer.status.error()));
    if (code != CURLE_OK) {
      const char* detail = error_text_[0] != '\0' ? error_text_ : curl_.easy_strerror(code);
      return make_error(ErrorCode::kUnavailable, "{}: {}", printable(request.url),
                        printable(std::string_view(detail)));
    }
    return std::move(transfer.response);
  }

 private:
  void set_options(const HttpRequest& request, Transfer& transfer, curl_slist* headers) {
    curl_.easy_reset(handle_);
    error_text_[0] = '\0';
    const auto set = [&](CURLoption option, auto value) {
      curl_.easy_setopt(handle_, option, value);
    };
    set(CURLOPT_URL, request.url.c_str());
    set(CURLOPT_HTTPHEADER, headers);
    set(CURLOPT_USERAGENT, "atom/" ATOM_VERSION);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_NOBODY, request.head ? 1L : 0L);
    set(CURLOPT_FOLLOWLOCATION, request.follow_redirects ? 1L : 0L);
    set(CURLOPT_MAXREDIRS, 10L);
    set(kProtocols, long{CURLPROTO_HTTP | CURLPROTO_HTTPS});
    // Never from https down to http.
    set(kRedirProtocols, request.url.starts_with("https://")
                             ? long{CURLPROTO_HTTPS}
                             : long{CURLPROTO_HTTP | CURLPROTO_HTTPS});
    set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, kStallSeconds);
    set(CURLOPT_BUFFERSIZE, 256L << 10);
    set(CURLOPT_ERRORBUFFER, error_text_);
    set(CURLOPT_HEADERFUNCTION, on_header);
    set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
    set(CURLOPT_WRITEFUNCTION, on_body);
    set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
    if (request.range_begin > 0) range_ = str_format("{}-", request.range_begin);
    if (request.range_begin > 0) set(CURLOPT_RANGE, range_.c_str());
  }

  const Curl& curl_;
  CURL* handle_;
  std::string range_;
  char error_text_[CURL_ERROR_SIZE] = {};
};

}  // namespace

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

Result<std::unique_ptr<HttpClient>> HttpClient::create() {
  static const Result<Curl> curl = open_curl();
  if (!curl) return std::unexpected(curl.error());
  CURL* handle = curl->easy_init();
  if (handle == nullptr)
    return make_error(ErrorCode::kResourceExhausted, "libcurl: no memory for a transfer");
  return std::make_unique<CurlClient>(*curl, handle);
}

}  // namespace atom
