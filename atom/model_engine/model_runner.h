// ModelRunner: the Executor of one device. Loads the model, plans memory, owns KV cache, arena and threads;
// turns a ScheduledBatch into model calls and sampled tokens.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/model_engine/executor.h"
#include "atom/model_loader/checkpoint.h"

namespace atom {

// Where the memory of this process goes, in bytes; printed at start.
struct MemoryPlan {
  int64_t available = 0;  // free memory x utilization
  int64_t weights = 0;
  int64_t workspace = 0;  // activations of the largest step
  int64_t kv_cache = 0;
  int64_t num_blocks = 0;
  int64_t bytes_per_block = 0;
  int64_t max_model_len = 0;  // tokens
};

// The plan of a model without loading it (for `atom inspect`).
Result<MemoryPlan> plan_memory(const EngineConfig& config, const Checkpoint& checkpoint);
std::string describe(const MemoryPlan& plan);

// Creates the executor for config.device. `plan` receives the memory plan.
Result<std::unique_ptr<Executor>> make_model_runner(const EngineConfig& config,
                                                    std::shared_ptr<const Checkpoint> checkpoint,
                                                    MemoryPlan& plan);

}  // namespace atom
