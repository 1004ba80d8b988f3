// StepStaging: writes a ScheduledBatch into one staging area (kernels/gpu/step.h) from which the
// device unpacks a step's inputs. Knows what the device's block tables hold, and sends only what
// changed. Pure host code. Owned by the GPU model runner; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "atom/core/error.h"
#include "atom/model_engine/scheduled_batch.h"
#include "kernels/gpu/step.h"

namespace atom {

struct StagingLimits {
  int64_t max_tokens = 0;  // of one step, padding included
  int64_t max_seqs = 0;
  int64_t block_size = 0;
  int64_t table_stride = 0;  // blocks of the longest sequence
  int64_t vocab_size = 0;
};

// What the host must know of a written step to launch it.
struct StagedStep {
  int64_t bytes = 0;            // of the area that are used
  int64_t num_tokens = 0;       // padded
  int64_t num_seqs = 0;         // padded
  int64_t num_sample_rows = 0;  // padded
  int64_t max_query_len = 0;
  int64_t max_context_len = 0;
  int64_t mean_context_len = 0;        // of the real sequences
  std::vector<SequenceId> sample_ids;  // of the real rows
  std::vector<int32_t> num_logprobs;   // per real row, -1 = none
};

class StepStaging {
 public:
  explicit StepStaging(const StagingLimits& limits);

  // Bytes of one area; more than any batch within the limits needs but for absurd logit biases.
  int64_t area_bytes() const { return area_bytes_; }
  // Decode steps may be padded to `padded_seqs` sequences of one token each (0: as they are).
  // count_slots: per sequence of the batch, its row of the penalty counts, or -1.
  Result<StagedStep> write(const ScheduledBatch& batch, int64_t padded_seqs,
                           const std::vector<int32_t>& count_slots, uint8_t* area);
  // What the device's tables hold is not known any more: everything is sent again.
  void forget_tables();

 private:
  struct Writer;
  void write_tokens(const ScheduledBatch& batch, Writer& writer, StagedStep& step);
  void write_tables(const ScheduledBatch& batch, Writer& writer);
  Status write_sampling(const ScheduledBatch& batch, const std::vector<int32_t>& count_slots,
                        Writer& writer, StagedStep& step);

  StagingLimits limits_;
  int64_t area_bytes_ = 0;
  std::vector<std::vector<int32_t>> tables_;  // what row r of the device's tables holds
};

}  // namespace atom
