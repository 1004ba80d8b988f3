// The name of a step in a trace, in the form that readers of ATOM's traces search for.
#pragma once

#include <string>

#include "atom/model_engine/scheduled_batch.h"

namespace atom {

// "prefill[bs=B tok=T ctx=C]" for a step that computes any prompt tokens, else
// "decode[bs=B tok=T d=0 spec=S]". B: sequences; T: tokens; C: the longest context at its end; S:
// drafted tokens of a sequence, at most.
std::string step_annotation(const ScheduledBatch& batch);

}  // namespace atom
