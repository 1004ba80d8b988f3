// HTTP requests: the outcome does not depend on how the bytes arrive. The first byte says how they
// are split.
#include <cstdlib>
#include <string>
#include <string_view>

#include "atom/entrypoints/http/request_parser.h"

namespace {

using atom::http::RequestParser;

// Feeds like a connection does: what is not taken is kept and offered again with more.
RequestParser::State run(std::string_view bytes, size_t piece, std::string& body) {
  RequestParser parser({.max_header_bytes = 4096,
                        .max_header_fields = 20,
                        .max_line_bytes = 1024,
                        .max_body_bytes = 4096,
                        .max_chunks = 64});
  std::string kept;
  for (size_t at = 0; at < bytes.size();) {
    const size_t count = std::min(piece, bytes.size() - at);
    kept += bytes.substr(at, count);
    at += count;
    while (!kept.empty()) {
      const size_t taken = parser.feed(kept);
      if (taken > kept.size()) std::abort();
      kept.erase(0, taken);
      if (parser.state() == RequestParser::State::kDone ||
          parser.state() == RequestParser::State::kFailed || taken == 0)
        break;
    }
    if (parser.state() == RequestParser::State::kDone ||
        parser.state() == RequestParser::State::kFailed)
      break;
  }
  if (parser.body_size() > 4096) std::abort();
  if (parser.state() == RequestParser::State::kDone) body = parser.request().body;
  return parser.state();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 16384) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string whole_body;
  std::string split_body;
  const auto whole = run(bytes, bytes.size() + 1, whole_body);
  const auto split = run(bytes, data[0] % 64U + 1, split_body);
  const bool done = RequestParser::State::kDone == whole;
  if (done != (RequestParser::State::kDone == split) || whole_body != split_body) std::abort();
  return 0;
}
