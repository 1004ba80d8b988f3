// What the engine hands back: the request that goes in, the output events that come out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "atom/core/error.h"
#include "atom/sampling_params.h"

namespace atom {

class CompiledGrammar;

using RequestId = uint64_t;  // given by the engine, never by a client

struct GenerationRequest {
  std::vector<int32_t> prompt_token_ids;  // non-empty, every id in [0, vocab_size)
  SamplingParams sampling;
  // sampling.grammar, compiled; LLMEngine compiles what is not.
  std::shared_ptr<const CompiledGrammar> grammar;
};

enum class FinishReason { kStop, kLength, kAbort, kError };

struct TokenLogprobs {
  float logprob =
      0.0F;          // of the token itself, from the distribution before temperature and penalties
  int32_t rank = 0;  // 1 = most likely
  std::vector<std::pair<int32_t, float>> top;  // most likely first; `logprobs` entries
};

struct ControlToken {  // of SamplingParams::control_token_ids
  size_t offset = 0;   // bytes of the delta's text before it
  int32_t token_id = 0;
};

// New output of one choice since the last event.
struct ChoiceDelta {
  int32_t index = 0;  // [0, n)
  std::string text;   // whole characters, no part of a stop string that may still complete
  std::vector<ControlToken> control_tokens;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;        // one per token id when asked
  std::optional<FinishReason> finish_reason;  // exactly once per choice
  // The stop string or token id that ended it; empty for EOS and length.
  std::variant<std::monostate, std::string, int32_t> stop_reason;
};

struct RequestTiming {  // seconds
  double queued = 0;    // arrival -> first scheduled
  double ttft = 0;      // arrival -> first token
  double latency = 0;   // arrival -> finished
};

struct RequestOutput {
  RequestId request_id = 0;
  std::vector<ChoiceDelta> choices;
  bool finished = false;  // all choices are done; no further event follows
  int64_t num_prompt_tokens = 0;
  int64_t num_cached_tokens = 0;     // prompt tokens found in the prefix cache
  int64_t num_generated_tokens = 0;  // over all choices, so far
  // Once, with the first event, when asked: entry 0 is empty (nothing predicts the first token).
  std::vector<std::optional<TokenLogprobs>> prompt_logprobs;
  RequestTiming timing;  // complete when finished
  std::optional<Error> error;
};

// Called on the output thread, in order per request; must not block.
using OutputCallback = std::function<void(RequestOutput&&)>;

}  // namespace atom
