// Prompt logprobs on a device: rows of a step's hidden states -> logits -> the log probability of
// the token that follows in the prompt. Rare, so it waits for the device, some rows at a time.
#pragma once

#include "atom/core/error.h"
#include "atom/model_engine/scheduled_batch.h"
#include "atom/model_engine/step_buffers.h"
#include "atom/models/causal_lm.h"

namespace atom {

struct PromptScorer {
  const GpuBackend& backend;
  const ExecContext& ctx;
  CausalLM& model;
  const StepBuffers& buffers;
  DeviceStream stream;
};

// Adds the rows of every sequence of `batch` that asked for prompt logprobs to `output`; returns at
// once when none did. hidden [num_tokens, hidden_size] of this step.
Status score_prompts(const PromptScorer& scorer, const ScheduledBatch& batch, const Tensor& hidden,
                     StepOutput& output);

}  // namespace atom
