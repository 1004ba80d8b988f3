// Drafter: runs the draft layer of a model (multi-token prediction) after a step on the CPU, so
// that its cache keeps up with the model's, and lets it guess the tokens that come next, the first
// from the step's hidden states, each further one from the guess before. Owned by a ModelRunner.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "atom/model_engine/attention_input.h"
#include "atom/model_engine/input_builder.h"
#include "atom/model_engine/scheduled_batch.h"
#include "atom/models/causal_lm.h"

namespace atom {

class Drafter {
 public:
  // `hidden` of the step that `inputs` describes, whose accepted rows are in `output`; sets its
  // draft_token_ids. ctx.attention is another one afterwards.
  void run(ExecContext& ctx, CausalLM& model, std::span<const PagedKvCache> kv_caches,
           const ScheduledBatch& batch, const InputBuilder& inputs, const Tensor& hidden,
           StepOutput& output);

 private:
  // A sequence that gets guesses.
  struct Guess {
    const ScheduledSequence* sequence = nullptr;
    int32_t row = 0;       // of the pass that makes the next one; then of its results
    int64_t position = 0;  // of that row
    std::vector<int32_t> token_ids = {};

    bool wants_more() const {  // not after a row without a finite logit
      return static_cast<int32_t>(token_ids.size()) < sequence->num_next_drafts &&
             (token_ids.empty() || token_ids.back() >= 0);
    }
  };

  // The rows of a step whose next token is known now.
  void build(const ScheduledBatch& batch, const InputBuilder& inputs, const StepOutput& output);
  void add_rows(const ScheduledSequence& sequence, int32_t first_row, int64_t count,
                std::span<const int32_t> next);
  // One pass of the layer over `hidden`, a row for each of its tokens; the guesses that want a
  // token each get the best one.
  DraftStates pass(const ExecContext& ctx, CausalLM& model, std::span<const PagedKvCache> kv_caches,
                   const Tensor& hidden);
  void guess(const ExecContext& ctx, CausalLM& model, const Tensor& normed,
             std::span<Guess* const> open);
  // Gives the guesses that want more tokens their rows in one more pass.
  void build_next(int64_t block_size);

  AttentionInput attention_;
  std::vector<int32_t> token_ids_;  // of the pass
  std::vector<int32_t> rows_;       // of the hidden states it reads
  std::vector<Guess> guesses_;      // in batch order
};

}  // namespace atom
