// The Executor of a GPU: two steps in flight, no waiting between them. The host writes step k + 1's
// inputs and copies them beside step k; sampled tokens feed the next step on the device; a decode
// step is one captured graph. Knows no vendor: everything goes through GpuBackend, so that
// tests/support/fake_device runs it without a GPU.
#pragma once

#include <memory>

#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/model_engine/executor.h"
#include "atom/model_engine/memory_plan.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_ops/gpu_backend.h"

namespace atom {

// Loads the model on `gpu`, which stays open. `plan` receives where the memory went.
Result<std::unique_ptr<Executor>> make_gpu_model_runner(
    const EngineConfig& config, const GpuDevice& gpu, std::shared_ptr<const Checkpoint> checkpoint,
    MemoryPlan& plan);

}  // namespace atom
