// KvExecutor: an Executor that models what a KV cache holds. Every slot stores the hash of the
// token prefix that ends there, and every step reads all slots of its sequences as attention would:
// a slot that is stale, foreign or unwritten is a fault. The next token is a function of the whole
// prefix (and of the seed above temperature 0), so any schedule must give the tokens of the
// model-less oracle. Steps run in order when they are collected, as late as a device may. Drafts
// are verified as a device does it: what a rejected one left in the cache stays there. Own drafts
// (MTP) are a seeded mix of right, wrong and out-of-date guesses.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "atom/config.h"
#include "atom/model_engine/draft_stats.h"
#include "atom/model_engine/executor.h"
#include "atom/sampling_params.h"

namespace atom::simulation {

inline constexpr int32_t kVocabSize = 40;
inline constexpr int32_t kEos = 0;

uint64_t extend_prefix(uint64_t prefix, int32_t token);
uint64_t prefix_of(std::span<const int32_t> tokens);
// The "model": what follows a prefix. Now and then EOS, else one of the first `num_words` tokens;
// the fewer there are, the more often a text repeats itself.
struct Model {
  int32_t num_words = kVocabSize - 1;
  int32_t next_token(uint64_t prefix, const SamplingParams& params, uint64_t seed,
                     std::span<const int32_t> banned) const;
};

struct FaultRates {  // per step
  double submit_error = 0;
  double collect_error = 0;
  double bad_row = 0;  // one row of the step has no finite logit, and its last slot is as bad
};

struct KvExecutorOptions {
  ExecutorCapacity capacity;
  Model model;
  FaultRates faults;
  int64_t max_model_len = 0;
  SpeculativeConfig speculative;
  double right_drafts = 0;          // share of own drafts that guess right
  bool trust_stale_drafts = false;  // a bug: what a rejected draft wrote is taken for computed
  uint64_t seed = 0;
};

class KvExecutor final : public Executor {
 public:
  explicit KvExecutor(const KvExecutorOptions& options);

  ExecutorCapacity capacity() const override { return options_.capacity; }
  Status submit(const ScheduledBatch& batch) override;
  Result<StepOutput> collect() override;
  // The device lost its memory (after an error).
  void lose_memory();

  const std::string& fault() const { return fault_; }
  uint64_t seed_of(SequenceId id) const { return seeds_.at(id); }
  int64_t num_ahead() const { return num_ahead_; }  // rows that ran ahead of the host
  // Of every collected step. All accepted ones count, also behind the token that ends an answer.
  const DraftStats& drafts() const { return drafts_; }

 private:
  struct Row {  // a ScheduledSequence that outlives submit()
    ScheduledSequence scheduled;
    std::vector<int32_t> token_ids;
    std::vector<int32_t> block_table;
    std::vector<int32_t> banned;
    std::vector<int32_t> drafts;
    SamplingParams sampling;
  };
  struct Step {
    uint64_t id = 0;
    std::vector<Row> rows;
  };

  // Where in its row the newest token stands; behind it are drafts.
  static int64_t num_before_newest(const Row& row) {
    return row.scheduled.num_scheduled_tokens - 1 - static_cast<int64_t>(row.drafts.size());
  }
  void check_row(const Row& row);
  void check_drafts(const Row& row);
  void check_overlap(const Row& row, const Step& own);
  bool chance(double probability);
  void run(const Row& row, bool bad, StepOutput& output, std::vector<SampledRow>& all_rows);
  uint64_t read(const Row& row, bool& finite);
  int32_t token_at(const Row& row, int64_t position);
  void write(const Row& row, int64_t position, uint64_t content);
  int64_t verify(const Row& row, std::span<const uint64_t> contents, bool bad,
                 std::vector<SampledRow>& rows);
  void draft(const Row& row, uint64_t prefix, std::vector<int32_t>& drafts);
  void write_prompt_logprobs(const Row& row, StepOutput& output) const;
  size_t slot_index(const Row& row, int64_t position) const;
  uint64_t& slot(const Row& row, int64_t position) { return slots_[slot_index(row, position)]; }
  void report(std::string fault);

  KvExecutorOptions options_;
  std::mt19937_64 random_;
  std::vector<uint64_t> slots_;
  std::deque<Step> queue_;
  std::vector<SampledRow> last_rows_;  // of the step that ran last, with those not reached
  std::set<size_t> rejected_;          // slots that hold a rejected draft
  std::map<SequenceId, std::vector<int32_t>> last_drafts_;  // as the host was told
  std::map<SequenceId, uint64_t> seeds_;
  // Collected steps when a slot went bad, and when a sequence was first submitted: nobody who came
  // after the host knew may find a bad slot.
  std::map<size_t, uint64_t> bad_since_;
  std::map<SequenceId, uint64_t> first_seen_;
  uint64_t num_collected_ = 0;
  std::string fault_;
  int64_t num_ahead_ = 0;
  DraftStats drafts_;
};

}  // namespace atom::simulation
