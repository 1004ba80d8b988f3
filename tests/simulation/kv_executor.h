// KvExecutor: an Executor that models what a KV cache holds. Every slot stores the hash of the
// token prefix that ends there, and every step reads all slots of its sequences as attention would:
// a slot that is stale, foreign or unwritten is a fault. The next token is a function of the whole
// prefix (and of the seed above temperature 0), so any schedule must give the tokens of the
// model-less oracle. Steps run in order when they are collected, as late as a device may.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "atom/model_engine/executor.h"
#include "atom/sampling_params.h"

namespace atom::simulation {

inline constexpr int32_t kVocabSize = 40;
inline constexpr int32_t kEos = 0;

uint64_t extend_prefix(uint64_t prefix, int32_t token);
uint64_t prefix_of(std::span<const int32_t> tokens);
// The "model": what follows a prefix.
int32_t next_token(uint64_t prefix, const SamplingParams& params, uint64_t seed,
                   std::span<const int32_t> banned);

struct FaultRates {  // per step
  double submit_error = 0;
  double collect_error = 0;
  double bad_row = 0;  // one row of the step has no finite logit, and its last slot is as bad
};

class KvExecutor final : public Executor {
 public:
  KvExecutor(const ExecutorCapacity& capacity, const FaultRates& faults, uint64_t seed);

  ExecutorCapacity capacity() const override { return capacity_; }
  Status submit(const ScheduledBatch& batch) override;
  Result<StepOutput> collect() override;
  // The device lost its memory (after an error).
  void lose_memory();

  const std::string& fault() const { return fault_; }
  uint64_t seed_of(SequenceId id) const { return seeds_.at(id); }
  int64_t num_ahead() const { return num_ahead_; }  // rows that ran ahead of the host

 private:
  struct Row {  // a ScheduledSequence that outlives submit()
    ScheduledSequence scheduled;
    std::vector<int32_t> token_ids;
    std::vector<int32_t> block_table;
    std::vector<int32_t> banned;
    SamplingParams sampling;
  };
  struct Step {
    uint64_t id = 0;
    std::vector<Row> rows;
  };

  void check_row(const Row& row);
  void check_overlap(const Row& row);
  bool chance(double probability);
  SampledRow run(Row& row);
  void write_prompt_logprobs(const Row& row, StepOutput& output) const;
  size_t slot_index(const Row& row, int64_t position) const;
  uint64_t& slot(const Row& row, int64_t position) { return slots_[slot_index(row, position)]; }
  void report(std::string fault);

  ExecutorCapacity capacity_;
  FaultRates faults_;
  std::mt19937_64 random_;
  std::vector<uint64_t> slots_;
  std::deque<Step> queue_;
  std::vector<SampledRow> last_rows_;  // of the step that ran last
  std::map<SequenceId, uint64_t> seeds_;
  // Collected steps when a slot went bad, and when a sequence was first submitted: nobody who came
  // after the host knew may find a bad slot.
  std::map<size_t, uint64_t> bad_since_;
  std::map<SequenceId, uint64_t> first_seen_;
  uint64_t num_collected_ = 0;
  std::string fault_;
  int64_t num_ahead_ = 0;
};

}  // namespace atom::simulation
