// Request and Sequence: what the scheduler knows about a request and about each of its n choices.
// Plain data, owned by the Scheduler, touched by the engine thread only. Text, callbacks and timing
// live in the OutputProcessor. A new per-request limit or mode is a field here, read by Scheduler.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "atom/model_engine/block_manager.h"
#include "atom/model_engine/draft_stats.h"
#include "atom/model_engine/ngram_index.h"
#include "atom/model_engine/scheduled_batch.h"
#include "atom/request_output.h"
#include "atom/structured_output/grammar_compiler.h"

namespace atom {

// waiting -> running -> finished; running -> waiting on preemption.
enum class SequenceState : uint8_t { kWaiting, kRunning, kFinished };

struct Request;

// One choice of one request.
struct Sequence {
  SequenceId id = 0;  // given in order of arrival, so it is the order of every queue
  Request* request = nullptr;
  int32_t choice = 0;  // [0, n)
  SequenceState state = SequenceState::kWaiting;
  uint64_t seed = 0;

  std::vector<int32_t> token_ids;  // prompt and generated tokens that the host knows
  int64_t num_prompt_tokens = 0;
  int64_t num_computed_tokens = 0;  // in the KV cache once every submitted step is done
  int64_t num_pending_tokens = 0;   // sampled by submitted steps, not collected yet
  int64_t max_tokens = 0;           // generated tokens, context limit included

  std::vector<int32_t> draft_token_ids;  // guesses of the next tokens, for the next step to verify
  std::optional<NgramIndex> ngrams;      // of token_ids, as far as it was asked
  int draft_limit = kMaxDraftTokens;     // by what became of its latest drafts
  bool draft_layer_behind = false;       // has not seen tokens that were computed without it

  std::vector<int32_t> block_table;
  PrefixChain chain;                      // blocks of block_table that the prefix cache knows
  int in_flight = 0;                      // submitted steps that use block_table
  uint64_t last_step = 0;                 // the step that samples the newest token ...
  int32_t last_row = -1;                  // ... and its row there
  bool release_blocks = false;            // when in_flight drops to 0
  bool prompt_scored = false;             // its prompt logprobs are delivered
  std::optional<GrammarMatcher> matcher;  // has read token_ids; present until it ends
  bool poisoned = false;                  // its blocks must not be found in the prefix cache

  int64_t num_known_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_tokens() const { return num_known_tokens() + num_pending_tokens; }
  int64_t num_generated_tokens() const { return num_tokens() - num_prompt_tokens; }
  int64_t num_remaining_tokens() const { return num_tokens() - num_computed_tokens; }
  bool prompt_computed() const { return num_computed_tokens >= num_prompt_tokens; }
};

// What the choices of one request share. Owns them: when it goes, nothing of the request is left.
struct Request {
  RequestId id = 0;
  SamplingParams sampling;
  SamplingParams sibling_sampling;  // without prompt logprobs: they are computed once, by choice 0
  std::vector<int32_t> banned_token_ids;  // EOS and stop ids, while below min_tokens
  double arrival = 0;                     // seconds, engine clock
  double first_scheduled = -1;
  int64_t num_cached_tokens = 0;  // prompt tokens of choice 0 found in the prefix cache
  std::vector<std::unique_ptr<Sequence>> sequences;

  const SamplingParams& sampling_of(const Sequence& sequence) const {
    return sequence.choice == 0 && !sequence.prompt_scored ? sampling : sibling_sampling;
  }
};

}  // namespace atom
