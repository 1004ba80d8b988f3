// DraftStats: how well drafts of speculative decoding did; what /metrics, /debug/mtp_stats, the log
// and print_mtp_statistics() show. Counted by the Scheduler when a step is committed.
#pragma once

#include <array>
#include <cstdint>

#include "atom/config.h"

namespace atom {

struct DraftStats {
  int64_t num_forwards = 0;      // steps of one sequence, after its prompt, drafts or not
  int64_t num_drafts = 0;        // those that verified drafted tokens
  int64_t num_draft_tokens = 0;  // verified
  int64_t num_accepted_tokens = 0;
  std::array<int64_t, kMaxDraftTokens> num_accepted_at{};  // drafts whose token i was accepted

  double acceptance_rate() const {
    return num_draft_tokens == 0
               ? 0.0
               : static_cast<double>(num_accepted_tokens) / static_cast<double>(num_draft_tokens);
  }
  // Tokens that a step gives a sequence: its own, and those accepted.
  double tokens_per_forward() const {
    return num_forwards == 0
               ? 0.0
               : 1.0 + static_cast<double>(num_accepted_tokens) / static_cast<double>(num_forwards);
  }
};

}  // namespace atom
