// The policy of the scheduler, case by case; that any schedule gives right answers is
// tests/simulation.
#include "atom/model_engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace atom {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

class SchedulerTest : public testing::Test {
 protected:
  void start(SchedulerOptions options) {
    options.vocab_size = 1000;
    options.eos_token_ids = {0};
    options.check_invariants = true;
    options_ = options;
    scheduler_ = std::make_unique<Scheduler>(options);
    updates_.clear();
  }
  void add(RequestId id, std::vector<int32_t> prompt, SamplingParams params = {.max_tokens = 50}) {
    const GenerationRequest request{.prompt_token_ids = std::move(prompt),
                                    .sampling = std::move(params)};
    ASSERT_TRUE(Scheduler::check(request, options_));
    scheduler_->add(Scheduler::make_request(id, request, id, now_, options_));
  }
  static std::vector<int32_t> prompt(size_t length, int32_t first = 1) {
    std::vector<int32_t> tokens(length);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  }
  // (sequence, tokens) of the next step, in order.
  std::vector<std::pair<SequenceId, int64_t>> plan() {
    std::vector<std::pair<SequenceId, int64_t>> rows;
    const ScheduledBatch& batch = scheduler_->schedule(now_ += 1);
    outputs_.push_back({.step = batch.step});
    for (const ScheduledSequence& s : batch.sequences) {
      rows.emplace_back(s.id, s.num_scheduled_tokens);
      if (s.sample) {
        outputs_.back().rows.push_back({.id = s.id, .token = {.token_id = 7}});
      }
    }
    if (rows.empty()) {
      outputs_.pop_back();
    }
    last_ = batch;
    return rows;
  }
  void commit() {
    ASSERT_TRUE(scheduler_->commit(std::move(outputs_.front()), updates_));
    outputs_.pop_front();
  }
  std::vector<std::pair<SequenceId, int64_t>> step() {
    auto rows = plan();
    if (!rows.empty()) {
      commit();
    }
    return rows;
  }

  SchedulerOptions options_;
  std::unique_ptr<Scheduler> scheduler_;
  std::deque<StepOutput> outputs_;
  std::vector<SequenceUpdate> updates_;
  ScheduledBatch last_;
  double now_ = 0;
};

// A step of single tokens may read cached keys before it writes its own.
TEST_F(SchedulerTest, ABlockThatOneTokenFillsIsFoundFromTheNextStepOn) {
  start({.max_num_seqs = 8, .max_model_len = 64, .num_blocks = 32, .enable_prefix_caching = true});
  add(1, prompt(15));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 15)));
  std::vector<int32_t> continued = prompt(15);
  continued.insert(continued.end(), {7, 99});
  add(2, continued);
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 17)));  // 1 fills a block
  add(3, continued);
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 1), Pair(3, 1)));
}

TEST_F(SchedulerTest, DecodesGoFirstAndPrefillFillsTheBudget) {
  start({.max_num_batched_tokens = 8,
         .max_num_seqs = 4,
         .max_model_len = 64,
         .num_blocks = 16,
         .block_size = 4});
  add(1, prompt(3));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 3)));
  add(2, prompt(20, 100));
  add(3, prompt(2, 200));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 7)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 7)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 6), Pair(3, 1)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 1), Pair(3, 1)));
}

TEST_F(SchedulerTest, PromptsTakeLessOfAStepInWhichOthersDecode) {
  start({.max_num_batched_tokens = 16,
         .max_mixed_tokens = 6,
         .max_num_seqs = 4,
         .max_model_len = 64,
         .num_blocks = 32,
         .block_size = 4});
  add(1, prompt(20));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 16)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 4)));
  add(2, prompt(10, 100));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 5)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 5)));
  add(3, prompt(20, 200));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 1), Pair(3, 8)));
}

TEST_F(SchedulerTest, StepsWithPromptsAndDecodesHoldWholeTiles) {
  start({.max_num_batched_tokens = 64,
         .max_mixed_tokens = 8,
         .row_tile = 8,
         .max_num_seqs = 4,
         .max_model_len = 64,
         .num_blocks = 64,
         .block_size = 4});
  add(1, prompt(3));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 3)));
  add(2, prompt(60, 100));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 7)));
  add(3, prompt(2, 200));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 7)));
  add(4, prompt(3, 300));
  for (int i = 0; i < 6; ++i) {
    EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 7)));
  }
  // The last 4 of the long prompt, then those who wait fill the tile up.
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 4), Pair(3, 2), Pair(4, 1)));
  // Three decode: four prompt tokens for each of them take two tiles.
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 1), Pair(3, 1), Pair(4, 2)));
}

TEST_F(SchedulerTest, AFullPromptHitStillComputesTheLastToken) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 64,
         .num_blocks = 16,
         .block_size = 4});
  add(1, prompt(8), {.max_tokens = 1});
  EXPECT_THAT(step(), ElementsAre(Pair(1, 8)));
  add(2, prompt(8), {.max_tokens = 1});
  EXPECT_THAT(step(), ElementsAre(Pair(2, 4)));
  EXPECT_EQ(updates_.back().num_cached_tokens, 4);
  add(3, prompt(9), {.max_tokens = 1});
  EXPECT_THAT(step(), ElementsAre(Pair(3, 1)));
  add(4, prompt(9), {.max_tokens = 1, .prompt_logprobs = 0});
  EXPECT_THAT(step(), ElementsAre(Pair(4, 9)));
}

TEST_F(SchedulerTest, TwoEqualPromptsOfOneStepShareTheirBlocks) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 64,
         .num_blocks = 16,
         .block_size = 4});
  add(1, prompt(10));
  add(2, prompt(10));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 10), Pair(2, 2)));
  EXPECT_EQ(scheduler_->stats().num_free_blocks, 16 - 4);
}

TEST_F(SchedulerTest, ChoicesShareThePromptEvenWithoutPrefixCache) {
  for (const bool caching : {false, true}) {
    start({.max_num_batched_tokens = 8,
           .max_num_seqs = 4,
           .max_model_len = 64,
           .num_blocks = 16,
           .block_size = 4,
           .enable_prefix_caching = caching});
    add(1, prompt(10), {.max_tokens = 4, .n = 3});
    EXPECT_THAT(step(), ElementsAre(Pair(1, 8)));
    EXPECT_THAT(step(), ElementsAre(Pair(1, 2), Pair(2, 2), Pair(3, 2)));
    EXPECT_EQ(scheduler_->stats().num_free_blocks, 16 - 2 - 3);
  }
}

TEST_F(SchedulerTest, TheLatestArrivalIsPreemptedAndComesBackFirst) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 32,
         .num_blocks = 8,
         .block_size = 4,
         .enable_prefix_caching = false});
  add(1, prompt(12));
  add(2, prompt(11));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 12), Pair(2, 11)));
  add(3, prompt(2));
  std::vector<std::pair<SequenceId, int64_t>> rows;
  while (scheduler_->stats().num_preemptions == 0) {
    rows = step();
    ASSERT_FALSE(rows.empty());
  }
  EXPECT_THAT(rows, ElementsAre(Pair(1, 1)));  // the fifth block of 1 is taken from 2, and 3 waits
  while (!rows.empty() && rows[0].first == 1) {
    rows = step();
  }
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].first, 2U);
  EXPECT_GT(rows[0].second, 11);  // recomputed, its own tokens included
  EXPECT_EQ(rows[1].first, 3U);
}

TEST_F(SchedulerTest, RunsAheadOfTheHostAndDropsTheRowOfASequenceThatEnded) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 32,
         .num_blocks = 8,
         .block_size = 4});
  add(1, prompt(4), {.max_tokens = 20});
  add(2, prompt(4, 50), {.presence_penalty = 1, .max_tokens = 20});
  plan();
  EXPECT_THAT(plan(), ElementsAre(Pair(1, 1)));  // penalties need the token: 2 waits
  EXPECT_EQ(last_.sequences[0].pending_row, 0);
  EXPECT_EQ(last_.sequences[0].token_ids.size(), 4U);
  outputs_[0].rows[0].token.token_id = 0;  // EOS: the row in flight is wasted
  commit();
  EXPECT_EQ(updates_[0].finish_reason, FinishReason::kStop);
  EXPECT_GT(scheduler_->blocks().num_blocks() - scheduler_->blocks().num_free(), 1);
  const size_t before = updates_.size();
  commit();
  EXPECT_EQ(updates_.size(), before);
  EXPECT_THAT(step(), ElementsAre(Pair(2, 1)));
}

TEST_F(SchedulerTest, StopIdsAreBannedBelowMinTokens) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 32,
         .num_blocks = 8,
         .block_size = 4});
  add(1, prompt(4), {.max_tokens = 20, .min_tokens = 2, .stop_token_ids = {7, 5000}});
  for (int i = 0; i < 2; ++i) {
    step();
    EXPECT_THAT(last_.sequences[0].banned_token_ids, ElementsAre(0, 7));
  }
  step();
  EXPECT_THAT(last_.sequences[0].banned_token_ids, IsEmpty());
  EXPECT_EQ(updates_.back().finish_reason, FinishReason::kStop);
  EXPECT_EQ(updates_.back().stop_token_id, 7);
}

TEST_F(SchedulerTest, TheContextLimitEndsASequenceWithLength) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 6,
         .num_blocks = 2,
         .block_size = 4});
  add(1, prompt(4), {.max_tokens = 100});
  step();
  EXPECT_FALSE(updates_.back().finish_reason);
  step();
  EXPECT_EQ(updates_.back().finish_reason, FinishReason::kLength);
  EXPECT_FALSE(scheduler_->has_requests());
}

TEST_F(SchedulerTest, DelayFactorHoldsAdmissionWhilePromptsGather) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 8,
         .max_model_len = 64,
         .delay_factor = 3,
         .num_blocks = 32,
         .block_size = 4});
  add(1, prompt(4));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 4)));  // nothing runs: no delay
  add(2, prompt(4, 100));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1)));  // the prompt step took 1: wait 3
  add(3, prompt(4, 200));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1)));
  EXPECT_THAT(step(), ElementsAre(Pair(1, 1), Pair(2, 4), Pair(3, 4)));
}

TEST_F(SchedulerTest, WhatAFailedSequenceComputedIsNotFound) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 32,
         .num_blocks = 8,
         .block_size = 4});
  add(1, prompt(8));
  plan();
  outputs_[0].rows[0].token.token_id = -1;
  commit();
  EXPECT_EQ(updates_.back().finish_reason, FinishReason::kError);
  add(2, prompt(9));
  EXPECT_THAT(step(), ElementsAre(Pair(2, 9)));
}

TEST_F(SchedulerTest, AnOutputThatDoesNotFitTheStepIsRefusedUnchanged) {
  start({.max_num_batched_tokens = 64,
         .max_num_seqs = 4,
         .max_model_len = 32,
         .num_blocks = 8,
         .block_size = 4});
  add(1, prompt(4));
  plan();
  StepOutput wrong = outputs_[0];
  wrong.rows[0].id = 99;
  EXPECT_FALSE(scheduler_->commit(std::move(wrong), updates_));
  EXPECT_FALSE(scheduler_->commit({.step = outputs_[0].step}, updates_));
  EXPECT_EQ(scheduler_->num_in_flight(), 1);
  commit();
}

}  // namespace
}  // namespace atom
