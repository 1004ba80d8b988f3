// InputBuilder: turns a ScheduledBatch into the arrays of one model step: token ids, positions,
// attention metadata, the rows to sample and the rows whose prompt logprobs were asked for. Owned
// by a ModelRunner; buffers are reused from step to step. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "atom/model_engine/attention_input.h"
#include "atom/model_engine/scheduled_batch.h"

namespace atom {

// One prompt position whose logprob was asked for.
struct PromptLogprobTarget {
  int32_t sequence = 0;  // index into the batch
  int32_t row = 0;       // row of the hidden states that predicts it
  int64_t position = 0;  // of the predicted token
  int32_t token_id = 0;
};

// The rows of one sequence that are sampled: its newest token's and those of its drafts.
struct SampledSequence {
  int32_t sequence = 0;  // index into the batch
  int32_t first = 0;     // of sample_rows()
  int32_t count = 1;
};

class InputBuilder {
 public:
  // The result is valid until the next call.
  void build(const ScheduledBatch& batch, int64_t block_size);

  const AttentionMetadata& attention() const { return attention_.metadata(); }
  std::span<const int32_t> token_ids() const { return token_ids_; }
  // The rows to sample, in batch order, and their sampling parameters.
  std::span<const int32_t> sample_rows() const { return sample_rows_; }
  std::span<const SamplingRow> sampling() const { return sampling_; }
  std::span<const SampledSequence> sampled() const { return sampled_; }
  std::span<const PromptLogprobTarget> prompt_targets() const { return prompt_targets_; }

 private:
  void add_tokens(const ScheduledSequence& sequence);
  void add_sampling(const ScheduledSequence& sequence, int32_t index);
  std::span<const int32_t> history(const ScheduledSequence& sequence);
  void add_prompt_targets(const ScheduledSequence& sequence, int32_t index, int64_t first_row);

  AttentionInput attention_;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> sample_rows_;
  std::vector<SamplingRow> sampling_;
  std::vector<SampledSequence> sampled_;
  std::deque<std::vector<int32_t>> histories_;  // of sequences with drafts that penalties read
  std::vector<PromptLogprobTarget> prompt_targets_;
};

}  // namespace atom
