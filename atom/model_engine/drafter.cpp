#include "atom/model_engine/drafter.h"

#include <algorithm>
#include <utility>

#include "atom/core/trace.h"
#include "atom/model_engine/memory_plan.h"

namespace atom {
namespace {

Tensor ids_tensor(std::vector<int32_t>& ids) {
  return Tensor(ids.data(), DType::kI32, {static_cast<int64_t>(ids.size())});
}

Tensor gathered(const ExecContext& ctx, const Tensor& from, std::vector<int32_t>& rows) {
  Tensor out = ctx.arena->allocate(from.dtype(), {static_cast<int64_t>(rows.size()), from.dim(1)});
  ctx.ops->gather_rows(ctx, from, ids_tensor(rows), out);
  return out;
}

// Rows [0, num_rows).
Tensor first_rows(const Tensor& tensor, int64_t num_rows) {
  return Tensor(tensor.data(), tensor.dtype(), {num_rows, tensor.dim(1)});
}

}  // namespace

void Drafter::add_rows(const ScheduledSequence& sequence, int32_t first_row, int64_t count,
                       std::span<const int32_t> next) {
  attention_.add(sequence.block_table, sequence.num_computed_tokens, count);
  for (int64_t i = 0; i < count; ++i) {
    rows_.push_back(first_row + static_cast<int32_t>(i));
  }
  token_ids_.insert(token_ids_.end(), next.begin(), next.end());
}

void Drafter::build(const ScheduledBatch& batch, const InputBuilder& inputs,
                    const StepOutput& output) {
  token_ids_.clear();
  rows_.clear();
  guesses_.clear();
  attention_.begin(inputs.attention().block_size);
  const int32_t* starts = inputs.attention().query_start;
  size_t row = 0;  // of the output
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const ScheduledSequence& sequence = batch.sequences[i];
    const auto first = static_cast<size_t>(sequence.num_computed_tokens);
    if (!sequence.sample) {
      // A piece of a prompt; after the last token of one that generates nothing comes nothing.
      const auto count = std::min(static_cast<size_t>(sequence.num_scheduled_tokens),
                                  sequence.token_ids.size() - first - 1);
      if (count > 0) {
        add_rows(sequence, starts[i], static_cast<int64_t>(count),
                 sequence.token_ids.subspan(first + 1, count));
      }
      continue;
    }
    std::vector<int32_t> next(sequence.token_ids.begin() + static_cast<ptrdiff_t>(first) + 1,
                              sequence.token_ids.end());
    for (; row < output.rows.size() && output.rows[row].id == sequence.id; ++row) {
      next.push_back(std::max(output.rows[row].token.token_id, 0));  // -1: the request has failed
    }
    const auto count = static_cast<int64_t>(next.size());
    add_rows(sequence, starts[i], count, next);
    if (sequence.num_next_drafts > 0) {
      guesses_.push_back({.sequence = &sequence,
                          .row = static_cast<int32_t>(rows_.size()) - 1,
                          .position = sequence.num_computed_tokens + count - 1});
    }
  }
}

DraftStates Drafter::pass(const ExecContext& ctx, CausalLM& model,
                          std::span<const PagedKvCache> kv_caches, const Tensor& hidden) {
  std::vector<Guess*> open;
  std::vector<int32_t> rows;
  for (Guess& guess : guesses_) {
    if (guess.wants_more()) {
      rows.push_back(std::exchange(guess.row, static_cast<int32_t>(rows.size())));
      open.push_back(&guess);
    }
  }
  const DraftStates states =
      model.draft(ctx, ids_tensor(token_ids_), hidden, ids_tensor(rows), kv_caches);
  for (size_t begin = 0; begin < open.size(); begin += kLogitRows) {
    const size_t count = std::min<size_t>(kLogitRows, open.size() - begin);
    guess(ctx, model, states.normed, std::span<Guess* const>(open).subspan(begin, count));
  }
  return states;
}

// `open` are those of results [open[0]->row, + open.size()).
void Drafter::guess(const ExecContext& ctx, CausalLM& model, const Tensor& normed,
                    std::span<Guess* const> open) {
  const std::vector<SamplingRow> greedy(open.size(), {.temperature = 0.0F});
  std::vector<SampledToken> best(open.size());
  const int64_t scratch = ctx.arena->mark();
  const auto count = static_cast<int64_t>(open.size());
  const Tensor rows(normed.data_as<float>() + open[0]->row * normed.dim(1), normed.dtype(),
                    {count, normed.dim(1)});
  ctx.ops->sample(ctx, model.compute_draft_logits(ctx, rows), greedy, best);
  ctx.arena->rewind(scratch);
  for (size_t i = 0; i < open.size(); ++i) {
    open[i]->token_ids.push_back(best[i].token_id);
  }
}

void Drafter::build_next(int64_t block_size) {
  token_ids_.clear();
  rows_.clear();
  attention_.begin(block_size);
  for (Guess& guess : guesses_) {
    if (!guess.wants_more()) {
      continue;
    }
    attention_.add(guess.sequence->block_table, ++guess.position, 1);
    token_ids_.push_back(guess.token_ids.back());
    rows_.push_back(guess.row);
    guess.row = static_cast<int32_t>(rows_.size()) - 1;
  }
}

void Drafter::run(ExecContext& ctx, CausalLM& model, std::span<const PagedKvCache> kv_caches,
                  const ScheduledBatch& batch, const InputBuilder& inputs, const Tensor& hidden,
                  StepOutput& output) {
  const int64_t block_size = inputs.attention().block_size;
  build(batch, inputs, output);
  int32_t most = 0;
  for (const Guess& guess : guesses_) {
    most = std::max(most, guess.sequence->num_next_drafts);
  }
  // The states that the next pass reads; the rest of a pass is given back after it.
  const Tensor kept = ctx.arena->allocate(ctx.ops->residual_dtype,
                                          {static_cast<int64_t>(guesses_.size()), hidden.dim(1)});
  const int64_t scratch = ctx.arena->mark();
  for (int i = 0; !rows_.empty(); ++i) {
    const trace::Zone zone(
        [&] { return str_format("draft[{}/{} bs={}]", i + 1, most, attention_.num_tokens()); });
    ctx.attention = &attention_.finish();
    const Tensor before =
        i == 0 ? gathered(ctx, hidden, rows_) : first_rows(kept, attention_.num_tokens());
    const DraftStates states = pass(ctx, model, kv_caches, before);
    build_next(block_size);
    ctx.ops->gather_rows(ctx, states.hidden, ids_tensor(rows_),
                         first_rows(kept, static_cast<int64_t>(rows_.size())));
    ctx.arena->rewind(scratch);
  }
  for (Guess& guess : guesses_) {
    guess.token_ids.resize(static_cast<size_t>(guess.sequence->num_next_drafts), -1);
    output.draft_token_ids.insert(output.draft_token_ids.end(), guess.token_ids.begin(),
                                  guess.token_ids.end());
  }
}

}  // namespace atom
