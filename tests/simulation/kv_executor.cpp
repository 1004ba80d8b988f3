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

int32_t Model::next_token(uint64_t prefix, const SamplingParams& params, uint64_t seed,
                          std::span<const int32_t> banned) const {
  const uint64_t draw = params.greedy() ? mix(prefix) : mix(prefix ^ mix(seed));
  auto token = draw % kVocabSize == 0
                   ? kEos
                   : 1 + static_cast<int32_t>(mix(draw) % static_cast<uint64_t>(num_words));
  while (std::ranges::find(banned, token) != banned.end()) {
    token = (token + 1) % kVocabSize;
  }
  return token;
}

KvExecutor::KvExecutor(const KvExecutorOptions& options)
    : options_(options),
      random_(options.seed),
      slots_(static_cast<size_t>(options.capacity.num_blocks * options.capacity.block_size)) {}

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
  rejected_.clear();
  queue_.clear();
}

Status KvExecutor::submit(const ScheduledBatch& batch) {
  if (chance(options_.faults.submit_error)) {
    return make_error(ErrorCode::kInternal, "submit failed");
  }
  Step step{.id = batch.step, .rows = {}};
  int64_t num_tokens = 0;
  for (const ScheduledSequence& scheduled : batch.sequences) {
    Row row{.scheduled = scheduled,
            .token_ids = {scheduled.token_ids.begin(), scheduled.token_ids.end()},
            .block_table = {scheduled.block_table.begin(), scheduled.block_table.end()},
            .banned = {scheduled.banned_token_ids.begin(), scheduled.banned_token_ids.end()},
            .drafts = {scheduled.draft_token_ids.begin(), scheduled.draft_token_ids.end()},
            .sampling = *scheduled.sampling};
    check_row(row);
    check_drafts(row);
    if (scheduled.num_next_drafts > 0 && !batch.drafting) {
      report(str_format("step {} is to draft, and not to draft", batch.step));
    }
    check_overlap(row, step);
    num_tokens += scheduled.num_scheduled_tokens;
    seeds_[scheduled.id] = scheduled.seed;
    first_seen_.emplace(scheduled.id, num_collected_);
    num_ahead_ += scheduled.pending_row >= 0 ? 1 : 0;
    step.rows.push_back(std::move(row));
  }
  if (num_tokens != batch.num_tokens || num_tokens == 0) {
    report(str_format("step {}: {} tokens, {} claimed", batch.step, num_tokens, batch.num_tokens));
  }
  if (!fault_.empty()) {
    return make_error(ErrorCode::kInternal, "{}", fault_);  // it cannot be run
  }
  queue_.push_back(std::move(step));
  return {};
}

void KvExecutor::check_row(const Row& row) {
  const ScheduledSequence& s = row.scheduled;
  const int64_t end = s.num_computed_tokens + s.num_scheduled_tokens;
  const auto known = static_cast<int64_t>(row.token_ids.size());
  const auto room = static_cast<int64_t>(row.block_table.size()) * options_.capacity.block_size;
  if (s.num_scheduled_tokens < 1 || end > room) {
    report(str_format("sequence {}: tokens {} + {} in room for {}", s.id, s.num_computed_tokens,
                      s.num_scheduled_tokens, room));
  }
  const bool ahead = s.pending_row >= 0;
  const auto num_drafts = static_cast<int64_t>(row.drafts.size());
  const bool fits =
      num_drafts > 0 ? end == known + num_drafts && num_before_newest(row) >= 0 : end <= known;
  if (ahead ? (s.num_scheduled_tokens != 1 || s.num_computed_tokens < known) : !fits) {
    report(str_format("sequence {}: tokens {} + {} of {} known, {} drafts, pending row {}", s.id,
                      s.num_computed_tokens, s.num_scheduled_tokens, known, num_drafts,
                      s.pending_row));
  }
}

// The rules of drafts: who may have them, how many, and which.
void KvExecutor::check_drafts(const Row& row) {
  const ScheduledSequence& s = row.scheduled;
  const DraftMethod method = options_.speculative.method;
  const auto num_drafts = static_cast<int64_t>(row.drafts.size());
  const auto most = [&](bool allowed) { return allowed ? options_.speculative.num_tokens : 0; };
  for (const Step& step : queue_) {
    for (const Row& other : step.rows) {
      if (other.scheduled.id == s.id &&
          (!other.drafts.empty() || other.scheduled.num_next_drafts > 0)) {
        report(str_format("sequence {} is planned while step {} drafts for it", s.id, step.id));
      }
    }
  }
  if (num_drafts > most(method != DraftMethod::kNone) || s.num_next_drafts < 0 ||
      s.num_next_drafts > most(method == DraftMethod::kMtp)) {
    report(str_format("sequence {}: {} drafts, {} next ones", s.id, num_drafts, s.num_next_drafts));
  }
  if (num_drafts == 0 && s.num_next_drafts == 0) {
    return;
  }
  if (!s.sample || s.pending_row >= 0) {
    report(str_format("sequence {} drafts, its newest token is not computed or known", s.id));
  }
  if (num_drafts == 0) {
    return;
  }
  if (!row.banned.empty() || !s.token_bitmask.empty()) {
    report(str_format("sequence {} drafts, not all tokens are allowed", s.id));
  }
  const int64_t length = static_cast<int64_t>(row.token_ids.size()) + 1 + num_drafts;
  if (length > s.num_prompt_tokens + row.sampling.max_tokens || length > options_.max_model_len) {
    report(str_format("sequence {} may grow to {} tokens", s.id, length));
  }
  const std::vector<int32_t>& last = last_drafts_[s.id];
  if (method == DraftMethod::kMtp &&
      (row.drafts.size() > last.size() ||
       !std::ranges::equal(row.drafts, std::span(last).first(row.drafts.size())))) {
    report(str_format("sequence {} has drafts that were not made for it", s.id));
  }
  if (std::ranges::any_of(row.drafts, [](int32_t id) { return id < 0 || id >= kVocabSize; })) {
    report(str_format("sequence {} has a draft outside the vocabulary", s.id));
  }
}

// Nobody may write to a block that a step in flight uses for another sequence. Behind the newest
// token not even within a step: such a block is not full, so it is nobody else's. The drafter
// writes one slot for each draft, from the last verified token's on.
void KvExecutor::check_overlap(const Row& row, const Step& own) {
  const ScheduledSequence& s = row.scheduled;
  const int64_t end =
      s.num_computed_tokens + s.num_scheduled_tokens + std::max(s.num_next_drafts - 1, 0);
  if (end > static_cast<int64_t>(row.block_table.size()) * options_.capacity.block_size) {
    report(str_format("sequence {} drafts beyond its blocks, to {}", s.id, end));
    return;
  }
  const int64_t longest =
      std::min(s.num_prompt_tokens + row.sampling.max_tokens, options_.max_model_len);
  const auto blocks_before_last = static_cast<int64_t>(row.block_table.size()) - 1;
  if (end > longest || blocks_before_last * options_.capacity.block_size >= longest) {
    report(str_format("sequence {} of {} tokens at most writes up to {}, and has {} blocks", s.id,
                      longest, end, row.block_table.size()));
    return;
  }
  const auto uses = [&](const Step& step, int64_t first, int64_t last) {
    for (int64_t i = first; i <= last; ++i) {
      const int32_t block = row.block_table[static_cast<size_t>(i)];
      for (const Row& other : step.rows) {
        if (other.scheduled.id != s.id &&
            std::ranges::find(other.block_table, block) != other.block_table.end()) {
          report(str_format("sequence {} writes block {}, which step {} uses for sequence {}", s.id,
                            block, step.id, other.scheduled.id));
        }
      }
    }
  };
  const int64_t block_size = options_.capacity.block_size;
  const int64_t last = (end - 1) / block_size;
  for (const Step& step : queue_) {
    uses(step, s.num_computed_tokens / block_size, last);
  }
  const int64_t guessed = s.num_computed_tokens + num_before_newest(row) + 1;
  if (s.sample && end > guessed) {
    uses(own, guessed / block_size, last);
  }
}

size_t KvExecutor::slot_index(const Row& row, int64_t position) const {
  const int32_t block =
      row.block_table[static_cast<size_t>(position / options_.capacity.block_size)];
  return static_cast<size_t>(block * options_.capacity.block_size +
                             position % options_.capacity.block_size);
}

// Reads what is computed, as attention would. The prefix that it ends with.
uint64_t KvExecutor::read(const Row& row, bool& finite) {
  const ScheduledSequence& s = row.scheduled;
  // Tokens that the host did not know at submit() were sampled on the device: the newest one is a
  // row of the step before; the ones before it are already in the cache.
  uint64_t content = kEmptyPrefix;
  uint64_t truth = kEmptyPrefix;
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
    } else if (content == kUnwritten || rejected_.contains(slot_index(row, position))) {
      report(str_format("sequence {} reads an unwritten slot at position {}", s.id, position));
    }
  }
  return content;
}

int32_t KvExecutor::token_at(const Row& row, int64_t position) {
  const ScheduledSequence& s = row.scheduled;
  if (s.pending_row < 0) {
    const auto index = static_cast<size_t>(position);
    return index < row.token_ids.size() ? row.token_ids[index]
                                        : row.drafts.at(index - row.token_ids.size());
  }
  if (s.pending_row >= static_cast<int32_t>(last_rows_.size())) {
    report(str_format("sequence {}: no row {} in the step before", s.id, s.pending_row));
    return -1;
  }
  const SampledRow& source = last_rows_[static_cast<size_t>(s.pending_row)];
  if (source.id != s.id) {
    report(str_format("sequence {} continues with the token of sequence {}", s.id, source.id));
  }
  return source.token.token_id;
}

void KvExecutor::write(const Row& row, int64_t position, uint64_t content) {
  const size_t index = slot_index(row, position);
  if (rejected_.erase(index) > 0 && options_.trust_stale_drafts) {
    return;
  }
  slots_[index] = content;
  if (content == kNotANumber) {
    bad_since_[index] = num_collected_;
  }
}

void KvExecutor::run(const Row& row, bool bad, StepOutput& output,
                     std::vector<SampledRow>& all_rows) {
  const ScheduledSequence& s = row.scheduled;
  bool finite = true;
  uint64_t content = read(row, finite);
  std::vector<uint64_t> contents;
  for (int64_t i = 0; i < s.num_scheduled_tokens; ++i) {
    const int64_t position = s.num_computed_tokens + i;
    const int32_t token = token_at(row, position);
    finite &= token >= 0;
    write(row, position, finite ? extend_prefix(content, token) : kNotANumber);
    content = slot(row, position);
    contents.push_back(content);
  }
  if (!s.sample || num_before_newest(row) < 0) {
    return;
  }
  const auto newest = static_cast<size_t>(num_before_newest(row));
  const int64_t accepted = verify(row, std::span(contents).subspan(newest), bad, output.rows);
  const int32_t token = output.rows.back().token.token_id;
  all_rows.insert(all_rows.end(), output.rows.end() - 1 - accepted, output.rows.end());
  all_rows.insert(all_rows.end(), row.drafts.size() - static_cast<size_t>(accepted), {});
  draft(row, extend_prefix(contents[newest + static_cast<size_t>(accepted)], token),
        output.draft_token_ids);
}

// contents: of the newest token and the drafts. How many of these were accepted; their tokens, and
// one more, go to `rows`. A bad row comes without a number and leaves the slots from it on as bad.
int64_t KvExecutor::verify(const Row& row, std::span<const uint64_t> contents, bool bad,
                           std::vector<SampledRow>& rows) {
  const ScheduledSequence& s = row.scheduled;
  const auto num_drafts = static_cast<int64_t>(row.drafts.size());
  const int64_t newest = s.num_computed_tokens + num_before_newest(row);
  const int64_t bad_at = bad ? static_cast<int64_t>(random_() % contents.size()) : num_drafts + 1;
  int64_t accepted = 0;
  for (;; ++accepted) {
    const uint64_t content = contents[static_cast<size_t>(accepted)];
    SampledRow& sampled = rows.emplace_back();
    sampled.id = s.id;
    if (content != kNotANumber && accepted != bad_at) {
      sampled.token.token_id = options_.model.next_token(content, row.sampling, s.seed, row.banned);
    }
    if (accepted == num_drafts ||
        sampled.token.token_id != row.drafts[static_cast<size_t>(accepted)]) {
      break;
    }
  }
  for (int64_t i = accepted + 1; i <= num_drafts; ++i) {
    rejected_.insert(slot_index(row, newest + i));
  }
  for (int64_t i = bad_at; i <= num_drafts; ++i) {
    write(row, newest + i, kNotANumber);
  }
  const bool after_prompt = static_cast<int64_t>(row.token_ids.size()) > s.num_prompt_tokens;
  drafts_.num_forwards += after_prompt || s.pending_row >= 0 || num_drafts > 0 ? 1 : 0;
  drafts_.num_drafts += num_drafts > 0 ? 1 : 0;
  drafts_.num_draft_tokens += num_drafts;
  drafts_.num_accepted_tokens += accepted;
  for (int64_t i = 0; i < accepted; ++i) {
    ++drafts_.num_accepted_at[static_cast<size_t>(i)];
  }
  return accepted;
}

// Each guess is right, any token, or what was once guessed here; the next one believes it. On a
// device with faults there may be no guess.
void KvExecutor::draft(const Row& row, uint64_t prefix, std::vector<int32_t>& drafts) {
  const ScheduledSequence& s = row.scheduled;
  const std::vector<int32_t> old = std::exchange(last_drafts_[s.id], {});
  std::vector<int32_t>& guesses = last_drafts_[s.id];
  for (size_t i = 0; i < static_cast<size_t>(s.num_next_drafts); ++i) {
    auto guess = static_cast<int32_t>(random_() % kVocabSize);
    if (chance(options_.right_drafts)) {
      guess = options_.model.next_token(prefix, row.sampling, s.seed, {});
    } else if (i < old.size() && chance(0.5)) {
      guess = old[i];
    }
    guess = chance(options_.faults.bad_row) ? -1 : guess;
    guesses.push_back(guess);
    prefix = extend_prefix(prefix, guess);
  }
  drafts.insert(drafts.end(), guesses.begin(), guesses.end());
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
  if (chance(options_.faults.collect_error)) {
    return make_error(ErrorCode::kInternal, "collect failed");
  }
  StepOutput output{.step = step.id, .rows = {}, .draft_token_ids = {}, .prompt_logprobs = {}};
  const size_t bad =
      chance(options_.faults.bad_row) ? random_() % step.rows.size() : step.rows.size();
  std::vector<SampledRow> all_rows;
  for (size_t i = 0; i < step.rows.size(); ++i) {
    const Row& row = step.rows[i];
    run(row, i == bad, output, all_rows);
    if (row.sampling.prompt_logprobs) {
      write_prompt_logprobs(row, output);
    }
  }
  last_rows_ = std::move(all_rows);
  output.draft_seconds = chance(0.5) ? 1e-3 * static_cast<double>(random_() % 10) : 0;
  return output;
}

}  // namespace atom::simulation
