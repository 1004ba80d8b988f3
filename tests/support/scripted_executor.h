// ScriptedExecutor: a deterministic Executor without a model. Every sequence "generates" the same
// script of token ids, then `eos` for ever; or, with echo, its own prompt first. For tests of
// everything above the executor: engine core, output processor, server. Computes in submit(), like
// the CPU runner. Drafts are verified; its own are the script, but for every third, which is wrong.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <vector>

#include "atom/model_engine/executor.h"

namespace atom::testing_support {

struct ScriptedOptions {
  std::vector<int32_t> script;  // token ids; a banned id is replaced by `filler`
  bool echo = false;            // the prompt is the script
  int32_t eos = 0;
  int32_t filler = '.';
  ExecutorCapacity capacity{.num_blocks = 1024, .block_size = 16, .max_in_flight = 1};
  std::chrono::microseconds step_time{0};
  // Consulted with the number of each step, from 1: an error fails the step. May sleep or throw.
  std::function<Status(uint64_t)> on_submit;
  // The token that sequence `id` draws at `index` instead of `token`; -1 stands for a row without a
  // finite logit.
  std::function<int32_t(SequenceId id, int64_t index, int32_t token)> on_token;
};

class ScriptedExecutor final : public Executor {
 public:
  explicit ScriptedExecutor(ScriptedOptions options) : options_(std::move(options)) {}
  ExecutorCapacity capacity() const override { return options_.capacity; }
  Status submit(const ScheduledBatch& batch) override;
  Result<StepOutput> collect() override;

 private:
  // What the script says at `index` of the generated tokens.
  int32_t scripted(const ScheduledSequence& sequence, int64_t index) const;
  int32_t next_token(const ScheduledSequence& sequence, int64_t index) const;
  void sample(const ScheduledSequence& sequence, StepOutput& output) const;
  void score_prompt(const ScheduledSequence& sequence, StepOutput& output) const;

  ScriptedOptions options_;
  std::deque<StepOutput> outputs_;
  uint64_t num_steps_ = 0;
};

}  // namespace atom::testing_support
