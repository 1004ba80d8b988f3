// The CPU backend's sampling ops: the slots `sample` and `token_logprobs` of the op table
// (contract: model_ops/sampler.h). Rows run in parallel, each exactly as if it were alone.
#pragma once

#include <cstdint>
#include <span>

#include "atom/core/tensor.h"
#include "atom/model_ops/ops.h"

namespace atom {

// logits f32 [num_rows, vocab_size], one row and one output each; restored after use.
void sample_cpu(const ExecContext& ctx, const Tensor& logits, std::span<const SamplingRow> rows,
                std::span<SampledToken> out);

// logits f32 [num_rows, vocab_size], targets [num_rows] in [0, vocab_size). A row with NaN or
// without any finite logit gives token_id -1.
void token_logprobs_cpu(const ExecContext& ctx, const Tensor& logits,
                        std::span<const int32_t> targets, int32_t num_top,
                        std::span<SampledToken> out);

}  // namespace atom
