#include "atom/model_engine/input_builder.h"

#include <algorithm>

#include "atom/core/check.h"

namespace atom {

void InputBuilder::add_tokens(const ScheduledSequence& sequence, int64_t block_size) {
  for (int64_t i = 0; i < sequence.num_scheduled_tokens; ++i) {
    const int64_t position = sequence.num_computed_tokens + i;
    const int64_t block = sequence.block_table[static_cast<size_t>(position / block_size)];
    token_ids_.push_back(sequence.token_ids[static_cast<size_t>(position)]);
    positions_.push_back(static_cast<int32_t>(position));
    slot_mapping_.push_back(block * block_size + position % block_size);
  }
  query_start_.push_back(static_cast<int32_t>(token_ids_.size()));
  context_lens_.push_back(
      static_cast<int32_t>(sequence.num_computed_tokens + sequence.num_scheduled_tokens));
}

void InputBuilder::add_sampling(const ScheduledSequence& sequence) {
  const SamplingParams& params = *sequence.sampling;
  const auto num_prompt = static_cast<size_t>(sequence.num_prompt_tokens);
  sample_rows_.push_back(static_cast<int32_t>(token_ids_.size()) - 1);
  sample_ids_.push_back(sequence.id);
  sampling_.push_back({.temperature = params.temperature,
                       .top_p = params.top_p,
                       .top_k = params.top_k,
                       .min_p = params.min_p,
                       .presence_penalty = params.presence_penalty,
                       .frequency_penalty = params.frequency_penalty,
                       .repetition_penalty = params.repetition_penalty,
                       .seed = sequence.seed,
                       .position = static_cast<uint64_t>(sequence.num_computed_tokens +
                                                         sequence.num_scheduled_tokens -
                                                         sequence.num_prompt_tokens),
                       .prompt_token_ids = sequence.token_ids.first(num_prompt),
                       .output_token_ids = sequence.token_ids.subspan(num_prompt),
                       .logit_bias = params.logit_bias,
                       .banned_token_ids = sequence.banned_token_ids,
                       .token_bitmask = sequence.token_bitmask,
                       .num_logprobs = params.logprobs.value_or(-1)});
}

void InputBuilder::add_prompt_targets(const ScheduledSequence& sequence, int32_t index,
                                      int64_t first_row) {
  if (!sequence.sampling->prompt_logprobs) {
    return;
  }
  for (int64_t i = 0; i < sequence.num_scheduled_tokens; ++i) {
    const int64_t target = sequence.num_computed_tokens + i + 1;
    if (target >= sequence.num_prompt_tokens) {
      return;
    }
    prompt_targets_.push_back({.sequence = index,
                               .row = static_cast<int32_t>(first_row + i),
                               .position = target,
                               .token_id = sequence.token_ids[static_cast<size_t>(target)]});
  }
}

void InputBuilder::build(const ScheduledBatch& batch, int64_t block_size) {
  token_ids_.clear();
  positions_.clear();
  slot_mapping_.clear();
  query_start_.assign(1, 0);
  context_lens_.clear();
  sample_rows_.clear();
  sampling_.clear();
  sample_ids_.clear();
  prompt_targets_.clear();
  attention_ = {};

  size_t table_stride = 0;
  for (const ScheduledSequence& sequence : batch.sequences) {
    ATOM_CHECK(sequence.pending_row < 0) << "this runner does not run ahead of the host";
    ATOM_CHECK(sequence.num_scheduled_tokens > 0);
    const auto first_row = static_cast<int64_t>(token_ids_.size());
    add_tokens(sequence, block_size);
    add_prompt_targets(sequence, static_cast<int32_t>(&sequence - batch.sequences.data()),
                       first_row);
    if (sequence.sample) {
      add_sampling(sequence);
    }
    table_stride = std::max(table_stride, sequence.block_table.size());
    attention_.max_query_len = std::max(attention_.max_query_len, sequence.num_scheduled_tokens);
    attention_.max_context_len =
        std::max<int64_t>(attention_.max_context_len, context_lens_.back());
  }
  block_tables_.assign(table_stride * batch.sequences.size(), 0);
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    std::ranges::copy(batch.sequences[i].block_table,
                      block_tables_.begin() + static_cast<ptrdiff_t>(i * table_stride));
  }
  attention_.num_tokens = static_cast<int64_t>(token_ids_.size());
  attention_.num_seqs = static_cast<int64_t>(batch.sequences.size());
  attention_.block_size = block_size;
  attention_.block_table_stride = static_cast<int64_t>(table_stride);
  attention_.query_start = query_start_.data();
  attention_.context_lens = context_lens_.data();
  attention_.block_tables = block_tables_.data();
  attention_.positions = positions_.data();
  attention_.slot_mapping = slot_mapping_.data();
}

}  // namespace atom
