// The sampling contract. Per row: logprobs are taken from the raw logits; then the token bitmask
// (-inf where a bit is clear), logit_bias, banned ids, repetition, frequency and presence
// penalties, temperature, top-k, top-p, min-p, and one draw. The draw depends only on (seed,
// position), never on the batch. Ties in greedy go to the lowest id.
//   sample(logits f32 [num_rows, vocab_size], rows, out): logits are overwritten.
//   token_logprobs(logits, targets [num_rows], num_top, out): the logprob of a given token per row.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "atom/request_output.h"

namespace atom {

// What one row of logits is sampled with. Spans point to host memory that lives during the call.
struct SamplingRow {
  float temperature = 1.0F;  // 0 = greedy
  float top_p = 1.0F;
  int32_t top_k = -1;  // <= 0 or >= vocab_size = off
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  uint64_t seed = 0;
  uint64_t position = 0;                      // index of the token being drawn within its sequence
  std::span<const int32_t> prompt_token_ids;  // for repetition_penalty
  std::span<const int32_t> output_token_ids;  // for all penalties
  std::span<const std::pair<int32_t, float>> logit_bias;
  std::span<const int32_t> banned_token_ids;  // EOS and stop ids while below min_tokens
  // Bit t % 32 of word t / 32 is set where token t may be drawn, [(vocab_size + 31) / 32]; empty:
  // all.
  std::span<const uint32_t> token_bitmask;
  int32_t num_logprobs = -1;  // -1 = none, 0 = only the sampled token's, n = also the n most likely
};

struct SampledToken {
  int32_t token_id = -1;  // -1: the row had no finite logit; the request fails, the others go on
  TokenLogprobs logprobs;
};

}  // namespace atom
