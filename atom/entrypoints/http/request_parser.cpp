#include "atom/entrypoints/http/request_parser.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "atom/core/check.h"
#include "atom/core/format.h"

namespace atom::http {
namespace {

constexpr int64_t kMaxChunkLine = 1024;         // size and extensions of one chunk
constexpr int64_t kMaxChunkOverhead = 4 << 20;  // of all chunk lines and trailers of one body

bool is_token_char(unsigned char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return c != 0 && std::strchr("!#$%&'*+-.^_`|~", c) != nullptr;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Visible characters and obs-text; a field value may also hold spaces and tabs.
bool is_value_char(unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); }

// Does a comma-separated list field name this option?
bool list_has(std::string_view list, std::string_view option) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (equals_ignoring_case(trim(list.substr(0, comma)), option)) return true;
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
  }
  return false;
}

}  // namespace

const char* reason_phrase(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

size_t RequestParser::fail(int status, std::string message) {
  state_ = State::kFailed;
  error_ = {.status = status, .message = std::move(message)};
  return 0;
}

size_t RequestParser::feed(std::string_view input) {
  size_t used = 0;
  if (state_ == State::kHeader) {
    used = feed_header(input);
    if (used == 0 || state_ != State::kBody) return used;
  }
  if (state_ == State::kBody) used += feed_body(input.substr(used));
  return used;
}

Request RequestParser::take() {
  ATOM_CHECK(state_ == State::kDone);
  Request out = std::move(request_);
  const ParserLimits limits = limits_;
  *this = RequestParser(limits);
  return out;
}

// Finds the end of the header without trusting anything in it, then parses it in one go.
size_t RequestParser::feed_header(std::string_view input) {
  size_t start = 0;  // an empty line before the request line is tolerated (RFC 9112 section 2.2)
  while (start < 4 && input.substr(start).starts_with("\r\n")) start += 2;
  if (start < input.size() && input[start] != '\r' &&
      !is_token_char(static_cast<unsigned char>(input[start]))) {
    return fail(400, "this is not an HTTP request");
  }
  size_t line_start = start;
  if (const size_t last = input.substr(0, std::max(scanned_, start)).rfind('\n');
      last != std::string_view::npos && last >= start) {
    line_start = last + 1;
  }
  size_t at = std::max(scanned_, start);
  while (true) {
    const size_t newline = input.find('\n', at);
    const size_t line_end = std::min(newline, input.size());
    if (static_cast<int64_t>(line_end - line_start) > limits_.max_line_bytes) {
      return line_start == start ? fail(414, str_format("the request line is longer than {} bytes",
                                                        limits_.max_line_bytes))
                                 : fail(431, str_format("a header field is longer than {} bytes",
                                                        limits_.max_line_bytes));
    }
    if (static_cast<int64_t>(line_end) > limits_.max_header_bytes) {
      return fail(431, str_format("the header is longer than {} bytes", limits_.max_header_bytes));
    }
    if (newline == std::string_view::npos) break;
    if (newline == line_start || input[newline - 1] != '\r')
      return fail(400, "a line does not end in CR LF");
    if (newline == line_start + 1 && line_start > start) {
      if (!parse_header(input.substr(start, line_start - start))) return 0;
      return newline + 1;
    }
    at = line_start = newline + 1;
  }
  scanned_ = input.size();
  return 0;
}

bool RequestParser::parse_header(std::string_view block) {
  bool first = true;
  while (!block.empty()) {
    const size_t end = block.find("\r\n");
    const std::string_view line = block.substr(0, end);
    block.remove_prefix(end + 2);
    if (!(first ? parse_request_line(line) : parse_field(line))) return false;
    first = false;
  }
  return check_framing();
}

bool RequestParser::parse_request_line(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t second = line.rfind(' ');
  if (first == std::string_view::npos || first == second) {
    fail(400, "the request line is not METHOD TARGET VERSION");
    return false;
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view version = line.substr(second + 1);
  if (!is_token(method) || method.size() > 32) {
    fail(400, "the method is not a token");
    return false;
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    const bool is_http = version.size() == 8 && version.starts_with("HTTP/");
    fail(is_http ? 505 : 400, "the protocol version is not HTTP/1.1 or HTTP/1.0");
    return false;
  }
  request_.method = method;
  request_.minor_version = version.back() - '0';
  return parse_target(line.substr(first + 1, second - first - 1));
}

bool RequestParser::parse_target(std::string_view target) {
  request_.target = target;
  for (const char c : target) {
    if (static_cast<unsigned char>(c) <= 0x20 || static_cast<unsigned char>(c) >= 0x7f) {
      fail(400, "the request target holds a character that must be percent-encoded");
      return false;
    }
  }
  if (target.starts_with("http://") || target.starts_with("https://")) {  // absolute form
    const size_t slash = target.find('/', target.find("//") + 2);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  if (target == "*" && request_.method == "OPTIONS") {
    request_.path = "*";
    return true;
  }
  if (!target.starts_with('/')) {
    fail(400, "the request target does not begin with '/'");
    return false;
  }
  target = target.substr(0, target.find_first_of("?#"));
  for (size_t i = 0; i < target.size(); ++i) {
    if (target[i] != '%') {
      request_.path += target[i];
      continue;
    }
    const int high = i + 2 < target.size() ? hex_value(target[i + 1]) : -1;
    const int low = i + 2 < target.size() ? hex_value(target[i + 2]) : -1;
    if (high < 0 || low < 0 || high * 16 + low < 0x20) {
      fail(400, "the request target has a bad percent-encoding");
      return false;
    }
    request_.path += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return true;
}

bool RequestParser::parse_field(std::string_view line) {
  if (static_cast<int64_t>(request_.headers.size()) >= limits_.max_header_fields) {
    fail(431, str_format("more than {} header fields", limits_.max_header_fields));
    return false;
  }
  if (line.front() == ' ' || line.front() == '\t') {
    fail(400, "folded header lines are not accepted");
    return false;
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
    fail(400, "a header field is not NAME: VALUE");
    return false;
  }
  const std::string_view value = trim(line.substr(colon + 1));
  if (!std::all_of(value.begin(), value.end(), is_value_char)) {
    fail(400, "a header field holds a control character");
    return false;
  }
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), lower);
  request_.headers.emplace_back(std::move(name), std::string(value));
  return true;
}

bool RequestParser::set_content_length(std::string_view value) {
  const bool digits = !value.empty() && std::all_of(value.begin(), value.end(),
                                                    [](char c) { return c >= '0' && c <= '9'; });
  if (!digits) {
    fail(400, "Content-Length is not a number");
    return false;
  }
  uint64_t length = 0;
  for (const char c : value) {
    if (length > (UINT64_MAX - 9) / 10) {
      fail(400, "Content-Length is not a number");
      return false;
    }
    length = length * 10 + static_cast<uint64_t>(c - '0');
  }
  if (length > static_cast<uint64_t>(limits_.max_body_bytes)) {
    fail(413, str_format("the body is longer than {} bytes", limits_.max_body_bytes));
    return false;
  }
  remaining_ = length;
  return true;
}

// Decides where the message ends, or refuses to guess.
bool RequestParser::check_framing() {
  int hosts = 0, lengths = 0, codings = 0;
  bool close = false, keep = false;  // Connection is a list, and its lines add up
  std::string_view length, coding, expect;
  for (const auto& [name, value] : request_.headers) {
    if (name == "host") ++hosts;
    if (name == "content-length") ++lengths, length = value;
    if (name == "transfer-encoding") ++codings, coding = value;
    if (name == "connection") {
      close = close || list_has(value, "close");
      keep = keep || list_has(value, "keep-alive");
    }
    if (name == "expect") expect = value;
  }
  const bool http11 = request_.minor_version == 1;
  const char* problem = nullptr;
  if (http11 && hosts == 0) problem = "the Host field is missing";
  if (hosts > 1) problem = "the Host field is repeated";
  if (lengths > 1) problem = "Content-Length is repeated";
  if (codings > 1) problem = "Transfer-Encoding is repeated";
  if (lengths > 0 && codings > 0) problem = "both Content-Length and Transfer-Encoding are given";
  if (codings > 0 && !equals_ignoring_case(coding, "chunked")) {
    problem = "the only Transfer-Encoding accepted is chunked";
  }
  if (codings > 0 && !http11) problem = "HTTP/1.0 has no chunked bodies";
  if (problem != nullptr) {
    fail(400, problem);
    return false;
  }
  if (!expect.empty() && !equals_ignoring_case(expect, "100-continue")) {
    fail(417, "the only expectation accepted is 100-continue");
    return false;
  }
  if (lengths > 0 && !set_content_length(length)) return false;
  chunked_ = codings > 0;
  request_.keep_alive = !close && (http11 || keep);
  const bool has_body = chunked_ || remaining_ > 0;
  expects_continue_ = has_body && http11 && !expect.empty();
  state_ = has_body ? State::kBody : State::kDone;
  return true;
}

size_t RequestParser::feed_body(std::string_view input) {
  if (chunked_) return feed_chunked(input);
  const size_t n = std::min<uint64_t>(remaining_, input.size());
  // The announced length is reserved only as its bytes arrive: an idle liar costs nothing.
  request_.body.append(input.substr(0, n));
  remaining_ -= n;
  if (remaining_ == 0) state_ = State::kDone;
  return n;
}

bool RequestParser::parse_chunk_size(std::string_view line) {
  const size_t semicolon = line.find(';');  // extensions are bounded and ignored
  const std::string_view size = trim(line.substr(0, semicolon));
  if (size.empty() || size.size() > 15 || size.data() != line.data()) return false;
  uint64_t value = 0;
  for (const char c : size) {
    const int digit = hex_value(c);
    if (digit < 0) return false;
    value = value * 16 + static_cast<uint64_t>(digit);
  }
  if (!std::all_of(line.begin(), line.end(), is_value_char)) return false;
  remaining_ = value;
  return true;
}

size_t RequestParser::feed_chunked(std::string_view input) {
  size_t used = 0;
  while (used < input.size() && state_ == State::kBody) {
    const std::string_view rest = input.substr(used);
    if (chunk_state_ == ChunkState::kData) {
      const size_t n = std::min<uint64_t>(remaining_, rest.size());
      request_.body.append(rest.substr(0, n));
      remaining_ -= n;
      used += n;
      if (remaining_ == 0) chunk_state_ = ChunkState::kDataEnd;
      continue;
    }
    const size_t newline = rest.find('\n');
    if (static_cast<int64_t>(std::min(newline, rest.size())) > kMaxChunkLine) {
      return fail(400, "a chunk line is too long"), used;
    }
    if (newline == std::string_view::npos) break;
    if (newline == 0 || rest[newline - 1] != '\r')
      return fail(400, "a chunk line does not end in CR LF"), used;
    const std::string_view line = rest.substr(0, newline - 1);
    used += newline + 1;
    chunk_overhead_ += static_cast<int64_t>(newline) + 1;
    if (chunk_overhead_ > kMaxChunkOverhead)
      return fail(413, "the chunk lines of the body are too long"), used;
    if (chunk_state_ == ChunkState::kDataEnd) {
      if (!line.empty()) return fail(400, "a chunk is longer than its size"), used;
      chunk_state_ = ChunkState::kSize;
    } else if (chunk_state_ == ChunkState::kSize) {
      if (!parse_chunk_size(line))
        return fail(400, "a chunk size is not a hexadecimal number"), used;
      if (++num_chunks_ > limits_.max_chunks) {
        return fail(413, str_format("the body has more than {} chunks", limits_.max_chunks)), used;
      }
      if (remaining_ > static_cast<uint64_t>(limits_.max_body_bytes) - request_.body.size()) {
        return fail(413, str_format("the body is longer than {} bytes", limits_.max_body_bytes)),
               used;
      }
      chunk_state_ = remaining_ == 0 ? ChunkState::kTrailer : ChunkState::kData;
    } else if (line.empty()) {  // trailers are read over, never used
      state_ = State::kDone;
    } else if (const size_t colon = line.find(':');
               colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
      return fail(400, "a trailer field is not NAME: VALUE"), used;
    }
  }
  return used;
}

}  // namespace atom::http
