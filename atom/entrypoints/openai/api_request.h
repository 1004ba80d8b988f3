// A checked generation request: what the validator (request_fields) makes of a JSON body, and the
// only thing from which a GenerationRequest is built.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "atom/sampling_params.h"

namespace atom::openai {

enum Endpoint : uint8_t { kChat = 1, kCompletions = 2, kBothEndpoints = 3 };

struct ToolChoice {
  enum class Mode : uint8_t { kAuto, kNone, kRequired, kNamed };
  Mode mode = Mode::kAuto;
  std::string name;                  // kNamed
  std::vector<std::string> allowed;  // of `tools`, the only ones; empty: all
};

using PromptInput = std::variant<std::string, std::vector<int32_t>>;

struct ApiRequest {
  Endpoint endpoint = kChat;
  std::string model;  // empty: not given

  std::vector<PromptInput> prompts;  // completions
  boost::json::array messages;       // chat; ready for the template
  boost::json::array tools;
  std::optional<ToolChoice> tool_choice;
  bool parallel_tool_calls = true;
  bool include_reasoning = true;
  boost::json::object chat_template_kwargs;
  std::optional<bool> add_generation_prompt;
  bool continue_final_message = false;
  std::optional<bool> add_special_tokens;  // completions: true, chat: false

  // tool_choice demands a call.
  bool forces_call() const {
    return tool_choice && (tool_choice->mode == ToolChoice::Mode::kRequired ||
                           tool_choice->mode == ToolChoice::Mode::kNamed);
  }

  SamplingParams sampling;
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> max_completion_tokens;  // wins over max_tokens
  std::optional<int32_t> best_of;
  std::optional<bool> want_logprobs;    // chat "logprobs"
  std::optional<int32_t> top_logprobs;  // chat
  std::optional<int32_t> prompt_logprobs;
  std::string suffix;  // refused when not empty

  bool stream = false;
  bool has_stream_options = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool echo = false;
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
};

}  // namespace atom::openai
