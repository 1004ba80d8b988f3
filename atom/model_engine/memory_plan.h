// MemoryPlan: how the memory of one device is divided, decided before anything is loaded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/model_loader/checkpoint.h"

namespace atom {

// Rows of logits computed at a time: bounds memory when every prompt position needs logprobs.
inline constexpr int64_t kLogitRows = 32;
// A CPU computes some hundred tokens a second: longer prefill pieces would only delay the decodes
// that share the step, and need more workspace.
inline constexpr int64_t kCpuStepTokens = 512;

// Where the memory of this process goes, in bytes; printed at start.
struct MemoryPlan {
  int64_t available = 0;  // free memory x utilization
  int64_t weights = 0;
  int64_t workspace = 0;  // activations of the largest step
  int64_t kv_cache = 0;
  int64_t num_blocks = 0;
  int64_t bytes_per_block = 0;
  int64_t max_model_len = 0;  // tokens
  int64_t device_free = 0;    // of a GPU before anything was loaded
  int64_t step_tokens = 0;    // of a GPU: the most that one step holds
  int64_t vocab_size = 0;     // of a GPU
  int64_t token_weights = 0;  // of a GPU: bytes of weights that one token is multiplied with
};

struct GpuDevice;

// The plan of a model without loading it (also for `atom inspect`).
Result<MemoryPlan> plan_memory(const EngineConfig& config, const Checkpoint& checkpoint);
std::string describe(const MemoryPlan& plan);
// The same as rows of a table, one a line of the log.
std::vector<std::string> memory_table(const MemoryPlan& plan);

// The plan of a GPU before loading: refuses what cannot fit. `workspace` is the arena alone; once
// everything is loaded the runner replaces weights and workspace by what they took, and divides the
// rest with plan_kv_cache.
Result<MemoryPlan> plan_device_memory(const EngineConfig& config, const Checkpoint& checkpoint,
                                      const GpuDevice& gpu);
// Tokens that a GPU computes in `seconds` in large steps.
int64_t tokens_in(double seconds, const MemoryPlan& plan, const GpuDevice& gpu);
// Sets num_blocks and kv_cache from what available, weights and workspace leave.
Status plan_kv_cache(const EngineConfig& config, MemoryPlan& plan);

// Tokens that one step may hold on this device.
inline int64_t max_step_tokens(const EngineConfig& config) {
  return std::min(config.scheduler.max_num_batched_tokens, kCpuStepTokens);
}

DType kv_cache_dtype(const EngineConfig& config);

}  // namespace atom
