// Scheduler: decides what every step computes, and what its outcome means for every sequence.
// Pure: no clock, lock, device or I/O; time is passed in (seconds). Owner of all Requests,
// Sequences and of the BlockManager; engine thread only. README.md states its contract. Policy:
// decodes first, then prefill pieces, then admission, each in order of arrival. When the cache is
// full the latest arrival goes back to the queue and is recomputed, so the oldest always finishes.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/model_engine/block_manager.h"
#include "atom/model_engine/draft_policy.h"
#include "atom/model_engine/draft_stats.h"
#include "atom/model_engine/scheduled_batch.h"
#include "atom/model_engine/sequence.h"
#include "atom/request_output.h"

namespace atom {

struct SchedulerOptions {
  int64_t max_num_batched_tokens = 16384;
  int64_t max_mixed_tokens = 0;  // of a step in which sequences decode, these included; 0 = any
  int64_t row_tile = 1;  // such steps hold whole multiples of this, while there are prompts enough
  int64_t max_num_seqs = 512;
  int64_t max_model_len = 0;  // tokens, prompt and output; at most what the cache holds
  double delay_factor = 0.0;
  int64_t num_blocks = 0;
  int64_t block_size = 16;
  bool enable_prefix_caching = true;
  uint64_t cache_salt = 0;
  int64_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  SpeculativeConfig speculative;
  bool check_invariants = false;  // after every call that changes state
};

// What a step, an abort or an error means for one sequence; goes to the OutputProcessor in order.
// One per sequence and step: what is rare is behind a pointer.
struct SequenceUpdate {
  RequestId request_id = 0;
  int32_t choice = 0;
  std::optional<SampledToken> token;
  std::optional<FinishReason> finish_reason;
  std::optional<int32_t> stop_token_id;  // a requested stop id ended it (not EOS)
  bool ended_by_token = false;           // EOS or stop id: the token itself is no text
  std::shared_ptr<const Error> error;    // with kError
  std::shared_ptr<PromptLogprobRows> prompt_logprobs;
  double first_scheduled = 0;
  int64_t num_cached_tokens = 0;
};

struct SchedulerStats {
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_free_blocks = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  int64_t generation_tokens = 0;
  int64_t prefix_cache_queries = 0;
  int64_t prefix_cache_hits = 0;
  int64_t num_preemptions = 0;
  int64_t num_steps = 0;
  DraftStats drafts;
  double grammar_seconds_max = 0;  // CPU time of all grammars in the step where they took most
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();

  // Refuses what can never be served: thread-safe, called before add().
  static Status check(const GenerationRequest& request, const SchedulerOptions& options);

  // The scheduler's form of a request that passed check(); thread-safe. `seed` is resolved; `now`
  // is its arrival; `matcher` stands at the first token, every choice gets a copy.
  static std::unique_ptr<Request> make_request(RequestId id, const GenerationRequest& request,
                                               uint64_t seed, double now,
                                               const SchedulerOptions& options,
                                               const GrammarMatcher* matcher = nullptr);
  void add(std::unique_ptr<Request> request);
  // The next step; empty when nothing can run now. Valid until the next call. The caller submits
  // it.
  const ScheduledBatch& schedule(double now);
  // The outcome of the oldest step in flight. An error means the output does not fit the step:
  // nothing was changed, and the caller treats it as a failed step.
  Status commit(StepOutput&& output, std::vector<SequenceUpdate>& updates);
  // The device failed: every step in flight is lost, every request with a part in one or running
  // fails.
  void fail_running(const Error& error, std::vector<SequenceUpdate>& updates);
  // As fail_running, for every request there is.
  void fail_all(const Error& error, std::vector<SequenceUpdate>& updates);
  // After an exception in any other call (out of memory, in practice): what it left half done is
  // thrown away, and every request with it, without an update. Counters and ids go on. Allocates
  // nothing.
  void restart();
  // Ends all choices with kAbort; unknown and finished ids are ignored.
  void abort(RequestId id, std::vector<SequenceUpdate>& updates);
  void abort_all(std::vector<SequenceUpdate>& updates);
  // The output side found a stop string: the choice is over, without an update.
  void stop_choice(RequestId id, int32_t choice);

  bool has_requests() const { return !requests_.empty(); }
  int num_in_flight() const { return static_cast<int>(in_flight_.size()); }
  SchedulerStats stats() const;
  const BlockManager& blocks() const { return blocks_; }
  // Stops the process when a rule of README.md is broken.
  void check_invariants() const;
  std::string find_fault() const;

 private:
  struct FlightEntry {
    Sequence* sequence = nullptr;
    bool sample = false;
    bool ends_prompt = false;
    int num_drafts = 0;       // verified
    int num_next_drafts = 0;  // to be drafted
  };
  struct Flight {
    uint64_t step = 0;
    std::vector<FlightEntry> entries;
  };

  // Phases of schedule(), each takes what it plans from `budget`.
  void plan_decodes(int64_t& budget);
  void plan_prefills(int64_t& budget);
  void plan_admissions(double now, int64_t& budget);
  void plan(Sequence& sequence, int64_t num_tokens, int64_t& budget);
  // Speculative decoding (scheduler_drafts.cpp).
  bool drafts_by_layer() const { return options_.speculative.method == DraftMethod::kMtp; }
  void plan_draft_length(double now);
  void mark_behind();
  void count_tokens(const Flight& flight, const StepOutput& output);
  // How many drafts a step with this budget may verify: every running sequence gets a token before
  // any draft, and prompts get half of the rest.
  int64_t budget_for_drafts(int64_t budget) const;
  // Settles which drafts this step verifies: at most `most`, fewer where blocks or tokens end.
  void settle_drafts(Sequence& sequence, int64_t most);
  void look_up_drafts(Sequence& sequence);
  int num_next_drafts(const Sequence& sequence) const;
  void take_drafts(const FlightEntry& entry, size_t num_rows, std::span<const int32_t> next);
  void cache_full_blocks(Sequence& sequence);
  bool is_full() const;  // admits no more sequences
  bool is_runnable(const Sequence& sequence) const;
  bool make_room(Sequence& sequence);
  bool admit(Sequence& sequence);
  const Sequence* donor_of(const Sequence& sequence) const;
  bool must_wait_for_sibling(const Sequence& sequence) const;
  bool delay_passed(double now);
  void preempt(Sequence& sequence);

  Status check_output(const Flight& flight, const StepOutput& output) const;
  void accept_token(Sequence& sequence, SampledToken&& token, std::vector<SequenceUpdate>& updates);
  void decide_end(const Sequence& sequence, int32_t id, SequenceUpdate& update) const;
  void take_prompt_logprobs(const Flight& flight, StepOutput& output,
                            std::vector<SequenceUpdate>& updates);
  void fail_request(Request& request, const Error& error, std::vector<SequenceUpdate>& updates);
  void collect_entry(const FlightEntry& entry, std::span<SampledRow> rows,
                     std::vector<SequenceUpdate>& updates);
  // The one way out: takes the sequence from its queue and frees its blocks, now or when the last
  // step that uses them is collected.
  void finish(Sequence& sequence);
  void give_back_blocks(Sequence& sequence);
  void release_now(Sequence& sequence);
  void erase_if_done(RequestId id);
  SequenceUpdate update_for(const Sequence& sequence) const;
  void maybe_check() const;
  std::string find_sequence_fault(const Sequence& sequence) const;

  SchedulerOptions options_;
  BlockManager blocks_;
  std::unordered_map<RequestId, std::unique_ptr<Request>> requests_;
  std::map<SequenceId, Sequence*> waiting_;  // in order of arrival
  std::vector<Sequence*> running_;           // in order of arrival
  ScheduledBatch batch_;
  Flight planned_;  // the bookkeeping of batch_
  int32_t num_planned_rows_ = 0;
  bool planned_prompt_ = false;
  // What they fill is found from the next step on: an executor may read a step of single tokens'
  // cached keys before it has written its own.
  std::vector<Sequence*> filled_by_one_;
  std::deque<Flight> in_flight_;
  GrammarStepBudget grammar_budget_;  // of the step that is being committed
  int64_t num_deferred_blocks_ = 0;   // references that go when steps in flight are collected

  std::optional<DraftPolicy> draft_policy_;  // with speculative decoding
  int draft_length_ = 0;                     // of the step that is planned
  bool keep_drafting_ = false;               // by the draft layer, until drafts are given up
  struct {  // the last step, where it was of decoding sequences alone
    bool valid = false;
    double started = 0;
    DraftStep step;
  } measured_;

  SequenceId next_sequence_id_ = 1;
  uint64_t next_step_ = 1;
  bool previous_step_had_prompt_ = false;
  double previous_time_ = 0;
  double last_prompt_latency_ = 0;
  SchedulerStats stats_;
};

}  // namespace atom
