// The names of steps as traces show them.
#include "atom/model_engine/step_annotation.h"

#include <gtest/gtest.h>

namespace atom {
namespace {

TEST(StepAnnotation, CountsTheDraftsThatAStepVerifies) {
  const std::vector<int32_t> drafts = {7, 8, 9};
  ScheduledBatch batch{.num_tokens = 7};
  for (const size_t length : {3, 1, 0}) {
    batch.sequences.push_back({.num_prompt_tokens = 4,
                               .num_computed_tokens = 10,
                               .num_scheduled_tokens = static_cast<int64_t>(1 + length),
                               .draft_token_ids = std::span(drafts).first(length)});
  }
  EXPECT_EQ(step_annotation(batch), "decode[bs=3 tok=7 d=4 spec=3]");
  batch.sequences.front().num_computed_tokens = 3;
  EXPECT_EQ(step_annotation(batch), "prefill[bs=3 tok=7 ctx=12]");
  EXPECT_EQ(step_annotation({}), "decode[bs=0 tok=0 d=0 spec=0]");
}

}  // namespace
}  // namespace atom
