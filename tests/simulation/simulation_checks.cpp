// What a Simulation demands: of the blocks that drafts are written to, of the statistics, and of
// every answer. Rules that the device can see are in kv_executor.cpp.
#include <algorithm>

#include "tests/simulation/simulation.h"

namespace atom::simulation {

// A block with a slot behind the newest token is not to be found under what was guessed.
void Simulation::check_found_drafts(const ScheduledBatch& batch) {
  for (const ScheduledSequence& s : batch.sequences) {
    if (s.draft_token_ids.empty()) {
      continue;
    }
    std::vector<int32_t> tokens(s.token_ids.begin(), s.token_ids.end());
    tokens.insert(tokens.end(), s.draft_token_ids.begin(), s.draft_token_ids.end());
    const BlockManager::Match match =
        scheduler_->blocks().match_prefix(tokens, static_cast<int64_t>(s.block_table.size()));
    const size_t full = s.token_ids.size() / static_cast<size_t>(options_.block_size);
    for (size_t i = full; i < match.blocks.size(); ++i) {
      if (match.blocks[i] == s.block_table[i]) {
        fail(str_format("sequence {}: a block of drafts can be found", s.id));
      }
    }
  }
}

// What the scheduler counts is what the device saw.
void Simulation::check_stats(const SchedulerStats& stats) {
  const DraftStats& counted = stats.drafts;
  const DraftStats& seen = executor_->drafts();
  int64_t accepted = 0;
  for (size_t i = 0; i < counted.num_accepted_at.size(); ++i) {
    accepted += counted.num_accepted_at[i];
    if (counted.num_accepted_at[i] > seen.num_accepted_at[i] ||
        (i > 0 && counted.num_accepted_at[i] > counted.num_accepted_at[i - 1])) {
      fail(str_format("{} drafts with token {} accepted", counted.num_accepted_at[i], i));
    }
  }
  if (accepted != counted.num_accepted_tokens || accepted > counted.num_draft_tokens) {
    fail(str_format("{} of {} draft tokens accepted, by position {}", counted.num_accepted_tokens,
                    counted.num_draft_tokens, accepted));
  }
  if (counted.num_drafts > seen.num_drafts || counted.num_draft_tokens > seen.num_draft_tokens ||
      counted.num_forwards > seen.num_forwards || counted.num_drafts > counted.num_forwards) {
    fail(str_format("{} forwards and {} drafts of {} tokens were counted, there were {}, {} of {}",
                    counted.num_forwards, counted.num_drafts, counted.num_draft_tokens,
                    seen.num_forwards, seen.num_drafts, seen.num_draft_tokens));
  }
  // A step whose outcome the scheduler had no memory to take is counted by the device only.
  if (totals_.lost_memories == 0 &&
      (counted.num_drafts != seen.num_drafts || counted.num_draft_tokens != seen.num_draft_tokens ||
       counted.num_accepted_at != seen.num_accepted_at)) {
    fail(str_format("{} of {} draft tokens were counted, {} of {} accepted ones",
                    counted.num_draft_tokens, seen.num_draft_tokens, counted.num_accepted_tokens,
                    seen.num_accepted_tokens));
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
        device_.model.next_token(prefix, params, seed, may_stop ? std::vector<int32_t>{} : stops);
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
