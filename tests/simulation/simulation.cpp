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
  depth_ = static_cast<int>(pick(1, 3));
  if (chance(0.15)) {
    faults_ = {.submit_error = 0.01, .collect_error = 0.01, .bad_row = 0.03};
  }
  no_memory_ = chance(0.1) ? 0.03 : 0;
  sabotage_at_ = pick(2, 20);
  make_clients();
  scheduler_ = std::make_unique<Scheduler>(options_);
  executor_ = std::make_unique<KvExecutor>(ExecutorCapacity{.num_blocks = options_.num_blocks,
                                                            .block_size = options_.block_size,
                                                            .max_in_flight = depth_},
                                           faults_, random_());
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
  while (scheduler_->num_in_flight() < depth_) {
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
  if (sabotage_ == Sabotage::kWrongToken && num_steps_ >= sabotage_at_ && !output->rows.empty()) {
    int32_t& token = output->rows[0].token.token_id;
    token = (token + 1) % kVocabSize;
  }
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

std::vector<int32_t> Simulation::oracle(const Client& client, uint64_t seed,
                                        FinishReason& reason) const {
  const SamplingParams& params = client.request.sampling;
  std::vector<int32_t> tokens;
  uint64_t prefix = prefix_of(client.request.prompt_token_ids);
  const auto room =
      options_.max_model_len - static_cast<int64_t>(client.request.prompt_token_ids.size());
  const int64_t limit = std::min(params.max_tokens, room);
  reason = FinishReason::kLength;
  while (static_cast<int64_t>(tokens.size()) < limit) {
    const bool may_stop = static_cast<int64_t>(tokens.size()) >= params.min_tokens;
    std::vector<int32_t> stops = params.stop_token_ids;
    if (!params.ignore_eos) {
      stops.push_back(kEos);
    }
    const int32_t token =
        next_token(prefix, params, seed, may_stop ? std::vector<int32_t>{} : stops);
    tokens.push_back(token);
    prefix = extend_prefix(prefix, token);
    if (may_stop && std::ranges::find(stops, token) != stops.end()) {
      reason = FinishReason::kStop;
      break;
    }
  }
  return tokens;
}

void Simulation::check_answers() {
  double last_start = -1;
  for (size_t i = 0; i < clients_.size(); ++i) {
    const Client& client = clients_[i];
    const bool failed = std::ranges::any_of(
        client.streams, [](const Stream& stream) { return stream.reason == FinishReason::kError; });
    if (client.first_scheduled >= 0 && client.first_scheduled < last_start) {
      fail(str_format("request {} overtook an earlier one", i + 1));
    }
    last_start = std::max(last_start, client.first_scheduled);
    totals_.forks += client.streams.size() > 1 ? 1 : 0;
    for (size_t choice = 0; choice < client.streams.size(); ++choice) {
      const Stream& stream = client.streams[choice];
      if (client.first_scheduled < 0 || (stream.tokens.empty() && !stream.finished)) {
        if (!client.aborted && !stream.cut && !failed) {
          fail(str_format("request {}, choice {}: no answer", i + 1, choice));
        }
        continue;
      }
      const bool whole = stream.finished && (stream.reason == FinishReason::kStop ||
                                             stream.reason == FinishReason::kLength);
      if (!whole && !client.aborted && !stream.cut && !failed) {
        fail(str_format("request {}, choice {}: no end", i + 1, choice));
      }
      if (stream.tokens.empty() && !whole) {
        continue;
      }
      FinishReason reason = FinishReason::kStop;
      const uint64_t seed = client.request.sampling.max_tokens == 0
                                ? 0
                                : executor_->seed_of(client.first_sequence + choice);
      const std::vector<int32_t> expected = oracle(client, seed, reason);
      const bool equal =
          whole ? stream.tokens == expected && stream.reason == reason
                : stream.tokens.size() <= expected.size() &&
                      std::equal(stream.tokens.begin(), stream.tokens.end(), expected.begin());
      if (!equal) {
        fail(str_format("request {}, choice {}: {} tokens are not the {} of the oracle", i + 1,
                        choice, stream.tokens.size(), expected.size()));
      }
      if (choice == 0 && whole && client.request.sampling.prompt_logprobs &&
          std::ranges::any_of(client.prompt_scores.begin() + 1, client.prompt_scores.end(),
                              [](int count) { return count == 0; })) {
        fail(str_format("request {}: prompt positions without a logprob", i + 1));
      }
    }
  }
}

}  // namespace atom::simulation
