// What a request asks of the sampler and of the stop logic. The validator (entrypoints/openai)
// guarantees the ranges; the engine trusts them. max_tokens 64 is the library default (the server
// passes 256).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "atom/structured_output/grammar_spec.h"

namespace atom {

struct SamplingParams {
  float temperature = 1.0F;         // 0 = greedy
  float top_p = 1.0F;               // (0, 1]
  int32_t top_k = -1;               // -1 or 0 = off
  float min_p = 0.0F;               // [0, 1]
  float presence_penalty = 0.0F;    // [-2, 2], over generated tokens
  float frequency_penalty = 0.0F;   // [-2, 2], over generated tokens
  float repetition_penalty = 1.0F;  // > 0, over prompt and generated tokens
  std::optional<int64_t> seed;
  int64_t max_tokens = 64;  // generated tokens; 0 only with prompt_logprobs (echo)
  int64_t min_tokens = 0;   // EOS and stop ids are masked until then
  bool ignore_eos = false;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  std::vector<std::pair<int32_t, float>> logit_bias;  // id -> additive bias, finite
  int32_t n = 1;
  std::optional<int32_t> logprobs;  // top logprobs per generated token; 0 = only the sampled one
  std::optional<int32_t> prompt_logprobs;  // the same for prompt tokens
  std::optional<GrammarSpec> grammar;      // the text must have this form
  // Special tokens that are never text; ChoiceDelta says where they stood.
  std::vector<int32_t> control_token_ids;
  bool skip_special_tokens = true;
  bool spaces_between_special_tokens = true;

  bool greedy() const { return temperature == 0.0F; }
  // Whether the tokens so far change what comes next otherwise than through the model.
  bool has_penalties() const {
    return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1;
  }
  bool operator==(const SamplingParams&) const = default;
};

}  // namespace atom
