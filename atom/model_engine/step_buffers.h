// StepBuffers: the memory through which steps go to a device and come back: pinned staging and
// result areas (two each), their copies on the device, the arrays at fixed addresses that a
// captured step reads, and what sampling keeps. Plain allocation; the order of use is the runner's.
#pragma once

#include <cstdint>

#include "atom/core/buffer.h"
#include "atom/core/error.h"
#include "atom/model_engine/step_staging.h"
#include "atom/model_ops/gpu_backend.h"

namespace atom {

struct StepBuffers {
  Buffer staging_host, staging_device;  // two areas of area_bytes
  Buffer results;                       // pinned, two areas of gpu::result_bytes(max_rows)
  Buffer device;                        // everything below
  Buffer sampler_workspace;
  Buffer token_counts;  // u16 [max_rows, vocab_size]

  int64_t area_bytes = 0;
  int32_t max_rows = 0;
  int32_t vocab_size = 0;
  gpu::StepState* state = nullptr;
  gpu::StepInputs inputs;
  int32_t* sampled = nullptr;
  gpu::SamplerLogprob* logprobs = nullptr;
  gpu::SamplerTopToken* top_logprobs = nullptr;

  static Result<StepBuffers> allocate(const GpuBackend& backend, const StagingLimits& limits,
                                      int64_t area_bytes, int64_t vocab_size);

  uint8_t* host_area(uint64_t step) const {
    return static_cast<uint8_t*>(staging_host.data()) +
           (step & 1) * static_cast<size_t>(area_bytes);
  }
  uint8_t* device_area(uint64_t step) const {
    return static_cast<uint8_t*>(staging_device.data()) +
           (step & 1) * static_cast<size_t>(area_bytes);
  }
  // The result area of a step, as publish_step lays it out.
  struct Results {
    const int32_t* token_ids;
    const gpu::SamplerLogprob* logprobs;
    const gpu::SamplerTopToken* top_logprobs;
  };
  Results results_of(uint64_t step) const;
  // What was sampled in a row of a step that is done; num_logprobs -1: the token alone.
  SampledToken sampled_token(uint64_t step, size_t row, int32_t num_logprobs) const;

  gpu::PrepareStepArgs prepare_args() const;
  gpu::PublishStepArgs publish_args() const;
  // logits f32 [num_rows, at least vocab_size]
  gpu::SampleTokensArgs sample_args(const Tensor& logits) const;
};

}  // namespace atom
