// The name of a step in a trace, in the form that readers of ATOM's traces search for.
#pragma once

#include <string>

#include "atom/model_engine/scheduled_batch.h"

namespace atom {

// "prefill[bs=B tok=T ctx=C]" for a step that computes any prompt tokens, else
// "decode[bs=B tok=T d=D spec=S]". B: sequences; T: tokens; C: the longest context at its end; D:
// drafted tokens that the step verifies; S: those of one sequence, at most.
std::string step_annotation(const ScheduledBatch& batch);

}  // namespace atom
