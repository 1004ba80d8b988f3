// WarmUpBatch: a step that nobody asked for, run before the first request so that what happens once
// (loading kernels, choosing algorithms, capturing) happens at start, and so that the memory of the
// largest step is measured. Not here: running it (gpu_model_runner.cpp).
#pragma once

#include <cstdint>
#include <vector>

#include "atom/model_engine/scheduled_batch.h"
#include "atom/sampling_params.h"

namespace atom {

// Owns everything its batch points to.
class WarmUpBatch {
 public:
  // num_tokens are dealt evenly to num_seqs sequences (each gets one at least), which start at
  // position 0, are all sampled, and keep all their tokens in block 0 of the cache.
  WarmUpBatch(int64_t num_seqs, int64_t num_tokens, int64_t block_size);
  WarmUpBatch(const WarmUpBatch&) = delete;
  WarmUpBatch& operator=(const WarmUpBatch&) = delete;

  const ScheduledBatch& batch() const { return batch_; }

 private:
  SamplingParams greedy_;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> block_table_;
  ScheduledBatch batch_;
};

}  // namespace atom
