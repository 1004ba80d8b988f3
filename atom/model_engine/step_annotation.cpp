#include "atom/model_engine/step_annotation.h"

#include <algorithm>

#include "atom/core/format.h"

namespace atom {

std::string step_annotation(const ScheduledBatch& batch) {
  bool has_prompt = false;
  int64_t max_context = 0;
  size_t num_drafts = 0;
  size_t longest_draft = 0;
  for (const ScheduledSequence& sequence : batch.sequences) {
    num_drafts += sequence.draft_token_ids.size();
    longest_draft = std::max(longest_draft, sequence.draft_token_ids.size());
    has_prompt |= sequence.num_computed_tokens < sequence.num_prompt_tokens;
    max_context =
        std::max(max_context, sequence.num_computed_tokens + sequence.num_scheduled_tokens);
  }
  if (has_prompt) {
    return str_format("prefill[bs={} tok={} ctx={}]", batch.sequences.size(), batch.num_tokens,
                      max_context);
  }
  return str_format("decode[bs={} tok={} d={} spec={}]", batch.sequences.size(), batch.num_tokens,
                    num_drafts, longest_draft);
}

}  // namespace atom
