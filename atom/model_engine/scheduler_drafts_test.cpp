// What drafts may take of a step, and when the draft layer's cache is kept: while drafts pay, and
// of prompts always.
#include <gtest/gtest.h>

#include <optional>

#include "atom/model_engine/scheduler.h"

namespace atom {
namespace {

class SchedulerDrafts : public testing::Test {
 protected:
  void start(const SpeculativeConfig& speculative) {
    options_.speculative = speculative;
    scheduler_.emplace(options_);
  }
  void add(RequestId id, size_t num_tokens, int64_t max_tokens) {
    const GenerationRequest request{
        .prompt_token_ids = std::vector<int32_t>(num_tokens, static_cast<int32_t>(id)),
        .sampling = {.max_tokens = max_tokens}};
    scheduler_->add(Scheduler::make_request(id, request, id, 0, options_));
  }
  // Every sequence says 7; steps with drafts take three times as long.
  ScheduledBatch step() {
    const ScheduledBatch batch = scheduler_->schedule(0);
    StepOutput output{.step = batch.step, .rows = {}, .draft_token_ids = {}, .prompt_logprobs = {}};
    output.seconds = 1;
    for (const ScheduledSequence& s : batch.sequences) {
      if (s.sample) {
        for (size_t i = 0; i <= s.draft_token_ids.size(); ++i) {
          output.rows.push_back({.id = s.id, .token = {.token_id = 7}});
          if (i < s.draft_token_ids.size() && s.draft_token_ids[i] != 7) {
            break;
          }
        }
        output.draft_token_ids.insert(output.draft_token_ids.end(),
                                      static_cast<size_t>(s.num_next_drafts), 9);
      }
      output.seconds = s.draft_token_ids.empty() ? output.seconds : 3;
    }
    std::vector<SequenceUpdate> updates;
    EXPECT_TRUE(scheduler_->commit(std::move(output), updates));
    return batch;
  }

  SchedulerOptions options_ = {.max_num_batched_tokens = 16,
                               .max_num_seqs = 4,
                               .max_model_len = 1024,
                               .num_blocks = 1024,
                               .block_size = 4,
                               .vocab_size = 100,
                               .check_invariants = true};
  std::optional<Scheduler> scheduler_;
};

TEST_F(SchedulerDrafts, PromptsAreKeptForTheDraftLayerWhenDraftsAreGivenUp) {
  start({.method = DraftMethod::kMtp, .num_tokens = 2});
  add(1, 3, 900);
  int steps = 0;
  while (step().drafting) {
    ASSERT_LT(++steps, 200);
  }
  std::vector<SequenceUpdate> updates;
  scheduler_->abort(1, updates);
  add(2, 40, 5);
  for (const int64_t count : {16, 16, 8}) {
    const ScheduledBatch batch = step();
    EXPECT_EQ(batch.num_tokens, count);
    EXPECT_TRUE(batch.drafting);
    EXPECT_EQ(batch.sequences[0].num_next_drafts, 0);
  }
  EXPECT_FALSE(step().drafting);
}

// A text that repeats itself would fill every step with its drafts.
TEST_F(SchedulerDrafts, PromptsGetHalfOfWhatDecodesLeave) {
  start({.method = DraftMethod::kNgram, .num_tokens = kMaxDraftTokens, .adaptive = false});
  add(7, 10, 900);  // token 7, again and again
  step();
  EXPECT_EQ(step().sequences[0].draft_token_ids.size(), 15U);
  add(2, 100, 5);
  for (int i = 0; i < 8; ++i) {
    const ScheduledBatch batch = step();
    ASSERT_EQ(batch.sequences.size(), 2U) << i;
    EXPECT_GE(batch.sequences[1].num_scheduled_tokens, 8) << i;
    EXPECT_GE(batch.sequences[0].draft_token_ids.size(), 7U) << i;
  }
}

}  // namespace
}  // namespace atom
