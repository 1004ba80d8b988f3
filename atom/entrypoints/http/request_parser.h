// RequestParser: a strict, incremental HTTP/1.1 request parser with limits. It refuses what two
// parsers could read in two ways (RFC 9112 section 11.2): both or repeated framing fields, any
// transfer coding but exactly `chunked`, folded lines, bare CR or LF, space before a colon, a
// missing or repeated Host. That is why there is no library behind it: Beast before 1.92 accepts
// several of these. One object per connection, one thread. It copies nothing but the fields and the
// body of one request.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "atom/entrypoints/http/message.h"

namespace atom::http {

struct ParserLimits {
  int64_t max_header_bytes = 16384;
  int64_t max_header_fields = 100;
  int64_t max_line_bytes = 8192;  // request line and each field
  int64_t max_body_bytes = 33554432;
  int64_t max_chunks = 65536;
};

struct ParseError {
  int status = 400;
  std::string message;
};

class RequestParser {
 public:
  enum class State { kHeader, kBody, kDone, kFailed };

  explicit RequestParser(const ParserLimits& limits) : limits_(limits) {}

  // Takes bytes from the front of `input` and returns how many; the rest belongs to the next
  // request (when kDone) or was not looked at (when kFailed). In state kHeader it takes nothing
  // until the header is complete: the caller keeps the bytes.
  size_t feed(std::string_view input);

  State state() const { return state_; }
  const ParseError& error() const { return error_; }
  // Complete header seen, body still to come, and the client waits for 100 Continue.
  bool expects_continue() const { return expects_continue_; }
  // Body bytes held so far.
  int64_t body_size() const { return static_cast<int64_t>(request_.body.size()); }
  const Request& request() const { return request_; }
  // Hands the complete request over and gets ready for the next one.
  Request take();

 private:
  enum class ChunkState { kSize, kData, kDataEnd, kTrailer };

  size_t fail(int status, std::string message);
  size_t feed_header(std::string_view input);
  bool parse_header(std::string_view block);
  bool parse_request_line(std::string_view line);
  bool parse_target(std::string_view target);
  bool parse_field(std::string_view line);
  bool check_framing();
  bool set_content_length(std::string_view value);
  size_t feed_body(std::string_view input);
  size_t feed_chunked(std::string_view input);
  bool parse_chunk_size(std::string_view line);

  ParserLimits limits_;
  State state_ = State::kHeader;
  ParseError error_;
  Request request_;
  size_t scanned_ = 0;  // header bytes already searched for the blank line
  bool expects_continue_ = false;
  bool chunked_ = false;
  uint64_t remaining_ = 0;  // of the body or of this chunk
  ChunkState chunk_state_ = ChunkState::kSize;
  int64_t num_chunks_ = 0;
  int64_t chunk_overhead_ = 0;  // bytes of chunk lines and trailers
};

}  // namespace atom::http
