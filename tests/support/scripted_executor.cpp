#include "tests/support/scripted_executor.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace atom::testing_support {
namespace {

// A made-up logprob that a test can recompute.
TokenLogprobs logprobs_of(int32_t token, int32_t num_top) {
  TokenLogprobs result{.logprob = -0.001F * static_cast<float>(token), .rank = 1};
  for (int32_t i = 0; i < num_top; ++i) {
    result.top.emplace_back(token + i, result.logprob - static_cast<float>(i));
  }
  return result;
}

}  // namespace

int32_t ScriptedExecutor::scripted(const ScheduledSequence& sequence, int64_t index) const {
  const auto prompt = sequence.token_ids.first(static_cast<size_t>(sequence.num_prompt_tokens));
  const std::span<const int32_t> script = options_.echo ? prompt : std::span(options_.script);
  return index < static_cast<int64_t>(script.size()) ? script[static_cast<size_t>(index)]
                                                     : options_.eos;
}

int32_t ScriptedExecutor::next_token(const ScheduledSequence& sequence, int64_t index) const {
  int32_t token = scripted(sequence, index);
  if (std::ranges::find(sequence.banned_token_ids, token) != sequence.banned_token_ids.end()) {
    token = options_.filler;
  }
  return options_.on_token ? options_.on_token(sequence.id, index, token) : token;
}

void ScriptedExecutor::sample(const ScheduledSequence& sequence, StepOutput& output) const {
  const std::span<const int32_t> drafts = sequence.draft_token_ids;
  int64_t index = sequence.num_computed_tokens + sequence.num_scheduled_tokens -
                  sequence.num_prompt_tokens - static_cast<int64_t>(drafts.size());
  for (size_t i = 0; i <= drafts.size(); ++i) {
    const int32_t token = next_token(sequence, index++);
    SampledToken sampled{.token_id = token};
    if (sequence.sampling->logprobs && token >= 0) {
      sampled.logprobs = logprobs_of(token, *sequence.sampling->logprobs);
    }
    output.rows.push_back({.id = sequence.id, .token = std::move(sampled)});
    if (i == drafts.size() || token != drafts[i]) {
      break;
    }
  }
  for (int32_t i = 0; i < sequence.num_next_drafts; ++i, ++index) {
    output.draft_token_ids.push_back(index % 3 == 2 ? options_.filler : scripted(sequence, index));
  }
}

void ScriptedExecutor::score_prompt(const ScheduledSequence& sequence, StepOutput& output) const {
  PromptLogprobRows rows{.id = sequence.id, .first_position = sequence.num_computed_tokens + 1};
  for (int64_t i = 0; i < sequence.num_scheduled_tokens; ++i) {
    const int64_t position = rows.first_position + i;
    if (position < sequence.num_prompt_tokens) {
      rows.logprobs.push_back(logprobs_of(sequence.token_ids[static_cast<size_t>(position)],
                                          *sequence.sampling->prompt_logprobs));
    }
  }
  if (!rows.logprobs.empty()) {
    output.prompt_logprobs.push_back(std::move(rows));
  }
}

Status ScriptedExecutor::submit(const ScheduledBatch& batch) {
  ++num_steps_;
  if (options_.step_time.count() > 0) {
    std::this_thread::sleep_for(options_.step_time);
  }
  if (options_.on_submit) {
    ATOM_RETURN_IF_ERROR(options_.on_submit(num_steps_));
  }
  StepOutput output{.step = batch.step};
  for (const ScheduledSequence& sequence : batch.sequences) {
    if (sequence.sampling->prompt_logprobs) {
      score_prompt(sequence, output);
    }
    if (sequence.sample) {
      sample(sequence, output);
    }
  }
  outputs_.push_back(std::move(output));
  return {};
}

Result<StepOutput> ScriptedExecutor::collect() {
  if (outputs_.empty()) {
    return make_error(ErrorCode::kInternal, "collect() without a submitted step");
  }
  StepOutput output = std::move(outputs_.front());
  outputs_.pop_front();
  return output;
}

}  // namespace atom::testing_support
