#include "atom/model_engine/input_builder.h"

#include <algorithm>

#include "atom/core/check.h"

namespace atom {

void InputBuilder::add_tokens(const ScheduledSequence& sequence) {
  const auto first = static_cast<size_t>(sequence.num_computed_tokens);
  const auto count = static_cast<size_t>(sequence.num_scheduled_tokens);
  const size_t num_drafts = sequence.draft_token_ids.size();
  const auto known = sequence.token_ids.subspan(first, count - num_drafts);
  token_ids_.insert(token_ids_.end(), known.begin(), known.end());
  token_ids_.insert(token_ids_.end(), sequence.draft_token_ids.begin(),
                    sequence.draft_token_ids.end());
  attention_.add(sequence.block_table, sequence.num_computed_tokens, sequence.num_scheduled_tokens);
}

// The tokens of a sequence, and its drafts where penalties read them.
std::span<const int32_t> InputBuilder::history(const ScheduledSequence& sequence) {
  const std::span<const int32_t> drafts = sequence.draft_token_ids;
  if (drafts.empty() || !sequence.sampling->has_penalties()) {
    return sequence.token_ids;
  }
  std::vector<int32_t>& tokens = histories_.emplace_back();
  tokens.reserve(sequence.token_ids.size() + drafts.size());
  tokens.assign(sequence.token_ids.begin(), sequence.token_ids.end());
  tokens.insert(tokens.end(), drafts.begin(), drafts.end());
  return tokens;
}

void InputBuilder::add_sampling(const ScheduledSequence& sequence, int32_t index) {
  const SamplingParams& params = *sequence.sampling;
  const auto num_prompt = static_cast<size_t>(sequence.num_prompt_tokens);
  const size_t num_drafts = sequence.draft_token_ids.size();
  sampled_.push_back({.sequence = index,
                      .first = static_cast<int32_t>(sample_rows_.size()),
                      .count = static_cast<int32_t>(num_drafts) + 1});
  const std::span<const int32_t> all = history(sequence);
  for (size_t i = 0; i <= num_drafts; ++i) {
    const auto tokens = all.first(std::min(all.size(), sequence.token_ids.size() + i));
    sample_rows_.push_back(static_cast<int32_t>(token_ids_.size() - 1 - num_drafts + i));
    sampling_.push_back({.temperature = params.temperature,
                         .top_p = params.top_p,
                         .top_k = params.top_k,
                         .min_p = params.min_p,
                         .presence_penalty = params.presence_penalty,
                         .frequency_penalty = params.frequency_penalty,
                         .repetition_penalty = params.repetition_penalty,
                         .seed = sequence.seed,
                         .position = sequence.token_ids.size() + i - num_prompt,
                         .prompt_token_ids = tokens.first(num_prompt),
                         .output_token_ids = tokens.subspan(num_prompt),
                         .logit_bias = params.logit_bias,
                         .banned_token_ids = sequence.banned_token_ids,
                         .token_bitmask = sequence.token_bitmask,
                         .num_logprobs = params.logprobs.value_or(-1)});
  }
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
  attention_.begin(block_size);
  token_ids_.clear();
  sample_rows_.clear();
  sampling_.clear();
  sampled_.clear();
  histories_.clear();
  prompt_targets_.clear();
  for (const ScheduledSequence& sequence : batch.sequences) {
    ATOM_CHECK(sequence.pending_row < 0) << "this runner does not run ahead of the host";
    const auto first_row = static_cast<int64_t>(token_ids_.size());
    const auto index = static_cast<int32_t>(&sequence - batch.sequences.data());
    add_tokens(sequence);
    add_prompt_targets(sequence, index, first_row);
    if (sequence.sample) {
      add_sampling(sequence, index);
    }
  }
  attention_.finish();
}

}  // namespace atom
