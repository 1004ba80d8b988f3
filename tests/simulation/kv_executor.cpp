#include "tests/simulation/kv_executor.h"

#include <algorithm>
#include <utility>

namespace atom::simulation {
namespace {

constexpr uint64_t kUnwritten = 0;
constexpr uint64_t kNotANumber = 1;
constexpr uint64_t kEmptyPrefix = 0x1234567;

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t extend_prefix(uint64_t prefix, int32_t token) {
  return mix(prefix + 0x9e3779b97f4a7c15ULL * (static_cast<uint64_t>(token) + 2)) | 2;
}

uint64_t prefix_of(std::span<const int32_t> tokens) {
  uint64_t prefix = kEmptyPrefix;
  for (const int32_t token : tokens) {
    prefix = extend_prefix(prefix, token);
  }
  return prefix;
}

int32_t next_token(uint64_t prefix, const SamplingParams& params, uint64_t seed,
                   std::span<const int32_t> banned) {
  const uint64_t draw = params.greedy() ? mix(prefix) : mix(prefix ^ mix(seed));
  auto token = static_cast<int32_t>(draw % kVocabSize);
  while (std::ranges::find(banned, token) != banned.end()) {
    token = (token + 1) % kVocabSize;
  }
  return token;
}

KvExecutor::KvExecutor(const ExecutorCapacity& capacity, const FaultRates& faults, uint64_t seed)
    : capacity_(capacity),
      faults_(faults),
      random_(seed),
      slots_(static_cast<size_t>(capacity.num_blocks * capacity.block_size)) {}

bool KvExecutor::chance(double probability) {
  return probability > 0 && std::uniform_real_distribution<>()(random_) < probability;
}

void KvExecutor::report(std::string fault) {
  if (fault_.empty()) {
    fault_ = std::move(fault);
  }
}

void KvExecutor::lose_memory() {
  std::ranges::fill(slots_, kUnwritten);
  queue_.clear();
}

Status KvExecutor::submit(const ScheduledBatch& batch) {
  if (chance(faults_.submit_error)) {
    return make_error(ErrorCode::kInternal, "submit failed");
  }
  Step step{.id = batch.step, .rows = {}};
  int64_t num_tokens = 0;
  for (const ScheduledSequence& scheduled : batch.sequences) {
    Row row{.scheduled = scheduled,
            .token_ids = {scheduled.token_ids.begin(), scheduled.token_ids.end()},
            .block_table = {scheduled.block_table.begin(), scheduled.block_table.end()},
            .banned = {scheduled.banned_token_ids.begin(), scheduled.banned_token_ids.end()},
            .sampling = *scheduled.sampling};
    check_row(row);
    check_overlap(row);
    num_tokens += scheduled.num_scheduled_tokens;
    seeds_[scheduled.id] = scheduled.seed;
    first_seen_.emplace(scheduled.id, num_collected_);
    num_ahead_ += scheduled.pending_row >= 0 ? 1 : 0;
    step.rows.push_back(std::move(row));
  }
  if (num_tokens != batch.num_tokens || num_tokens == 0) {
    report(str_format("step {}: {} tokens, {} claimed", batch.step, num_tokens, batch.num_tokens));
  }
  queue_.push_back(std::move(step));
  return {};
}

void KvExecutor::check_row(const Row& row) {
  const ScheduledSequence& s = row.scheduled;
  const int64_t end = s.num_computed_tokens + s.num_scheduled_tokens;
  const auto known = static_cast<int64_t>(row.token_ids.size());
  const auto room = static_cast<int64_t>(row.block_table.size()) * capacity_.block_size;
  if (s.num_scheduled_tokens < 1 || end > room) {
    report(str_format("sequence {}: tokens {} + {} in room for {}", s.id, s.num_computed_tokens,
                      s.num_scheduled_tokens, room));
  }
  const bool ahead = s.pending_row >= 0;
  if (ahead ? (s.num_scheduled_tokens != 1 || s.num_computed_tokens < known) : end > known) {
    report(str_format("sequence {}: tokens {} + {} of {} known, pending row {}", s.id,
                      s.num_computed_tokens, s.num_scheduled_tokens, known, s.pending_row));
  }
}

// Nobody may write to a block that a step in flight uses for another sequence.
void KvExecutor::check_overlap(const Row& row) {
  const ScheduledSequence& s = row.scheduled;
  const int64_t first = s.num_computed_tokens / capacity_.block_size;
  const int64_t last = (s.num_computed_tokens + s.num_scheduled_tokens - 1) / capacity_.block_size;
  for (int64_t i = first; i <= last && i < static_cast<int64_t>(row.block_table.size()); ++i) {
    const int32_t block = row.block_table[static_cast<size_t>(i)];
    for (const Step& step : queue_) {
      for (const Row& other : step.rows) {
        if (other.scheduled.id != s.id &&
            std::ranges::find(other.block_table, block) != other.block_table.end()) {
          report(str_format("sequence {} writes block {}, which step {} uses for sequence {}", s.id,
                            block, step.id, other.scheduled.id));
        }
      }
    }
  }
}

size_t KvExecutor::slot_index(const Row& row, int64_t position) const {
  const int32_t block = row.block_table[static_cast<size_t>(position / capacity_.block_size)];
  return static_cast<size_t>(block * capacity_.block_size + position % capacity_.block_size);
}

SampledRow KvExecutor::run(Row& row) {
  const ScheduledSequence& s = row.scheduled;
  // Tokens that the host did not know at submit() were sampled on the device: the newest one is a
  // row of the step before; the ones before it are already in the cache.
  uint64_t content = kEmptyPrefix;
  uint64_t truth = kEmptyPrefix;
  bool finite = true;
  for (int64_t position = 0; position < s.num_computed_tokens; ++position) {
    content = slot(row, position);
    if (content == kNotANumber) {
      finite = false;
      if (bad_since_[slot_index(row, position)] <= first_seen_[s.id]) {
        report(
            str_format("sequence {} finds what a failed one left at position {}", s.id, position));
      }
    }
    if (position < static_cast<int64_t>(row.token_ids.size())) {
      truth = extend_prefix(truth, row.token_ids[static_cast<size_t>(position)]);
      if (content != truth && content != kNotANumber) {
        report(str_format("sequence {} reads a wrong slot at position {}", s.id, position));
      }
    } else if (content == kUnwritten) {
      report(str_format("sequence {} reads an unwritten slot at position {}", s.id, position));
    }
  }
  for (int64_t i = 0; i < s.num_scheduled_tokens; ++i) {
    const int64_t position = s.num_computed_tokens + i;
    int32_t token = -1;
    if (s.pending_row < 0) {
      token = row.token_ids[static_cast<size_t>(position)];
    } else if (s.pending_row < static_cast<int32_t>(last_rows_.size())) {
      const SampledRow& source = last_rows_[static_cast<size_t>(s.pending_row)];
      token = source.token.token_id;
      if (source.id != s.id) {
        report(str_format("sequence {} continues with the token of sequence {}", s.id, source.id));
      }
    } else {
      report(str_format("sequence {}: no row {} in the step before", s.id, s.pending_row));
    }
    finite &= token >= 0;
    content = finite ? extend_prefix(content, token) : kNotANumber;
    slot(row, position) = content;
    if (!finite) {
      bad_since_[slot_index(row, position)] = num_collected_;
    }
  }
  SampledRow result{.id = s.id, .token = {}};
  if (finite) {
    result.token.token_id = next_token(content, row.sampling, s.seed, row.banned);
  }
  return result;
}

void KvExecutor::write_prompt_logprobs(const Row& row, StepOutput& output) const {
  const ScheduledSequence& s = row.scheduled;
  PromptLogprobRows rows{.id = s.id, .first_position = s.num_computed_tokens + 1, .logprobs = {}};
  for (int64_t i = 0; i < s.num_scheduled_tokens && rows.first_position + i < s.num_prompt_tokens;
       ++i) {
    rows.logprobs.push_back(
        {.logprob = static_cast<float>(rows.first_position + i), .rank = 1, .top = {}});
  }
  output.prompt_logprobs.push_back(std::move(rows));
}

Result<StepOutput> KvExecutor::collect() {
  if (queue_.empty()) {
    return make_error(ErrorCode::kInternal, "nothing to collect");
  }
  ++num_collected_;
  Step step = std::move(queue_.front());
  queue_.pop_front();
  if (chance(faults_.collect_error)) {
    return make_error(ErrorCode::kInternal, "collect failed");
  }
  StepOutput output{.step = step.id, .rows = {}, .draft_token_ids = {}, .prompt_logprobs = {}};
  const size_t bad = chance(faults_.bad_row) ? random_() % step.rows.size() : step.rows.size();
  for (size_t i = 0; i < step.rows.size(); ++i) {
    Row& row = step.rows[i];
    SampledRow sampled = run(row);
    if (i == bad && row.scheduled.sample) {
      sampled.token.token_id = -1;
      const size_t last = slot_index(
          row, row.scheduled.num_computed_tokens + row.scheduled.num_scheduled_tokens - 1);
      slots_[last] = kNotANumber;
      bad_since_[last] = num_collected_;
    }
    if (row.sampling.prompt_logprobs) {
      write_prompt_logprobs(row, output);
    }
    if (row.scheduled.sample) {
      output.rows.push_back(std::move(sampled));
    }
  }
  last_rows_ = output.rows;
  return output;
}

}  // namespace atom::simulation
