// Executor: runs scheduled steps on a device. Owned and called by the engine thread only.
// submit() copies what it needs and may return before the step is done; collect() waits for the
// oldest submitted step. The CPU ModelRunner computes in submit() and has max_in_flight 1; a GPU
// runner has 2, so that step k + 1 is prepared and queued while k runs. The simulator's executor
// has any depth.
#pragma once

#include <cstdint>

#include "atom/core/error.h"
#include "atom/model_engine/scheduled_batch.h"
#include "kernels/common/device_tracer.h"

namespace atom {

struct ExecutorCapacity {
  int64_t num_blocks = 0;  // KV blocks
  int64_t block_size = 16;
  int max_in_flight = 1;
  int64_t max_step_tokens = 0;  // tokens one step may hold; 0 = whatever the scheduler allows
  // Tokens of a step in which sequences decode, when it also holds prompts: bounds the pause that a
  // long prompt makes in all running answers, and spreads prompts over steps whose weights are read
  // anyway. 0 = no limit of its own.
  int64_t max_mixed_tokens = 0;
  int64_t row_tile = 1;  // products compute whole multiples of this many tokens
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual ExecutorCapacity capacity() const = 0;
  virtual Status submit(const ScheduledBatch& batch) = 0;
  virtual Result<StepOutput> collect() = 0;
  // Of the device that it runs on; nullptr: there is none. The profiler's, not the engine thread's.
  virtual const DeviceTracer* device_tracer() const { return nullptr; }
};

}  // namespace atom
