#include "atom/model_engine/penalty_slots.h"

#include <algorithm>

#include "atom/core/check.h"

namespace atom {

PenaltySlots::Choice PenaltySlots::choose(const ScheduledSequence& sequence, uint64_t step) {
  if (!sequence.sample || !sequence.sampling->has_penalties()) {
    return {};
  }
  ATOM_CHECK(sequence.pending_row < 0) << "a sequence with penalties does not run ahead";
  auto slot = std::ranges::find(slots_, sequence.id, &Slot::id);
  if (slot == slots_.end()) {
    slot = std::ranges::min_element(slots_, {}, &Slot::last_step);
    ATOM_CHECK(slot->last_step < step || slot->id == 0) << "more sequences than count slots";
    *slot = {.id = sequence.id};
  }
  const auto num_tokens = static_cast<int64_t>(sequence.token_ids.size());
  const bool is_stale = slot->num_counted != num_tokens;
  slot->num_counted = num_tokens + 1;  // the token that this step draws is counted there
  slot->last_step = step;
  return {.slot = static_cast<int32_t>(slot - slots_.begin()), .is_stale = is_stale};
}

void PenaltySlots::forget_all() { std::ranges::fill(slots_, Slot{}); }

}  // namespace atom
