// What `bench serve` sends to a server and how it reads the answer, one row per --backend: the
// OpenAI routes (vllm, openai, lmdeploy, scalellm, sglang, openai-chat), TGI, TensorRT-LLM and
// DeepSpeed-MII. No sockets, no clock. To add one: a row in backend.cpp and its two functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"

namespace atom {

struct BackendRequest {
  std::string model = {};
  std::string prompt = {};
  int64_t output_len = 0;  // tokens
  int64_t best_of = 1;
  std::optional<int64_t> logprobs = {};
  bool ignore_eos = false;
};

// What one message of the answer told.
struct StreamEvent {
  bool has_choice = false;  // counts as a token arriving: the first is TTFT, the others ITL
  bool done = false;
  std::string text = {};
  std::optional<int64_t> completion_tokens = {};
  std::string error = {};  // the server said the request failed
};

struct Backend {
  std::string_view name;
  std::string_view path_suffix;  // what --endpoint must end with
  std::string_view default_endpoint;
  bool chat = false;    // the server renders the chat template
  bool streams = true;  // false: the body is one JSON document at the end
  std::string (*body)(const BackendRequest& request);
  // One line of the stream without "data:", or the whole body.
  Result<StreamEvent> (*read)(std::string_view json);
};

std::vector<std::string> backend_names();
const Backend* find_backend(std::string_view name);

// Cuts a server-sent stream into the payloads of its `data:` lines, wherever reads end. Comments
// and other fields are dropped.
class EventSplitter {
 public:
  explicit EventSplitter(size_t max_line = size_t{16} << 20) : max_line_(max_line) {}
  void push(std::string_view bytes) { buffer_.append(bytes); }
  // The next payload, valid until the next call of push; nullopt: more bytes are needed.
  std::optional<std::string_view> next();
  bool overflowed() const { return buffer_.size() - at_ > max_line_; }

 private:
  size_t max_line_;
  std::string buffer_;
  size_t at_ = 0;
  size_t searched_ = 0;
};

}  // namespace atom
