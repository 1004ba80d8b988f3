// ScheduledBatch: what one step runs; StepOutput: what it produced. Plain data between scheduler,
// executor and output processor. Spans point into Sequences and are valid only during
// Executor::submit().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "atom/model_ops/sampler.h"
#include "atom/request_output.h"
#include "atom/sampling_params.h"

namespace atom {

using SequenceId = uint64_t;

struct ScheduledSequence {
  SequenceId id = 0;
  // Prompt and generated tokens that the host knows. With a device that runs ahead, the newest
  // token may not be here yet: position token_ids.size() is then the token sampled in row
  // `pending_row` of the last step.
  std::span<const int32_t> token_ids;
  int32_t pending_row = -1;
  int64_t num_prompt_tokens = 0;
  int64_t num_computed_tokens = 0;   // already in the KV cache
  int64_t num_scheduled_tokens = 0;  // computed by this step
  // Guesses of what follows the newest token, verified by this step: the last of its scheduled
  // tokens. Each row from the newest token's on is sampled, up to the first whose token is not the
  // next guess.
  std::span<const int32_t> draft_token_ids;
  int32_t num_next_drafts = 0;  // to be drafted by the executor once this step is sampled
  std::span<const int32_t> block_table;
  bool sample = false;  // the newest token is scheduled: draw its successor
  const SamplingParams* sampling = nullptr;
  uint64_t seed = 0;                          // of this sequence, resolved
  std::span<const int32_t> banned_token_ids;  // while below min_tokens
  std::span<const uint32_t> token_bitmask;    // as in SamplingRow
};

struct ScheduledBatch {
  uint64_t step = 0;
  std::vector<ScheduledSequence> sequences;
  int64_t num_tokens = 0;
  bool drafting = false;  // the executor's draft layer keeps up with this step
};

struct SampledRow {
  SequenceId id = 0;
  SampledToken token;
};

// Logprobs of prompt positions [first_position, first_position + logprobs.size()) of one sequence.
struct PromptLogprobRows {
  SequenceId id = 0;
  int64_t first_position = 0;
  std::vector<TokenLogprobs> logprobs;
};

struct StepOutput {
  uint64_t step = 0;
  // In batch order, per sequence with `sample`: one for each accepted draft, equal to it, and one
  // more.
  std::vector<SampledRow> rows;
  std::vector<int32_t> draft_token_ids;  // num_next_drafts per sequence, in batch order
  // What the step cost since the one before, and how much of it was drafting; 0: not measured.
  double seconds = 0;
  double draft_seconds = 0;
  std::vector<PromptLogprobRows> prompt_logprobs;
};

}  // namespace atom
