// When the scheduler keeps the draft layer's cache: while drafts pay, and of prompts always.
#include <gtest/gtest.h>

#include "atom/model_engine/scheduler.h"

namespace atom {
namespace {

class SchedulerDrafts : public testing::Test {
 protected:
  SchedulerDrafts() : scheduler_(options()) {}

  static SchedulerOptions options() {
    return {.max_num_batched_tokens = 16,
            .max_num_seqs = 4,
            .max_model_len = 1024,
            .num_blocks = 1024,
            .block_size = 4,
            .vocab_size = 100,
            .speculative = {.method = DraftMethod::kMtp, .num_tokens = 2},
            .check_invariants = true};
  }
  void add(RequestId id, size_t num_tokens, int64_t max_tokens) {
    const GenerationRequest request{
        .prompt_token_ids = std::vector<int32_t>(num_tokens, static_cast<int32_t>(id)),
        .sampling = {.max_tokens = max_tokens}};
    scheduler_.add(Scheduler::make_request(id, request, id, 0, options()));
  }
  // Drafts are wrong, and steps with them take three times as long.
  ScheduledBatch step() {
    const ScheduledBatch batch = scheduler_.schedule(0);
    StepOutput output{.step = batch.step, .rows = {}, .draft_token_ids = {}, .prompt_logprobs = {}};
    output.seconds = 1;
    for (const ScheduledSequence& s : batch.sequences) {
      if (s.sample) {
        output.rows.push_back({.id = s.id, .token = {.token_id = 7}});
        output.draft_token_ids.insert(output.draft_token_ids.end(),
                                      static_cast<size_t>(s.num_next_drafts), 9);
      }
      output.seconds = s.draft_token_ids.empty() ? output.seconds : 3;
    }
    std::vector<SequenceUpdate> updates;
    EXPECT_TRUE(scheduler_.commit(std::move(output), updates));
    return batch;
  }

  Scheduler scheduler_;
};

TEST_F(SchedulerDrafts, PromptsAreKeptForTheDraftLayerWhenDraftsAreGivenUp) {
  add(1, 3, 900);
  int steps = 0;
  while (step().drafting) {
    ASSERT_LT(++steps, 200);
  }
  std::vector<SequenceUpdate> updates;
  scheduler_.abort(1, updates);
  add(2, 40, 5);
  for (const int64_t count : {16, 16, 8}) {
    const ScheduledBatch batch = step();
    EXPECT_EQ(batch.num_tokens, count);
    EXPECT_TRUE(batch.drafting);
    EXPECT_EQ(batch.sequences[0].num_next_drafts, 0);
  }
  EXPECT_FALSE(step().drafting);
}

}  // namespace
}  // namespace atom
