#include "atom/model_engine/penalty_slots.h"

#include <gtest/gtest.h>

namespace atom {
namespace {

class PenaltySlotsTest : public testing::Test {
 protected:
  // What a step with this sequence gets; `num_tokens` are known to the host.
  PenaltySlots::Choice choose(SequenceId id, size_t num_tokens, bool penalised = true,
                              bool sample = true) {
    tokens_.resize(num_tokens, 7);
    params_ = {.repetition_penalty = penalised ? 1.1F : 1.0F};
    return slots_.choose({.id = id,
                          .token_ids = tokens_,
                          .num_scheduled_tokens = 1,
                          .block_table = {},
                          .sample = sample,
                          .sampling = &params_,
                          .banned_token_ids = {}},
                         ++step_);
  }

  PenaltySlots slots_{2};
  std::vector<int32_t> tokens_;
  SamplingParams params_;
  uint64_t step_ = 0;
};

TEST_F(PenaltySlotsTest, ARowIsSetOnceAndThenCountsAlong) {
  const auto first = choose(5, 10);
  EXPECT_GE(first.slot, 0);
  EXPECT_TRUE(first.is_stale);
  const auto next = choose(5, 11);
  EXPECT_EQ(next.slot, first.slot);
  EXPECT_FALSE(next.is_stale);
}

TEST_F(PenaltySlotsTest, AGapMakesARowStale) {
  choose(5, 10);
  choose(5, 11);
  EXPECT_TRUE(choose(5, 13).is_stale);  // a token was drawn elsewhere
  EXPECT_TRUE(choose(5, 13).is_stale);  // the step before failed: drawn, but not taken
  EXPECT_FALSE(choose(5, 14).is_stale);
}

TEST_F(PenaltySlotsTest, TheRowThatWasUsedLongestAgoGoesToANewcomer) {
  const int32_t one = choose(1, 10).slot;
  const int32_t two = choose(2, 10).slot;
  EXPECT_NE(one, two);
  choose(1, 11);
  const auto three = choose(3, 10);
  EXPECT_EQ(three.slot, two);
  EXPECT_TRUE(three.is_stale);
  EXPECT_FALSE(choose(1, 12).is_stale);
  EXPECT_TRUE(choose(2, 11).is_stale);
}

TEST_F(PenaltySlotsTest, OthersNeedNoRow) {
  EXPECT_EQ(choose(1, 10, /*penalised=*/false).slot, -1);
  EXPECT_EQ(choose(1, 10, true, /*sample=*/false).slot, -1);
}

}  // namespace
}  // namespace atom
