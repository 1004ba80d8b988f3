// What generate and chat share: starting an engine quietly and running one request with its text
// streamed to a function, stoppable by Ctrl-C.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "atom/config.h"
#include "atom/model_engine/llm_engine.h"

namespace atom::cli {

// One finished choice with what its events carried.
struct Answer {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;
  FinishReason finish_reason = FinishReason::kAbort;
};

struct Generation {
  std::vector<Answer> answers;  // n of them
  RequestTiming timing;
  int64_t num_prompt_tokens = 0;
  int64_t num_cached_tokens = 0;
  int64_t num_generated_tokens = 0;
  bool stopped = false;  // by Ctrl-C or because nobody reads
};

// Called with every piece of text of choice 0; returning false stops the request.
using TextSink = std::function<bool(std::string_view)>;

Result<std::unique_ptr<LLMEngine>> start_engine(const EngineConfig& config, bool verbose);

// max_tokens is cut to what the context leaves.
Result<Generation> run_generation(LLMEngine& engine, GenerationRequest request,
                                  const TextSink& sink);

// "12 prompt tokens, 340.1 tokens/s; 64 generated, 95.2 tokens/s; first token after 0.04 s"
std::string describe_speed(const Generation& generation);
std::string_view finish_reason_name(FinishReason reason);

}  // namespace atom::cli
