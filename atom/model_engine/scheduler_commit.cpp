// The second half of Scheduler: what the outcome of a step, an abort or a failure means for the
// sequences, and the rules that must hold after every call.
#include <algorithm>
#include <utility>

#include "atom/core/check.h"
#include "atom/model_engine/scheduler.h"

namespace atom {
namespace {

bool contains(std::span<const int32_t> ids, int32_t id) {
  return std::ranges::find(ids, id) != ids.end();
}

// How many of `rows` are of this entry: at least one, and one for each accepted draft.
template <class Entry>
size_t num_rows(const Entry& entry, std::span<const SampledRow> rows) {
  size_t count = 0;
  while (count < rows.size() && count <= static_cast<size_t>(entry.num_drafts) &&
         rows[count].id == entry.sequence->id) {
    ++count;
  }
  return count;
}

int64_t num_collected(const Sequence& sequence) {  // generated tokens that the host knows
  return sequence.num_known_tokens() - sequence.num_prompt_tokens;
}

}  // namespace

Status Scheduler::check_output(const Flight& flight, const StepOutput& output) const {
  if (output.step != flight.step) {
    return make_error(ErrorCode::kInternal, "step {} was collected as step {}", flight.step,
                      output.step);
  }
  size_t row = 0;
  size_t num_drafted = 0;
  for (const FlightEntry& entry : flight.entries) {
    if (!entry.sample) {
      continue;
    }
    const size_t first = row;
    row += num_rows(entry, std::span(output.rows).subspan(row));
    if (row == first) {
      return make_error(ErrorCode::kInternal, "step {}: row {} is not that of sequence {}",
                        flight.step, row, entry.sequence->id);
    }
    for (size_t i = first; i + 1 < row; ++i) {
      if (output.rows[i].token.token_id != entry.sequence->draft_token_ids[i - first]) {
        return make_error(ErrorCode::kInternal, "step {}: row {} accepts what was not drafted",
                          flight.step, i);
      }
    }
    num_drafted += static_cast<size_t>(entry.num_next_drafts);
  }
  if (row != output.rows.size() || num_drafted != output.draft_token_ids.size()) {
    return make_error(ErrorCode::kInternal, "step {}: {} rows and {} drafts instead of {} and {}",
                      flight.step, output.rows.size(), output.draft_token_ids.size(), row,
                      num_drafted);
  }
  return {};
}

Status Scheduler::commit(StepOutput&& output, std::vector<SequenceUpdate>& updates) {
  ATOM_CHECK(!in_flight_.empty()) << "commit() without a step in flight";
  ATOM_RETURN_IF_ERROR(check_output(in_flight_.front(), output));
  const Flight flight = std::move(in_flight_.front());
  in_flight_.pop_front();

  updates.reserve(updates.size() + flight.entries.size() + output.prompt_logprobs.size());
  take_prompt_logprobs(flight, output, updates);
  count_tokens(flight, output);
  std::span<SampledRow> rows = output.rows;
  std::span<const int32_t> drafts = output.draft_token_ids;
  std::vector<RequestId> done;
  grammar_budget_ = {};
  for (const FlightEntry& entry : flight.entries) {
    const size_t count = entry.sample ? num_rows(entry, rows) : 0;
    const auto num_next = static_cast<size_t>(entry.num_next_drafts);
    take_drafts(entry, count, drafts.first(num_next));
    collect_entry(entry, rows.first(count), updates);
    rows = rows.subspan(count);
    drafts = drafts.subspan(num_next);
    if (entry.sequence->state == SequenceState::kFinished && entry.sequence->in_flight == 0) {
      done.push_back(entry.sequence->request->id);
    }
  }
  stats_.grammar_seconds_max = std::max(stats_.grammar_seconds_max, grammar_budget_.seconds_spent);
  for (const RequestId id : done) {
    erase_if_done(id);
  }
  maybe_check();
  return {};
}

void Scheduler::collect_entry(const FlightEntry& entry, std::span<SampledRow> rows,
                              std::vector<SequenceUpdate>& updates) {
  Sequence& sequence = *entry.sequence;
  --sequence.in_flight;
  if (sequence.state != SequenceState::kFinished) {
    sequence.prompt_scored |= entry.ends_prompt;
    if (!rows.empty()) {
      --sequence.num_pending_tokens;
      for (size_t i = 0; i < rows.size() && sequence.state != SequenceState::kFinished; ++i) {
        sequence.num_computed_tokens += i > 0 ? 1 : 0;  // the draft that was accepted
        accept_token(sequence, std::move(rows[i].token), updates);
      }
    } else if (entry.ends_prompt && sequence.max_tokens == 0) {
      SequenceUpdate update = update_for(sequence);
      update.finish_reason = FinishReason::kLength;
      updates.push_back(std::move(update));
      finish(sequence);
    }
  }
  if (sequence.in_flight == 0 && sequence.release_blocks) {
    num_deferred_blocks_ -= static_cast<int64_t>(sequence.block_table.size());
    release_now(sequence);
  }
}

void Scheduler::accept_token(Sequence& sequence, SampledToken&& token,
                             std::vector<SequenceUpdate>& updates) {
  const int32_t id = token.token_id;
  if (id < 0 || id >= options_.vocab_size) {
    fail_request(*sequence.request,
                 {.code = ErrorCode::kInternal,
                  .message = "the model produced no finite logits for this request",
                  .param = {}},
                 updates);
    return;
  }
  sequence.token_ids.push_back(id);
  ++stats_.generation_tokens;
  cache_full_blocks(sequence);

  SequenceUpdate update = update_for(sequence);
  update.token = std::move(token);
  decide_end(sequence, id, update);
  if (!update.finish_reason && sequence.matcher) {
    if (const Status moved = sequence.matcher->advance(id, &grammar_budget_); !moved) {
      fail_request(*sequence.request, moved.error(), updates);
      return;
    }
    if (sequence.matcher->terminated()) {
      update.finish_reason = FinishReason::kStop;
    }
  }
  if (!update.finish_reason && num_collected(sequence) >= sequence.max_tokens) {
    update.finish_reason = FinishReason::kLength;
  }
  const bool finished = update.finish_reason.has_value();
  updates.push_back(std::move(update));
  if (finished) {
    finish(sequence);
  }
}

// Does the token itself end the sequence? Below min_tokens such ids are banned, and a device that
// drew one anyway does not end it. A grammar has the last word: it allows EOS only where the text
// may end, and where nothing else is left it ends in spite of min_tokens and ignore_eos.
void Scheduler::decide_end(const Sequence& sequence, int32_t id, SequenceUpdate& update) const {
  const SamplingParams& params = sequence.request->sampling;
  const bool ruled = sequence.matcher.has_value();
  if (!ruled && num_collected(sequence) <= params.min_tokens) {
    return;
  }
  if ((ruled || !params.ignore_eos) && contains(options_.eos_token_ids, id)) {
    update.finish_reason = FinishReason::kStop;
    update.ended_by_token = true;
  } else if (contains(params.stop_token_ids, id)) {
    update.finish_reason = FinishReason::kStop;
    update.ended_by_token = true;
    update.stop_token_id = id;
  }
}

void Scheduler::take_prompt_logprobs(const Flight& flight, StepOutput& output,
                                     std::vector<SequenceUpdate>& updates) {
  for (PromptLogprobRows& rows : output.prompt_logprobs) {
    const auto entry = std::ranges::find(flight.entries, rows.id, [](const FlightEntry& candidate) {
      return candidate.sequence->id;
    });
    if (entry != flight.entries.end() && entry->sequence->state != SequenceState::kFinished) {
      SequenceUpdate update = update_for(*entry->sequence);
      update.prompt_logprobs = std::make_shared<PromptLogprobRows>(std::move(rows));
      updates.push_back(std::move(update));
    }
  }
}

SequenceUpdate Scheduler::update_for(const Sequence& sequence) const {
  return {.request_id = sequence.request->id,
          .choice = sequence.choice,
          .first_scheduled = sequence.request->first_scheduled,
          .num_cached_tokens = sequence.request->num_cached_tokens};
}

void Scheduler::fail_request(Request& request, const Error& error,
                             std::vector<SequenceUpdate>& updates) {
  const auto shared = std::make_shared<const Error>(error);
  for (const auto& sequence : request.sequences) {
    if (sequence->state == SequenceState::kFinished) {
      continue;
    }
    SequenceUpdate update = update_for(*sequence);
    update.finish_reason = FinishReason::kError;
    update.error = shared;
    updates.push_back(std::move(update));
    sequence->poisoned =
        true;  // forgotten now, and again when the last step that writes them is done
    blocks_.forget(sequence->block_table);
    finish(*sequence);
  }
}

void Scheduler::fail_running(const Error& error, std::vector<SequenceUpdate>& updates) {
  std::vector<RequestId> failed;
  for (const Flight& flight : in_flight_) {
    for (const FlightEntry& entry : flight.entries) {
      Sequence& sequence = *entry.sequence;
      sequence.in_flight = 0;
      sequence.num_pending_tokens = 0;
      failed.push_back(sequence.request->id);
      if (sequence.release_blocks) {
        release_now(sequence);
      }
    }
  }
  in_flight_.clear();
  num_deferred_blocks_ = 0;
  for (const Sequence* sequence : running_) {
    failed.push_back(sequence->request->id);
  }
  for (const RequestId id : failed) {
    const auto found = requests_.find(id);
    if (found != requests_.end()) {
      fail_request(*found->second, error, updates);
      erase_if_done(id);
    }
  }
  blocks_.forget_all();
  maybe_check();
}

void Scheduler::fail_all(const Error& error, std::vector<SequenceUpdate>& updates) {
  fail_running(error, updates);
  while (!requests_.empty()) {
    Request& request = *requests_.begin()->second;
    fail_request(request, error, updates);
    erase_if_done(request.id);
  }
  maybe_check();
}

void Scheduler::restart() {
  batch_.sequences.clear();
  planned_.entries.clear();
  in_flight_.clear();
  waiting_.clear();
  running_.clear();
  requests_.clear();
  blocks_.restart();
  num_deferred_blocks_ = 0;
}

void Scheduler::abort(RequestId id, std::vector<SequenceUpdate>& updates) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) {
    return;
  }
  for (const auto& sequence : found->second->sequences) {
    if (sequence->state != SequenceState::kFinished) {
      SequenceUpdate update = update_for(*sequence);
      update.finish_reason = FinishReason::kAbort;
      updates.push_back(std::move(update));
      finish(*sequence);
    }
  }
  erase_if_done(id);
  maybe_check();
}

void Scheduler::abort_all(std::vector<SequenceUpdate>& updates) {
  std::vector<RequestId> ids;
  for (const auto& [id, request] : requests_) {
    ids.push_back(id);
  }
  for (const RequestId id : ids) {
    abort(id, updates);
  }
}

void Scheduler::stop_choice(RequestId id, int32_t choice) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) {
    return;
  }
  Sequence& sequence = *found->second->sequences[static_cast<size_t>(choice)];
  if (sequence.state != SequenceState::kFinished) {
    finish(sequence);
    erase_if_done(id);
  }
  maybe_check();
}

void Scheduler::finish(Sequence& sequence) {
  ATOM_CHECK(sequence.state != SequenceState::kFinished);
  if (sequence.state == SequenceState::kRunning) {
    const auto at = std::ranges::lower_bound(running_, sequence.id, {}, &Sequence::id);
    ATOM_CHECK(at != running_.end() && *at == &sequence);
    running_.erase(at);
  } else {
    ATOM_CHECK(waiting_.erase(sequence.id) == 1);
  }
  sequence.state = SequenceState::kFinished;
  give_back_blocks(sequence);
}

void Scheduler::give_back_blocks(Sequence& sequence) {
  if (sequence.release_blocks) {
    return;  // preempted before, still in flight
  }
  if (sequence.in_flight == 0) {
    release_now(sequence);
  } else {
    sequence.release_blocks = true;
    num_deferred_blocks_ += static_cast<int64_t>(sequence.block_table.size());
  }
}

void Scheduler::release_now(Sequence& sequence) {
  if (sequence.poisoned) {
    blocks_.forget(sequence.block_table);
  }
  blocks_.release(sequence.block_table);
  sequence.block_table.clear();
  sequence.chain = {};
  sequence.num_computed_tokens = 0;
  sequence.release_blocks = false;
}

void Scheduler::erase_if_done(RequestId id) {
  const auto found = requests_.find(id);
  if (found != requests_.end() &&
      std::ranges::all_of(found->second->sequences, [](const auto& sequence) {
        return sequence->state == SequenceState::kFinished && sequence->in_flight == 0;
      })) {
    requests_.erase(found);
  }
}

void Scheduler::maybe_check() const {
#ifdef NDEBUG
  if (!options_.check_invariants) {
    return;
  }
#endif
  check_invariants();
}

void Scheduler::check_invariants() const {
  const std::string fault = find_fault();
  ATOM_CHECK(fault.empty()) << fault;
}

std::string Scheduler::find_sequence_fault(const Sequence& sequence) const {
  const auto num_blocks = static_cast<int64_t>(sequence.block_table.size());
  const bool running = sequence.state == SequenceState::kRunning;
  const bool waiting = sequence.state == SequenceState::kWaiting;
  const auto at = std::ranges::lower_bound(running_, sequence.id, {}, &Sequence::id);
  if (running != (at != running_.end() && *at == &sequence) ||
      waiting != waiting_.contains(sequence.id)) {
    return str_format("sequence {} is in the wrong queue", sequence.id);
  }
  if (!running && sequence.release_blocks != (sequence.in_flight > 0)) {
    return str_format("sequence {} has {} steps in flight, not in line with its blocks",
                      sequence.id, sequence.in_flight);
  }
  if (!running && !sequence.release_blocks && num_blocks > 0) {
    return str_format("sequence {} does not run but holds {} blocks", sequence.id, num_blocks);
  }
  if (num_blocks < blocks_.blocks_for(sequence.num_computed_tokens)) {
    return str_format("sequence {}: {} tokens in {} blocks", sequence.id,
                      sequence.num_computed_tokens, num_blocks);
  }
  if (sequence.num_computed_tokens > sequence.num_tokens() || sequence.num_pending_tokens < 0) {
    return str_format("sequence {}: {} of {} tokens computed, {} pending", sequence.id,
                      sequence.num_computed_tokens, sequence.num_tokens(),
                      sequence.num_pending_tokens);
  }
  return "";
}

std::string Scheduler::find_fault() const {
  std::vector<int32_t> owners(static_cast<size_t>(options_.num_blocks));
  size_t num_sequences[3] = {};
  int64_t deferred = 0;
  int in_flight = 0;
  for (const auto& [id, request] : requests_) {
    for (const auto& sequence : request->sequences) {
      if (std::string fault = find_sequence_fault(*sequence); !fault.empty()) {
        return fault;
      }
      ++num_sequences[static_cast<size_t>(sequence->state)];
      in_flight += sequence->in_flight;
      deferred += sequence->release_blocks ? static_cast<int64_t>(sequence->block_table.size()) : 0;
      for (const int32_t block : sequence->block_table) {
        ++owners[static_cast<size_t>(block)];
      }
    }
  }
  for (const Flight& flight : in_flight_) {
    in_flight -= static_cast<int>(flight.entries.size());
  }
  if (in_flight != 0 || deferred != num_deferred_blocks_) {
    return str_format("steps in flight off by {}, deferred blocks {} counted as {}", in_flight,
                      deferred, num_deferred_blocks_);
  }
  if (num_sequences[0] != waiting_.size() || num_sequences[1] != running_.size() ||
      static_cast<int64_t>(running_.size()) > options_.max_num_seqs) {
    return str_format("{} waiting and {} running sequences, queues say {} and {}", num_sequences[0],
                      num_sequences[1], waiting_.size(), running_.size());
  }
  return blocks_.find_fault(owners);
}

}  // namespace atom
