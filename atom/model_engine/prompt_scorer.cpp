#include "atom/model_engine/prompt_scorer.h"

#include <algorithm>
#include <vector>

#include "atom/model_engine/device_handles.h"
#include "atom/model_engine/memory_plan.h"

namespace atom {
namespace {

// One call's worth: rows of one sequence.
struct Chunk {
  std::vector<int32_t> rows, targets;
  int32_t num_logprobs = 0;
  std::vector<TokenLogprobs> logprobs;
};

// Copies host values into the arena; the device has read them once the stream is synchronised.
template <class T>
Result<Tensor> upload(const PromptScorer& scorer, const std::vector<T>& values) {
  const auto nbytes = static_cast<int64_t>(values.size() * sizeof(T));
  Tensor out = scorer.ctx.arena->allocate(DType::kU8, {nbytes});
  ATOM_RETURN_IF_ERROR(device_status(
      scorer.ctx.runtime->copy_async(out.data(), values.data(), nbytes, scorer.stream),
      "prompt logprobs"));
  return out;
}

template <class T>
Result<std::vector<T>> download(const PromptScorer& scorer, const T* from, size_t count) {
  const auto nbytes = static_cast<int64_t>(count * sizeof(T));
  ATOM_ASSIGN_OR_RETURN(const Buffer pinned, Buffer::allocate_pinned(*scorer.ctx.runtime, nbytes));
  ATOM_RETURN_IF_ERROR(
      device_status(scorer.ctx.runtime->copy_async(pinned.data(), from, nbytes, scorer.stream),
                    "prompt logprobs"));
  ATOM_RETURN_IF_ERROR(
      device_status(scorer.ctx.runtime->synchronize(scorer.stream), "prompt logprobs"));
  const auto* values = static_cast<const T*>(pinned.data());
  return std::vector<T>(values, values + count);
}

Status score(const PromptScorer& scorer, const Tensor& hidden, Chunk& chunk) {
  const ExecContext& ctx = scorer.ctx;
  const auto count = static_cast<int64_t>(chunk.rows.size());
  const std::vector<gpu::SamplerRow> rows(chunk.rows.size(),
                                          gpu::SamplerRow{.num_logprobs = chunk.num_logprobs});
  ATOM_ASSIGN_OR_RETURN(const Tensor row_ids, upload(scorer, chunk.rows));
  ATOM_ASSIGN_OR_RETURN(const Tensor targets, upload(scorer, chunk.targets));
  ATOM_ASSIGN_OR_RETURN(const Tensor blob, upload(scorer, rows));
  const Tensor picked = ctx.arena->allocate(ctx.ops->activation_dtype, {count, hidden.dim(1)});
  ctx.ops->gather_rows(ctx, hidden, Tensor(row_ids.data(), DType::kI32, {count}, ctx.device),
                       picked);
  const Tensor logits = scorer.model.compute_logits(ctx, picked);
  gpu::SampleTokensArgs args = scorer.buffers.sample_args(logits);
  args.blob = blob.data_as<const uint8_t>();
  args.targets = targets.data_as<const int32_t>();
  args.token_counts = {};
  // Not into the arrays of the step: its own tokens are still to be published.
  args.token_ids = ctx.arena->allocate(DType::kI32, {count}).data_as<int32_t>();
  args.logprobs = ctx.arena->allocate(DType::kI64, {count}).data_as<gpu::SamplerLogprob>();
  args.top_logprobs = ctx.arena->allocate(DType::kI64, {count, gpu::kMaxTopLogprobs})
                          .data_as<gpu::SamplerTopToken>();
  scorer.backend.sample_tokens(args, scorer.buffers.max_rows, scorer.stream);
  ATOM_ASSIGN_OR_RETURN(const auto scores, download(scorer, args.logprobs, chunk.rows.size()));
  ATOM_ASSIGN_OR_RETURN(const auto top,
                        download(scorer, args.top_logprobs,
                                 chunk.rows.size() * static_cast<size_t>(gpu::kMaxTopLogprobs)));
  for (size_t i = 0; i < chunk.rows.size(); ++i) {
    TokenLogprobs result{.logprob = scores[i].logprob, .rank = scores[i].rank, .top = {}};
    for (size_t k = 0; k < static_cast<size_t>(chunk.num_logprobs); ++k) {
      const gpu::SamplerTopToken& token = top[i * gpu::kMaxTopLogprobs + k];
      if (token.token_id >= 0) {
        result.top.emplace_back(token.token_id, token.logprob);
      }
    }
    chunk.logprobs.push_back(std::move(result));
  }
  return {};
}

}  // namespace

Status score_prompts(const PromptScorer& scorer, const ScheduledBatch& batch, const Tensor& hidden,
                     StepOutput& output) {
  const int64_t max_rows = std::min<int64_t>(kLogitRows, scorer.buffers.max_rows);
  int64_t first_row = 0;
  for (const ScheduledSequence& s : batch.sequences) {
    const int64_t begin = first_row;
    first_row += s.num_scheduled_tokens;
    if (!s.sampling->prompt_logprobs) {
      continue;
    }
    const int64_t end =
        std::min(s.num_scheduled_tokens, s.num_prompt_tokens - 1 - s.num_computed_tokens);
    for (int64_t i = 0; i < end; i += max_rows) {
      Chunk chunk{.num_logprobs = std::min(*s.sampling->prompt_logprobs, gpu::kMaxTopLogprobs)};
      for (int64_t k = i; k < std::min(end, i + max_rows); ++k) {
        chunk.rows.push_back(static_cast<int32_t>(begin + k));
        chunk.targets.push_back(s.token_ids[static_cast<size_t>(s.num_computed_tokens + k + 1)]);
      }
      const int64_t scratch = scorer.ctx.arena->mark();
      ATOM_RETURN_IF_ERROR(score(scorer, hidden, chunk));
      scorer.ctx.arena->rewind(scratch);
      output.prompt_logprobs.push_back({.id = s.id,
                                        .first_position = s.num_computed_tokens + i + 1,
                                        .logprobs = std::move(chunk.logprobs)});
    }
  }
  return {};
}

}  // namespace atom
