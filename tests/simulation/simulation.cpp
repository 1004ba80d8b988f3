#include "tests/simulation/simulation.h"

#include <algorithm>
#include <new>
#include <utility>

#include "tests/support/failing_memory.h"

namespace atom::simulation {
namespace {

constexpr int64_t kBlockSizes[] = {1, 2, 3, 4, 8, 16};

Error lost_step() { return {.code = ErrorCode::kInternal, .message = "lost", .param = {}}; }

}  // namespace

Simulation::Simulation(uint64_t seed, Sabotage sabotage) : random_(seed), sabotage_(sabotage) {
  make_options();
  sabotage_at_ = pick(2, 20);
  make_clients();
  scheduler_ = std::make_unique<Scheduler>(options_);
  executor_ = std::make_unique<KvExecutor>(device_);
}

void Simulation::make_options() {
  options_.block_size = kBlockSizes[random_() % std::size(kBlockSizes)];
  options_.num_blocks = pick(2, chance(0.5) ? 12 : 80);
  options_.max_model_len =
      pick(2, std::min<int64_t>(options_.num_blocks * options_.block_size, 120));
  options_.max_num_batched_tokens = chance(0.3) ? pick(1, 4) : pick(4, 100);
  options_.max_num_seqs = pick(1, chance(0.5) ? 4 : 16);
  options_.enable_prefix_caching = chance(0.6);
  options_.delay_factor = chance(0.2) ? 0.5 : 0;
  options_.cache_salt = random_();
  options_.vocab_size = kVocabSize;
  options_.eos_token_ids = {kEos};
  const int64_t lookup_min = pick(1, 3);
  options_.speculative = {.method = static_cast<DraftMethod>(pick(0, 2)),
                          .num_tokens = static_cast<int>(pick(1, 4)),
                          .adaptive = chance(0.3),
                          .lookup_min = static_cast<int>(lookup_min),
                          .lookup_max = static_cast<int>(pick(lookup_min, 4))};
  const int32_t num_words[] = {1, 2, 3, 8, kVocabSize - 1};
  device_ = {.capacity = {.num_blocks = options_.num_blocks,
                          .block_size = options_.block_size,
                          .max_in_flight = static_cast<int>(pick(1, 3))},
             .model = {.num_words = num_words[random_() % std::size(num_words)]},
             .faults = {},
             .max_model_len = options_.max_model_len,
             .speculative = options_.speculative,
             .right_drafts = 0.25 * static_cast<double>(pick(0, 4)),
             .trust_stale_drafts = sabotage_ == Sabotage::kStaleDraftKv,
             .seed = random_()};
  if (chance(0.15)) {
    device_.faults = {.submit_error = 0.01, .collect_error = 0.01, .bad_row = 0.03};
  }
  no_memory_ = chance(0.1) ? 0.03 : 0;
}

void Simulation::make_clients() {
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t> prefix(static_cast<size_t>(pick(1, options_.max_model_len)));
    std::ranges::generate(prefix, [&] { return static_cast<int32_t>(pick(1, kVocabSize - 1)); });
    prefixes_.push_back(std::move(prefix));
  }
  clients_.resize(static_cast<size_t>(pick(1, 16)));
  for (Client& client : clients_) {
    client.request = make_request();
    client.seed = random_();
    client.streams.resize(static_cast<size_t>(client.request.sampling.n));
    client.prompt_scores.resize(client.request.prompt_token_ids.size());
    const auto longest = static_cast<int64_t>(client.request.prompt_token_ids.size()) +
                         client.request.sampling.max_tokens;
    // Generous: every token alone in a step, recomputed several times.
    max_steps_ += 20 * longest * client.request.sampling.n + 200;
  }
}

GenerationRequest Simulation::make_request() {
  GenerationRequest request;
  const int64_t longest = options_.max_model_len - 1;
  const std::vector<int32_t>& prefix = prefixes_[random_() % prefixes_.size()];
  const int64_t shared =
      chance(0.7) ? pick(0, std::min<int64_t>(longest, static_cast<int64_t>(prefix.size()))) : 0;
  const int64_t own =
      pick(shared > 0 ? 0 : 1, std::max<int64_t>(1, std::min<int64_t>(longest - shared, 10)));
  request.prompt_token_ids.assign(prefix.begin(), prefix.begin() + shared);
  for (int64_t i = 0; i < own && (i == 0 || shared + i < longest); ++i) {
    request.prompt_token_ids.push_back(static_cast<int32_t>(pick(0, kVocabSize - 1)));
  }
  request.prompt_token_ids.resize(
      std::min<size_t>(request.prompt_token_ids.size(), static_cast<size_t>(longest)));

  SamplingParams& params = request.sampling;
  params.temperature = chance(0.7) ? 0.0F : 1.0F;
  params.max_tokens = chance(0.1) ? 0 : pick(1, 30);
  params.min_tokens = chance(0.2) ? pick(0, 5) : 0;
  params.ignore_eos = chance(0.3);
  params.n = chance(0.25) ? static_cast<int32_t>(pick(2, 4)) : 1;
  if (chance(0.2)) {
    params.stop_token_ids = {static_cast<int32_t>(pick(0, kVocabSize - 1))};
  }
  if (chance(0.15)) {
    params.prompt_logprobs = 1;
  }
  if (chance(0.15)) {
    params.repetition_penalty = 1.5F;  // only keeps the sequence from running ahead
  }
  return request;
}

void Simulation::fail(std::string fault) {
  if (fault_.empty()) {
    fault_ = std::move(fault);
  }
}

std::string Simulation::run(Totals& totals) {
  SequenceId next_sequence = 1;
  while (fault_.empty() && (num_added_ < clients_.size() || scheduler_->has_requests())) {
    while (num_added_ < clients_.size() && (chance(0.3) || !scheduler_->has_requests())) {
      Client& client = clients_[num_added_++];
      client.added = true;
      client.first_sequence = next_sequence;
      next_sequence += static_cast<SequenceId>(client.request.sampling.n);
      if (const Status status = Scheduler::check(client.request, options_); !status) {
        fail(status.error().message);
        break;
      }
      auto request =
          Scheduler::make_request(num_added_, client.request, client.seed, time_, options_);
      guarded([&](auto&) { scheduler_->add(std::move(request)); });
    }
    arrivals_and_departures();
    if (!advance() && scheduler_->has_requests()) {
      fail("the scheduler has requests but nothing to run");
    }
    if (const std::string fault = scheduler_->find_fault(); !fault.empty()) {
      fail(fault);
    }
    fail(executor_->fault());
    if (++num_steps_ > max_steps_) {
      fail(str_format("not finished after {} steps", num_steps_));
    }
  }
  const SchedulerStats stats = scheduler_->stats();
  check_stats(stats);
  if (fault_.empty() && stats.num_free_blocks != options_.num_blocks) {
    fail(str_format("{} of {} blocks are free at the end", stats.num_free_blocks,
                    options_.num_blocks));
  }
  if (fault_.empty()) {
    check_answers();
  }
  totals.steps += stats.num_steps;
  totals.tokens += stats.generation_tokens;
  totals.preemptions += stats.num_preemptions;
  totals.cache_hits += stats.prefix_cache_hits;
  totals.ahead += executor_->num_ahead();
  totals.aborts += totals_.aborts;
  totals.failures += totals_.failures;
  totals.bad_rows += totals_.bad_rows;
  totals.forks += totals_.forks;
  totals.lost_memories += totals_.lost_memories;
  const auto method = static_cast<size_t>(options_.speculative.method);
  totals.drafts[method] += stats.drafts.num_draft_tokens;
  totals.accepted[method] += stats.drafts.num_accepted_tokens;
  return fault_;
}

void Simulation::arrivals_and_departures() {
  if (num_added_ == 0) {
    return;
  }
  const auto id = static_cast<RequestId>(pick(1, static_cast<int64_t>(num_added_)));
  Client& client = clients_[id - 1];
  if (chance(0.02)) {
    client.aborted = true;
    ++totals_.aborts;
    guarded([&](auto& updates) { scheduler_->abort(id, updates); });
  } else if (chance(0.02)) {
    const auto choice = static_cast<int32_t>(pick(0, client.request.sampling.n - 1));
    client.streams[static_cast<size_t>(choice)].cut = true;
    guarded([&](auto&) { scheduler_->stop_choice(id, choice); });
  }
}

bool Simulation::advance() {
  // As the engine thread does, except that it sometimes leaves the device's queue half full.
  while (scheduler_->num_in_flight() < device_.capacity.max_in_flight) {
    time_ += 0.01 * static_cast<double>(pick(1, 5));
    if (num_steps_ % 97 == 13) time_ += 3600;  // the machine slept
    const ScheduledBatch* planned = nullptr;
    if (!guarded([&](auto&) { planned = &scheduler_->schedule(time_); })) {
      return true;
    }
    const ScheduledBatch& batch = *planned;
    if (const std::string fault = scheduler_->find_fault(); !fault.empty()) {
      fail(fault);
    }
    if (batch.sequences.empty()) {
      break;
    }
    if (batch.num_tokens > options_.max_num_batched_tokens) {
      fail("a step over max_num_batched_tokens");
    }
    check_found_drafts(batch);
    auto& drafts = drafts_.emplace_back();
    for (const ScheduledSequence& s : batch.sequences) {
      drafts[s.id].assign(s.draft_token_ids.begin(), s.draft_token_ids.end());
    }
    ScheduledBatch copy = batch;
    sabotage_batch(copy);
    if (!executor_->submit(copy)) {
      device_failed();
      return true;
    }
    if (chance(0.2)) {
      break;
    }
  }
  if (scheduler_->num_in_flight() == 0) {
    return false;
  }
  Result<StepOutput> output = executor_->collect();
  if (!output) {
    device_failed();
    return true;
  }
  sabotage_output(*output);
  drafts_.pop_front();
  if (sabotage_ == Sabotage::kKeepMemory && num_steps_ == sabotage_at_) {
    executor_->lose_memory();
  }
  guarded([&](auto& updates) {
    if (const Status status = scheduler_->commit(std::move(*output), updates); !status) {
      fail(status.error().message);
    }
  });
  return true;
}

void Simulation::sabotage_batch(ScheduledBatch& batch) {
  if (num_steps_ < sabotage_at_) {
    return;
  }
  tables_.clear();
  tables_.reserve(batch.sequences.size());
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    ScheduledSequence& s = batch.sequences[i];
    std::vector<int32_t>& table = tables_.emplace_back(s.block_table.begin(), s.block_table.end());
    if (sabotage_ == Sabotage::kSwapBlocks && table.size() > 1 && s.num_computed_tokens > 0) {
      std::swap(table[0], table[1]);
    } else if (sabotage_ == Sabotage::kSkipToken && s.num_scheduled_tokens > 1) {
      ++s.num_computed_tokens;
      --s.num_scheduled_tokens;
      --batch.num_tokens;
    } else if (sabotage_ == Sabotage::kForeignBlock && i > 0) {
      table.back() = tables_[i - 1].back();
    } else if (sabotage_ == Sabotage::kStaleRow && s.pending_row >= 0) {
      s.pending_row = s.pending_row == 0 ? 1 : 0;
    }
    s.block_table = table;
  }
}

void Simulation::sabotage_output(StepOutput& output) {
  std::vector<SampledRow>& rows = output.rows;
  if (num_steps_ < sabotage_at_ || rows.empty()) {
    return;
  }
  if (sabotage_ == Sabotage::kWrongToken) {
    rows[0].token.token_id = (rows[0].token.token_id + 1) % kVocabSize;
  } else if (sabotage_ == Sabotage::kMixedDrafts && output.draft_token_ids.size() > 1) {
    std::ranges::rotate(output.draft_token_ids, output.draft_token_ids.begin() + 1);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<int32_t>& drafts = drafts_.front()[rows[i].id];
    const auto end =
        std::ranges::find_if(rows.begin() + static_cast<ptrdiff_t>(i), rows.end(),
                             [&](const SampledRow& row) { return row.id != rows[i].id; });
    const size_t accepted = static_cast<size_t>(end - rows.begin()) - i - 1;
    if (sabotage_ == Sabotage::kLostDraftRow && accepted > 0) {
      rows.erase(rows.begin() + static_cast<ptrdiff_t>(i));
      return;
    }
    i += accepted;
    if (sabotage_ == Sabotage::kWrongAccept && accepted < drafts.size()) {
      SampledRow next = rows[i];
      rows[i].token.token_id = drafts[accepted];
      rows.insert(rows.begin() + static_cast<ptrdiff_t>(i) + 1, std::move(next));
      return;
    }
  }
}

template <class Call>
bool Simulation::guarded(Call call) {
  std::vector<SequenceUpdate> updates;
  bool failed = false;
  if (no_memory_ > 0 && chance(no_memory_)) {
    testing_support::let_memory_run_out(pick(0, 7));
  }
  try {
    call(updates);
  } catch (const std::bad_alloc&) {
    failed = true;
  }
  testing_support::give_memory_back();
  take(std::move(updates));
  if (failed) {
    memory_failed();
  }
  return !failed;
}

// As the engine does: the device's steps are dropped, the scheduler starts again, and every request
// that it had ends.
void Simulation::memory_failed() {
  ++totals_.lost_memories;
  executor_->lose_memory();
  drafts_.clear();
  scheduler_->restart();
  for (size_t i = 0; i < num_added_; ++i) {
    for (Stream& stream : clients_[i].streams) {
      if (!stream.finished && !stream.cut) {
        stream.finished = true;
        stream.reason = FinishReason::kError;
      }
    }
  }
}

void Simulation::device_failed() {
  ++totals_.failures;
  executor_->lose_memory();
  drafts_.clear();
  std::vector<SequenceUpdate> updates;
  scheduler_->fail_running(lost_step(), updates);
  take(std::move(updates));
}

void Simulation::take(std::vector<SequenceUpdate>&& updates) {
  if (num_steps_ >= sabotage_at_ && !updates.empty()) {
    if (sabotage_ == Sabotage::kLostUpdate) {
      updates.pop_back();
    } else if (sabotage_ == Sabotage::kDoubledUpdate) {
      updates.push_back(updates.back());
    }
  }
  for (const SequenceUpdate& update : updates) {
    Client& client = clients_[update.request_id - 1];
    Stream& stream = client.streams[static_cast<size_t>(update.choice)];
    if (stream.finished || stream.cut) {
      fail(str_format("request {}: an update after the end", update.request_id));
    }
    client.first_scheduled = update.first_scheduled;
    if (update.prompt_logprobs) {
      for (size_t i = 0; i < update.prompt_logprobs->logprobs.size(); ++i) {
        const auto position = static_cast<size_t>(update.prompt_logprobs->first_position) + i;
        ++client.prompt_scores[position];
        if (update.prompt_logprobs->logprobs[i].logprob != static_cast<float>(position)) {
          fail("a prompt logprob at the wrong position");
        }
      }
    }
    if (update.token) {
      stream.tokens.push_back(update.token->token_id);
    }
    if (update.finish_reason) {
      stream.finished = true;
      stream.reason = *update.finish_reason;
      totals_.bad_rows += update.error && update.error->message != "lost" ? 1 : 0;
    }
  }
}

}  // namespace atom::simulation
