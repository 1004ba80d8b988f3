// Simulation: one seeded life of a Scheduler: random limits, arrivals, aborts, stop strings, device
// faults and run-ahead, against a KvExecutor. Checks every rule of model_engine/README.md after
// every step and every answer against the oracle. The same seed gives the same life.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "atom/model_engine/scheduler.h"
#include "tests/simulation/kv_executor.h"

namespace atom::simulation {

// Bugs for the negative controls, put between scheduler and device or into the answers: each must
// be found.
enum class Sabotage {
  kNone,
  kSwapBlocks,     // two blocks of a table change places
  kSkipToken,      // one token more is claimed to be computed
  kForeignBlock,   // a block of another sequence
  kStaleRow,       // the pending token is read from the wrong row
  kWrongToken,     // a sampled token changes on its way to the host
  kLostUpdate,     // an update does not reach the output side
  kDoubledUpdate,  // or twice
  kKeepMemory,     // the device forgets its cache and the scheduler is not told
  kWrongAccept,    // a rejected draft is reported as accepted
  kStaleDraftKv,   // what a rejected draft left in the cache is taken for computed
  kLostDraftRow,   // the row of an accepted draft does not reach the host
  kMixedDrafts,    // drafts reach the wrong sequences
};

struct Totals {  // what a series of lives has exercised
  int64_t steps = 0, tokens = 0, preemptions = 0, cache_hits = 0, aborts = 0, failures = 0,
          bad_rows = 0;
  int64_t ahead = 0, forks = 0, lost_memories = 0;
  int64_t drafts[3] = {}, accepted[3] = {};  // tokens, by DraftMethod
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed, Sabotage sabotage = Sabotage::kNone);
  // Runs to the end; the first fault found, or empty.
  std::string run(Totals& totals);

 private:
  struct Stream {  // of one choice
    std::vector<int32_t> tokens;
    bool finished = false;
    bool cut = false;  // by the output side
    FinishReason reason = FinishReason::kStop;
  };
  struct Client {
    GenerationRequest request;
    uint64_t seed = 0;
    bool added = false, aborted = false;
    std::vector<Stream> streams;
    std::vector<int> prompt_scores;  // how often each position was scored
    double first_scheduled = -1;
    SequenceId first_sequence = 0;
  };

  void make_options();
  void make_clients();
  GenerationRequest make_request();
  void arrivals_and_departures();
  bool advance();  // false: nothing to do
  void sabotage_batch(ScheduledBatch& batch);
  void sabotage_output(StepOutput& output);
  void check_found_drafts(const ScheduledBatch& batch);
  void check_stats(const SchedulerStats& stats);
  void device_failed();
  // Calls the scheduler; in some lives an allocation within it fails. False when one did.
  template <class Call>
  bool guarded(Call call);
  void memory_failed();
  void take(std::vector<SequenceUpdate>&& updates);
  void check_answers();
  std::vector<int32_t> oracle(const Client& client, uint64_t seed, FinishReason& reason) const;
  void fail(std::string fault);

  int64_t pick(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(double probability) {
    return std::uniform_real_distribution<>()(random_) < probability;
  }

  std::mt19937_64 random_;
  Sabotage sabotage_;
  int64_t sabotage_at_ = 0;
  SchedulerOptions options_;
  KvExecutorOptions device_;
  double no_memory_ = 0;  // per call of the scheduler
  std::vector<std::vector<int32_t>> prefixes_;
  std::vector<Client> clients_;
  size_t num_added_ = 0;
  double time_ = 0;
  int64_t num_steps_ = 0;
  int64_t max_steps_ = 0;
  Totals totals_;
  std::string fault_;
  std::vector<std::vector<int32_t>> tables_;  // sabotaged copies that the batch points to
  std::deque<std::map<SequenceId, std::vector<int32_t>>> drafts_;  // of the steps in flight
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<KvExecutor> executor_;
};

}  // namespace atom::simulation
