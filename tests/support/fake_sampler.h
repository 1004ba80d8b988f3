// The step and sampler kernels of the fake device: what kernels/gpu/step.h and sampler.h say, on
// the host. Sampling is the CPU's, so tokens equal those of the CPU runner.
#pragma once

#include "kernels/gpu/sampler.h"
#include "kernels/gpu/step.h"

namespace atom::testing_support {

void fake_prepare_step(const gpu::PrepareStepArgs& args);
void fake_publish_step(const gpu::PublishStepArgs& args);
void fake_sample_tokens(const gpu::SampleTokensArgs& args);
void fake_set_token_counts(const gpu::SetTokenCountsArgs& args);

}  // namespace atom::testing_support
