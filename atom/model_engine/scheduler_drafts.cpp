// Speculative decoding in the Scheduler: which guesses a step verifies, how many the next one gets,
// and what became of them. A guess is accepted when the ordinary sampler, at that position and with
// that seed, draws the same token: as guesses are single tokens and no distributions, this is
// rejection sampling, and the answer is the one without drafts. Source: arXiv 2211.17192.
#include <algorithm>

#include "atom/model_engine/scheduler.h"

namespace atom {

void Scheduler::plan_draft_length(double now) {
  if (!draft_policy_) {
    return;
  }
  if (measured_.valid && in_flight_.empty() && !running_.empty()) {
    if (measured_.step.seconds <= 0) {
      measured_.step.seconds = now - measured_.started;
    }
    draft_policy_->observe(measured_.step);
  }
  measured_ = {};
  draft_length_ = draft_policy_->choose(
      {.num_sequences = static_cast<int64_t>(running_.size()),
       .num_behind = std::ranges::count_if(running_, &Sequence::draft_layer_behind)});
  keep_drafting_ = drafts_by_layer() && !draft_policy_->gave_up();
}

void Scheduler::mark_behind() {
  if (!drafts_by_layer() || batch_.drafting) {
    return;
  }
  for (const FlightEntry& entry : planned_.entries) {
    entry.sequence->draft_layer_behind = true;
  }
}

int64_t Scheduler::budget_for_drafts(int64_t budget) const {
  const int64_t left = budget - static_cast<int64_t>(running_.size());
  const bool prompts = (!waiting_.empty() && !is_full()) ||
                       std::ranges::any_of(running_, [](const Sequence* sequence) {
                         return sequence->num_remaining_tokens() > 1;
                       });
  return prompts ? left / 2 : left;
}

void Scheduler::settle_drafts(Sequence& sequence, int64_t most) {
  std::vector<int32_t>& drafts = sequence.draft_token_ids;
  if (!draft_policy_) {
    return;
  }
  const int64_t generated = sequence.num_generated_tokens();
  most = std::min({most, int64_t{draft_length_}, sequence.max_tokens - generated - 1});
  // A grammar follows known tokens only, and below min_tokens rows differ in what is banned.
  if (most <= 0 || sequence.matcher || generated < sequence.request->sampling.min_tokens) {
    drafts.clear();
    return;
  }
  if (options_.speculative.method == DraftMethod::kNgram) {
    look_up_drafts(sequence);
  }
  const auto count = std::min(static_cast<int64_t>(drafts.size()), most);
  // Room for the guesses, and for what a draft layer writes after them; nobody is preempted for it.
  const int64_t ahead = keep_drafting_ ? draft_length_ : 0;
  const int64_t wanted = std::min(sequence.num_computed_tokens + 1 + count + ahead,
                                  sequence.num_prompt_tokens + sequence.max_tokens);
  const auto capacity = [&] {
    return static_cast<int64_t>(sequence.block_table.size()) * options_.block_size;
  };
  while (capacity() < wanted && blocks_.num_free() > static_cast<int64_t>(running_.size())) {
    sequence.block_table.push_back(blocks_.allocate());
  }
  const int64_t room = capacity() - sequence.num_computed_tokens - 1;
  drafts.resize(static_cast<size_t>(std::min(count, room)));
}

void Scheduler::look_up_drafts(Sequence& sequence) {
  const SpeculativeConfig& speculative = options_.speculative;
  if (!sequence.ngrams) {
    sequence.ngrams.emplace(speculative.lookup_min, speculative.lookup_max);
  }
  sequence.ngrams->update(sequence.token_ids);
  sequence.draft_token_ids.clear();
  sequence.ngrams->propose(sequence.token_ids, std::min(draft_length_, sequence.draft_limit),
                           sequence.draft_token_ids);
}

int Scheduler::num_next_drafts(const Sequence& sequence) const {
  if (!keep_drafting_ || sequence.matcher) {
    return 0;
  }
  // The step after this one has a token of its own to make, and so has this one.
  const int64_t useful = sequence.max_tokens - sequence.num_generated_tokens() - 2;
  // Each draft but the first is made from a row behind the last that is accepted; none of these is
  // where the sequence cannot come.
  const int64_t capacity =
      std::min(static_cast<int64_t>(sequence.block_table.size()) * options_.block_size,
               sequence.num_prompt_tokens + sequence.max_tokens);
  const int64_t last =
      sequence.num_tokens() - 1 + static_cast<int64_t>(sequence.draft_token_ids.size());
  return static_cast<int>(std::clamp<int64_t>(std::min(useful, capacity - last), 0, draft_length_));
}

void Scheduler::count_tokens(const Flight& flight, const StepOutput& output) {
  if (flight.step + 1 != next_step_) {
    return;
  }
  measured_.step.num_tokens = static_cast<int64_t>(output.rows.size());
  measured_.step.seconds = output.seconds;
  measured_.step.draft_seconds = output.draft_seconds;
  size_t row = 0;
  for (const FlightEntry& entry : flight.entries) {
    const int64_t behind = entry.sequence->draft_layer_behind ? 1 : 0;
    ++measured_.step.load.num_sequences;
    measured_.step.load.num_behind += behind;
    for (; row < output.rows.size() && output.rows[row].id == entry.sequence->id; ++row) {
      measured_.step.num_tokens_behind += behind;
    }
  }
}

void Scheduler::take_drafts(const FlightEntry& entry, size_t num_rows,
                            std::span<const int32_t> next) {
  if (!draft_policy_ || num_rows == 0) {
    return;
  }
  Sequence& sequence = *entry.sequence;
  const int accepted = static_cast<int>(num_rows) - 1;
  DraftStats& stats = stats_.drafts;
  // A look-up may already guess what follows a prompt whose last token comes alone.
  stats.num_forwards += entry.ends_prompt && entry.num_drafts == 0 ? 0 : 1;
  if (entry.num_drafts > 0) {
    ++stats.num_drafts;
    stats.num_draft_tokens += entry.num_drafts;
    stats.num_accepted_tokens += accepted;
    for (int i = 0; i < accepted; ++i) {
      ++stats.num_accepted_at[static_cast<size_t>(i)];
    }
    // What is looked up is worth as much as the look-up before it.
    sequence.draft_limit = accepted == entry.num_drafts
                               ? std::min(kMaxDraftTokens, 2 * sequence.draft_limit)
                               : accepted + 1;
  }
  const bool valid =
      std::ranges::all_of(next, [&](int32_t id) { return id >= 0 && id < options_.vocab_size; });
  sequence.draft_token_ids.assign(next.begin(), valid ? next.end() : next.begin());
}

}  // namespace atom
