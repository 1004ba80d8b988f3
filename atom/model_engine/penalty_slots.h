// PenaltySlots: which row of the device's token counts belongs to which sequence. A sequence whose
// sampling reads its history (penalties) takes a row when it is first sampled and keeps it while it
// goes on without a gap; after preemption, or when the row went to somebody else, the row is set
// anew. Pure host code. Owned by the GPU model runner; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "atom/model_engine/scheduled_batch.h"

namespace atom {

class PenaltySlots {
 public:
  // At least as many as sequences in a step.
  explicit PenaltySlots(int64_t num_slots) : slots_(static_cast<size_t>(num_slots)) {}

  struct Choice {
    int32_t slot = -1;      // -1: the sequence has no penalties, or draws nothing
    bool is_stale = false;  // its counts must be set before this step
  };
  // The row of a sequence in step `step`; steps are given in ascending order.
  Choice choose(const ScheduledSequence& sequence, uint64_t step);
  void forget_all();

 private:
  struct Slot {
    SequenceId id = 0;        // 0: nobody's
    int64_t num_counted = 0;  // tokens of the sequence that its counts stand for
    uint64_t last_step = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace atom
