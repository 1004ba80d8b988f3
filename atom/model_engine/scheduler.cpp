// The planning half of Scheduler: what the next step computes. The outcome of a step is in
// scheduler_commit.cpp.
#include "atom/model_engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "atom/core/check.h"
#include "atom/core/splitmix64.h"

namespace atom {
namespace {

// With many decodes a step may hold more tokens than max_mixed_tokens: else prompts of four times
// the length of their answers would arrive faster than they are computed.
constexpr int64_t kPromptTokensPerDecode = 4;
// While others run, admission leaves one block for each of them, so that a newcomer is not
// preempted at the next block boundary; at most this share of the cache.
constexpr int64_t kMaxReserveShare = 32;

// Penalties and grammars read the sequence's own history: such a sequence waits until the host
// knows it.
bool needs_history(const Sequence& sequence) {
  return sequence.matcher || sequence.request->sampling.has_penalties();
}

}  // namespace

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)),
      blocks_({.num_blocks = options_.num_blocks,
               .block_size = options_.block_size,
               .enable_prefix_caching = options_.enable_prefix_caching,
               .salt = options_.cache_salt}) {
  ATOM_CHECK(options_.max_num_batched_tokens > 0 && options_.max_num_seqs > 0);
  ATOM_CHECK(options_.max_model_len <= options_.num_blocks * options_.block_size)
      << "a sequence of " << options_.max_model_len << " tokens must fit the cache";
  if (options_.speculative.method != DraftMethod::kNone) {
    draft_policy_.emplace(options_.speculative.num_tokens, options_.speculative.adaptive,
                          drafts_by_layer());
  }
}

Scheduler::~Scheduler() = default;

Status Scheduler::check(const GenerationRequest& request, const SchedulerOptions& options) {
  const auto refuse = [](std::string param, std::string message) -> Status {
    return std::unexpected(Error{.code = ErrorCode::kInvalidArgument,
                                 .message = std::move(message),
                                 .param = std::move(param)});
  };
  const SamplingParams& params = request.sampling;
  const auto num_prompt = static_cast<int64_t>(request.prompt_token_ids.size());
  if (num_prompt == 0) {
    return refuse("prompt", "the prompt is empty");
  }
  for (const int32_t id : request.prompt_token_ids) {
    if (id < 0 || id >= options.vocab_size) {
      return refuse("prompt", str_format("token id {} is outside the vocabulary of {}", id,
                                         options.vocab_size));
    }
  }
  if (params.n < 1 || params.max_tokens < 0) {
    return refuse(params.n < 1 ? "n" : "max_tokens", "must not be negative, and n at least 1");
  }
  if (num_prompt + std::min<int64_t>(params.max_tokens, 1) > options.max_model_len) {
    return refuse("prompt",
                  str_format("the maximum context length is {} tokens, but the prompt has {}",
                             options.max_model_len, num_prompt));
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= options.vocab_size) {
      return refuse("logit_bias", str_format("token id {} is outside the vocabulary of {}", id,
                                             options.vocab_size));
    }
  }
  return {};
}

std::unique_ptr<Request> Scheduler::make_request(RequestId id, const GenerationRequest& generation,
                                                 uint64_t seed, double now,
                                                 const SchedulerOptions& options,
                                                 const GrammarMatcher* matcher) {
  auto request = std::make_unique<Request>();
  request->id = id;
  request->sampling = generation.sampling;
  request->sibling_sampling = generation.sampling;
  request->sibling_sampling.prompt_logprobs.reset();
  request->arrival = now;
  std::vector<int32_t>& banned = request->banned_token_ids;
  if (!generation.sampling.ignore_eos) {
    banned = options.eos_token_ids;
  }
  banned.insert(banned.end(), generation.sampling.stop_token_ids.begin(),
                generation.sampling.stop_token_ids.end());
  std::erase_if(banned, [&](int32_t token) { return token < 0 || token >= options.vocab_size; });

  const auto num_prompt = static_cast<int64_t>(generation.prompt_token_ids.size());
  for (int32_t choice = 0; choice < generation.sampling.n; ++choice) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = request.get();
    sequence->choice = choice;
    sequence->seed = choice == 0 ? seed : splitmix64(seed + static_cast<uint64_t>(choice));
    sequence->token_ids = generation.prompt_token_ids;
    sequence->num_prompt_tokens = num_prompt;
    sequence->max_tokens =
        std::min(generation.sampling.max_tokens, options.max_model_len - num_prompt);
    if (matcher != nullptr) {
      sequence->matcher = matcher->fork();
    }
    request->sequences.push_back(std::move(sequence));
  }
  return request;
}

void Scheduler::add(std::unique_ptr<Request> request) {
  for (const auto& sequence : request->sequences) {
    sequence->id = next_sequence_id_++;  // all, also when one of the next lines throws
  }
  for (const auto& sequence : request->sequences) {
    waiting_.emplace(sequence->id, sequence.get());
  }
  const RequestId id = request->id;
  ATOM_CHECK(requests_.emplace(id, std::move(request)).second) << "request id " << id << " twice";
  maybe_check();
}

const ScheduledBatch& Scheduler::schedule(double now) {
  if (previous_step_had_prompt_) {
    last_prompt_latency_ = now - previous_time_;
    previous_step_had_prompt_ = false;
  }
  plan_draft_length(now);
  batch_.step = next_step_;
  batch_.sequences.clear();
  batch_.num_tokens = 0;
  planned_ = {.step = next_step_, .entries = {}};
  filled_by_one_.clear();
  num_planned_rows_ = 0;
  planned_prompt_ = false;

  int64_t budget = options_.max_num_batched_tokens;
  plan_decodes(budget);
  const size_t num_decodes = batch_.sequences.size();
  if (options_.max_mixed_tokens > 0 && batch_.num_tokens > 0) {
    const int64_t decodes = batch_.num_tokens;
    const int64_t tile = options_.row_tile;
    const int64_t tiles = ((kPromptTokensPerDecode + 1) * decodes + tile - 1) / tile;
    budget = std::min(budget, std::max(options_.max_mixed_tokens, tiles * tile) - decodes);
  }
  plan_prefills(budget);
  plan_admissions(now, budget);
  for (Sequence* sequence : filled_by_one_) {
    cache_full_blocks(*sequence);
  }

  // A prompt's part of the draft layer's cache is kept though drafts are given up: they may pay
  // with another load, and the prefix cache may give it to others.
  batch_.drafting = keep_drafting_ || (drafts_by_layer() && planned_prompt_);
  mark_behind();
  measured_.valid = num_decodes > 0 && batch_.sequences.size() == num_decodes;
  measured_.started = now;
  if (!batch_.sequences.empty()) {
    ++next_step_;
    ++stats_.num_steps;
    previous_time_ = now;
    previous_step_had_prompt_ = planned_prompt_;
    in_flight_.push_back(std::move(planned_));
  }
  maybe_check();
  return batch_;
}

void Scheduler::plan_decodes(int64_t& budget) {
  // make_room() only removes sequences behind the current one; each of these may need a token.
  int64_t for_drafts = budget_for_drafts(budget);
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.num_remaining_tokens() == 1 && is_runnable(sequence) && make_room(sequence)) {
      settle_drafts(sequence, for_drafts);
      for_drafts -= static_cast<int64_t>(sequence.draft_token_ids.size());
      plan(sequence, 1, budget);
    }
  }
}

void Scheduler::plan_prefills(int64_t& budget) {
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.num_remaining_tokens() > 1) {
      plan(sequence, std::min(sequence.num_remaining_tokens(), budget), budget);
    }
  }
}

void Scheduler::plan_admissions(double now, int64_t& budget) {
  if (waiting_.empty() || !delay_passed(now)) {
    return;
  }
  while (!waiting_.empty() && budget > 0 && !is_full()) {
    Sequence& sequence = *waiting_.begin()->second;
    // A preempted sequence first gets the tokens that are on their way.
    if (sequence.in_flight > 0 || must_wait_for_sibling(sequence) || !admit(sequence)) {
      return;
    }
    waiting_.erase(waiting_.begin());
    sequence.state = SequenceState::kRunning;
    running_.insert(std::ranges::upper_bound(running_, sequence.id, {}, &Sequence::id), &sequence);
    Request& request = *sequence.request;
    if (request.first_scheduled < 0) {
      request.first_scheduled = now;
      request.num_cached_tokens = sequence.num_computed_tokens;
      stats_.prompt_tokens += sequence.num_prompt_tokens;
      stats_.cached_prompt_tokens += sequence.num_computed_tokens;
    }
    plan(sequence, std::min(sequence.num_remaining_tokens(), budget), budget);
  }
}

bool Scheduler::is_full() const {
  // Every running sequence can then get at least one token per step.
  const int64_t most = std::min(options_.max_num_seqs, options_.max_num_batched_tokens);
  return static_cast<int64_t>(running_.size()) >= most;
}

bool Scheduler::is_runnable(const Sequence& sequence) const {
  if (sequence.prompt_computed() && sequence.num_generated_tokens() >= sequence.max_tokens) {
    return false;  // its last token is on the way
  }
  if (sequence.num_pending_tokens == 0) {
    return true;
  }
  return sequence.last_step + 1 == next_step_ && !needs_history(sequence) && !draft_policy_;
}

bool Scheduler::make_room(Sequence& sequence) {
  const auto capacity = static_cast<int64_t>(sequence.block_table.size()) * options_.block_size;
  if (sequence.num_computed_tokens < capacity) {
    return true;
  }
  while (blocks_.num_free() == 0) {
    Sequence& latest = *running_.back();
    if (num_deferred_blocks_ > 0 || &latest == &sequence) {
      return false;  // blocks come back when a step is collected or an older sequence ends
    }
    preempt(latest);
  }
  sequence.block_table.push_back(blocks_.allocate());
  return true;
}

void Scheduler::preempt(Sequence& sequence) {
  ATOM_CHECK(running_.back() == &sequence) << "only the latest arrival is preempted";
  running_.pop_back();
  sequence.state = SequenceState::kWaiting;
  waiting_.emplace(sequence.id, &sequence);
  give_back_blocks(sequence);
  ++stats_.num_preemptions;
}

bool Scheduler::delay_passed(double now) {
  // vLLM's rule: hold admission back for a multiple of the last prompt step's duration, so that
  // prompts gather into one step, unless nothing runs.
  return options_.delay_factor <= 0 || running_.empty() ||
         now - waiting_.begin()->second->request->arrival >
             options_.delay_factor * last_prompt_latency_;
}

bool Scheduler::must_wait_for_sibling(const Sequence& sequence) const {
  return std::ranges::any_of(sequence.request->sequences, [&](const auto& other) {
    return other.get() != &sequence && other->state == SequenceState::kRunning &&
           !other->prompt_computed();
  });
}

const Sequence* Scheduler::donor_of(const Sequence& sequence) const {
  for (const auto& other : sequence.request->sequences) {
    if (other.get() != &sequence && other->state == SequenceState::kRunning &&
        other->prompt_computed()) {
      return other.get();
    }
  }
  return nullptr;
}

bool Scheduler::admit(Sequence& sequence) {
  const int64_t known = sequence.num_known_tokens();
  // At least the last token is computed: its logits are wanted. What a draft layer keeps of a
  // token depends on the one after it, so a block is as it should be only when it has a successor.
  const int64_t max_shared = (known - 1) / options_.block_size;
  BlockManager::Match match;
  if (!sequence.request->sampling_of(sequence).prompt_logprobs) {
    if (blocks_.prefix_caching()) {
      match = blocks_.match_prefix(sequence.token_ids, max_shared);
      if (drafts_by_layer() && !match.blocks.empty()) {
        match =
            blocks_.match_prefix(sequence.token_ids, static_cast<int64_t>(match.blocks.size()) - 1);
      }
    } else if (const Sequence* donor = donor_of(sequence)) {
      const int64_t shared =
          std::min(max_shared, (sequence.num_prompt_tokens - (drafts_by_layer() ? 1 : 0)) /
                                   options_.block_size);
      match.blocks.assign(donor->block_table.begin(), donor->block_table.begin() + shared);
    }
  }
  const auto num_shared = static_cast<int64_t>(match.blocks.size());
  const int64_t num_new = blocks_.blocks_for(known) - num_shared;
  const int64_t reserve =
      std::min(static_cast<int64_t>(running_.size()), 1 + options_.num_blocks / kMaxReserveShare);
  if (blocks_.num_free() < num_new + match.num_unreferenced + reserve) {
    return false;
  }
  sequence.draft_token_ids.clear();
  sequence.draft_layer_behind = false;
  blocks_.acquire(match.blocks);
  sequence.block_table = std::move(match.blocks);
  for (int64_t i = 0; i < num_new; ++i) {
    sequence.block_table.push_back(blocks_.allocate());
  }
  sequence.chain = match.chain;
  sequence.num_computed_tokens = num_shared * options_.block_size;
  if (blocks_.prefix_caching()) {
    stats_.prefix_cache_queries += known;
    stats_.prefix_cache_hits += sequence.num_computed_tokens;
  }
  return true;
}

void Scheduler::plan(Sequence& sequence, int64_t num_tokens, int64_t& budget) {
  const bool newest = num_tokens == sequence.num_remaining_tokens();
  const bool sample = newest && sequence.max_tokens > 0;
  const auto num_drafts = static_cast<int64_t>(sequence.draft_token_ids.size());
  const int num_next = sample ? num_next_drafts(sequence) : 0;
  const Request& request = *sequence.request;
  std::span<const int32_t> banned;
  if (sequence.num_generated_tokens() < request.sampling.min_tokens) {
    banned = request.banned_token_ids;
    if (sequence.matcher && !sequence.matcher->allows_other_than(banned)) {
      banned = {};  // the text cannot be made longer
    }
  }
  batch_.sequences.push_back(
      {.id = sequence.id,
       .token_ids = sequence.token_ids,
       .pending_row = sequence.num_pending_tokens > 0 ? sequence.last_row : -1,
       .num_prompt_tokens = sequence.num_prompt_tokens,
       .num_computed_tokens = sequence.num_computed_tokens,
       .num_scheduled_tokens = num_tokens + num_drafts,
       .draft_token_ids = sequence.draft_token_ids,
       .num_next_drafts = num_next,
       .block_table = sequence.block_table,
       .sample = sample,
       .sampling = &request.sampling_of(sequence),
       .seed = sequence.seed,
       .banned_token_ids = banned,
       .token_bitmask = sequence.matcher ? sequence.matcher->mask() : std::span<const uint32_t>()});
  batch_.num_tokens += num_tokens + num_drafts;
  budget -= num_tokens + num_drafts;

  const bool in_prompt = !sequence.prompt_computed();
  planned_prompt_ |= in_prompt;
  sequence.num_computed_tokens += num_tokens;
  ++sequence.in_flight;
  planned_.entries.push_back({.sequence = &sequence,
                              .sample = sample,
                              .ends_prompt = in_prompt && sequence.prompt_computed(),
                              .num_drafts = static_cast<int>(num_drafts),
                              .num_next_drafts = num_next});
  if (sample) {
    ++sequence.num_pending_tokens;
    sequence.last_step = batch_.step;
    sequence.last_row = num_planned_rows_++;
  }
  if (num_tokens > 1) {
    cache_full_blocks(sequence);
  } else {
    filled_by_one_.push_back(&sequence);
  }
}

void Scheduler::cache_full_blocks(Sequence& sequence) {
  const int64_t usable = std::min(sequence.num_computed_tokens, sequence.num_known_tokens());
  if (usable / options_.block_size > sequence.chain.num_blocks) {
    blocks_.cache_full_blocks(sequence.block_table,
                              std::span(sequence.token_ids).first(static_cast<size_t>(usable)),
                              sequence.chain);
  }
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.num_running = static_cast<int64_t>(running_.size());
  stats.num_waiting = static_cast<int64_t>(waiting_.size());
  stats.num_free_blocks = blocks_.num_free();
  return stats;
}

}  // namespace atom
