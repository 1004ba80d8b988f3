// The shapes of an answer: chat or completion, whole or as SSE chunks. The only writer of response
// JSON for generations, by hand into a buffer that the caller reuses. It keeps no time and knows no
// socket.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "atom/entrypoints/openai/api_request.h"
#include "atom/entrypoints/parsers/output_parser.h"
#include "atom/request_output.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom::openai {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  std::optional<int64_t> reasoning_tokens;
  int64_t cached_tokens = 0;
  double ttft = 0;  // seconds
  double tpot = 0;
  double latency = 0;
};

// The logprobs of some tokens, as the JSON texts of the lists they end up in. One list for chat
// ("content"), four for completions.
struct LogprobLists {
  std::string content;
  std::string tokens;
  std::string token_logprobs;
  std::string top_logprobs;
  std::string text_offset;

  void clear();
  size_t size() const;  // bytes
};

// What has been produced of one choice: everything for a whole answer, the state between chunks for
// a stream.
struct ChoiceState {
  int32_t index = 0;
  bool started = false;
  std::string text;  // the content of a chat message
  std::string reasoning;
  std::vector<parsers::ToolCallDelta> calls;  // whole, or what is new of them in a stream
  bool called = false;                        // the message has tool calls
  std::vector<int32_t> token_ids;
  LogprobLists logprobs;
  int64_t reasoning_tokens = 0;
  bool in_reasoning = false;
  bool reasoning_done = false;
  int64_t num_characters = 0;  // text_offset of the next token
  std::optional<FinishReason> finish_reason;
  std::variant<std::monostate, std::string, int32_t> stop_reason;
};

class ResponseFormat {
 public:
  struct Options {
    Endpoint endpoint = kChat;
    std::string id;
    int64_t created = 0;  // Unix seconds
    std::string model;
    bool logprobs = false;
    int32_t num_top = 0;
    bool return_token_ids = false;
    bool tokens_as_ids = false;
    bool skip_special_tokens = true;  // they take no place in the text
    bool parsed = false;              // the text has gone through a parser
    bool named_choice = false;        // tool_choice names a function
  };
  ResponseFormat(Options options, const Tokenizer& tokenizer);

  // Adds tokens to the lists. `token` entries of a prompt may be empty: null.
  void add_logprobs(const std::optional<TokenLogprobs>& logprobs, int32_t token,
                    LogprobLists& lists, int64_t& num_characters) const;

  // Appends one SSE event. `choice` holds what is new; `usage` for continuous_usage_stats, else
  // nullptr; `prompt_ids` on a choice's first chunk when token ids are asked for.
  void chunk(std::string& out, const ChoiceState& choice, const Usage* usage,
             const std::vector<int32_t>* prompt_ids) const;
  void usage_chunk(std::string& out, const Usage& usage) const;

  // The whole answer. prompt_ids[i] belongs to choices[i * n ... ].
  // prompt_logprobs[i] too; empty when not asked for.
  std::string whole(const std::vector<ChoiceState>& choices, const Usage& usage,
                    const std::vector<std::vector<int32_t>>& prompt_ids,
                    const std::vector<std::string>& prompt_logprobs, int32_t n) const;

  // prompt_logprobs of one prompt: a list with an object of token id to logprob for each token.
  void append_prompt_logprobs(std::string& out, const std::vector<int32_t>& ids,
                              const std::vector<std::optional<TokenLogprobs>>& rows,
                              int32_t num_top) const;
  static void append_usage(std::string& out, const Usage& usage);

 private:
  void append_token(std::string& out, int32_t id, std::string_view bytes) const;
  void append_chat_entry(std::string& out, int32_t id, float logprob) const;
  void append_lists(std::string& out, const LogprobLists& lists) const;
  void append_delta(std::string& out, const ChoiceState& choice) const;
  void append_message(std::string& out, const ChoiceState& choice) const;
  const char* reason_text(const ChoiceState& choice) const;
  void append_end(std::string& out, const ChoiceState& choice) const;

  Options options_;
  const Tokenizer& tokenizer_;
  std::string chunk_head_;  // up to and with "choices":[
};

constexpr std::string_view kSseDone = "data: [DONE]\n\n";

}  // namespace atom::openai
