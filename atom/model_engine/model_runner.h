// ModelRunner: the Executor of one device. Loads the model, plans memory, owns KV cache, arena and
// threads; turns a ScheduledBatch into model calls and sampled tokens.
#pragma once

#include <memory>

#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/model_engine/executor.h"
#include "atom/model_engine/memory_plan.h"
#include "atom/model_loader/checkpoint.h"

namespace atom {

// Creates the executor for config.device. `plan` receives the memory plan.
Result<std::unique_ptr<Executor>> make_model_runner(const EngineConfig& config,
                                                    std::shared_ptr<const Checkpoint> checkpoint,
                                                    MemoryPlan& plan);

}  // namespace atom
