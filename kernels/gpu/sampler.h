// The device sampler: from rows of logits to tokens, their log probabilities and the token counts
// of the penalties, in one or two launches that read nothing from the host, so that a captured step
// can replay it. Contract and order of processing: atom/model_ops/sampler.h; the CPU sampler
// (atom/model_ops/cpu/sampler_row.h) draws the same token from the same logits, seed and position,
// but for rounding ties. A row's result depends on nothing but the row. Not here: stop conditions,
// and what the host does with a token. To add a filter: a field in SamplerRow and a step in
// draw_token (sampler/draw.h), and the same in the CPU sampler. C++20.
#pragma once

#include <cstdint>

namespace atom::gpu {

// The most of the most-likely tokens that a row can ask for.
inline constexpr int32_t kMaxTopLogprobs = 32;

struct SamplerBias {
  int32_t token_id = 0;
  float bias = 0.0F;
};

// What one row is sampled with; lies in device memory, at the front of the sampler's blob. A
// padding row is a default row: greedy, nothing counted. Lists follow in the same blob, at byte
// offsets from its start, each a multiple of 4; an offset is not read where its count is 0.
struct SamplerRow {
  float temperature = 0.0F;  // below 1e-5, or NaN: greedy
  float top_p = 1.0F;
  int32_t top_k = 0;  // <= 0 or >= vocab_size = off
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  int32_t count_slot = -1;  // the sequence's row of TokenCounts; -1 = no penalties, nothing counted
  uint64_t seed = 0;
  uint64_t position = 0;      // index of the token being drawn within its sequence
  int32_t num_logprobs = -1;  // -1 = none, 0 = the sampled token's, n = also the n most likely
  int32_t num_biases = 0;
  int32_t biases = 0;  // SamplerBias [num_biases]; one id may stand there several times
  int32_t num_banned = 0;
  int32_t banned = 0;  // i32 [num_banned]
  int32_t mask = 0;    // u32 [ceil(vocab_size / 32)]: bit 0 = the token is allowed; 0 = no mask
  int32_t padding[2] = {};
};
static_assert(sizeof(SamplerRow) == 80);

// Per slot and token: how often a sequence generated it (15 bits, saturating), and in the highest
// bit whether its prompt holds it. sample_tokens adds the token that it draws; a slot is prepared
// by set_token_counts when a sequence takes it.
struct TokenCounts {
  uint16_t* counts = nullptr;  // [num_slots, vocab_size]
  int32_t num_slots = 0;
};

// Log probabilities of the raw logits. rank: 1 = most likely.
struct SamplerLogprob {
  float logprob = 0.0F;
  int32_t rank = 0;
};
struct SamplerTopToken {
  int32_t token_id = -1;
  float logprob = 0.0F;
};

struct SampleTokensArgs {
  const float* logits = nullptr;  // [num_rows, logit_stride]; not changed
  int64_t logit_stride =
      0;  // >= vocab_size, a multiple of 4; what lies beyond vocab_size is not read
  int32_t vocab_size = 0;  // <= 2^18
  int32_t num_rows = 0;
  const uint8_t* blob = nullptr;  // SamplerRow [num_rows], then lists; 16-byte aligned
  // [num_rows] or none: the token of each row, whose log probability is wanted; nothing is drawn or
  // counted then.
  const int32_t* targets = nullptr;
  // No row has a temperature or wants log probabilities: one launch less.
  bool greedy_only = false;
  TokenCounts token_counts;            // counts == nullptr: count_slot is ignored
  void* workspace = nullptr;           // sampler_workspace_bytes; zeroed once by who allocates it
  int32_t* token_ids = nullptr;        // [num_rows]; -1: the row holds a NaN or no finite logit
  SamplerLogprob* logprobs = nullptr;  // [num_rows] or none
  SamplerTopToken* top_logprobs = nullptr;  // [num_rows, kMaxTopLogprobs] or none; as many as asked
};

// Bytes for rows of this many; a part at the front must be zero before the first launch and is zero
// again after each. `max_rows` and `vocab_size` must be the same in all calls that use one
// workspace.
int64_t sampler_workspace_bytes(int32_t max_rows, int32_t vocab_size);

// num_rows <= the workspace's max_rows, which is given as it was to sampler_workspace_bytes.
void sample_tokens(const SampleTokensArgs& args, int32_t max_rows, void* stream);

struct SetTokenCountsArgs {
  TokenCounts token_counts;
  int32_t vocab_size = 0;
  int32_t slot = 0;
  const int32_t* prompt_token_ids = nullptr;  // [num_prompt_tokens] on the device
  int64_t num_prompt_tokens = 0;
  const int32_t* output_token_ids = nullptr;  // [num_output_tokens]: of a preempted sequence
  int64_t num_output_tokens = 0;
};

// Clears a slot and fills it; ids outside the vocabulary are ignored.
void set_token_counts(const SetTokenCountsArgs& args, void* stream);

}  // namespace atom::gpu
