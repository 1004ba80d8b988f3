#include "atom/model_engine/input_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace atom {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

class InputBuilderTest : public testing::Test {
 protected:
  InputBuilderTest() : tokens_(40) { std::iota(tokens_.begin(), tokens_.end(), 100); }

  ScheduledSequence sequence(SequenceId id, int64_t computed, int64_t scheduled, int64_t known) {
    return {.id = id,
            .token_ids = std::span(tokens_).first(static_cast<size_t>(known)),
            .num_prompt_tokens = 6,
            .num_computed_tokens = computed,
            .num_scheduled_tokens = scheduled,
            .block_table = blocks_,
            .sample = computed + scheduled == known,
            .sampling = &params_,
            .seed = 7};
  }

  std::vector<int32_t> tokens_;
  std::vector<int32_t> blocks_ = {9, 2, 5};
  SamplingParams params_;
};

TEST_F(InputBuilderTest, MixesPrefillChunkAndDecode) {
  InputBuilder builder;
  builder.build(
      {.step = 1, .sequences = {sequence(1, 2, 3, 6), sequence(2, 8, 1, 9)}, .num_tokens = 4}, 4);
  EXPECT_THAT(builder.token_ids(), ElementsAre(102, 103, 104, 108));
  const AttentionMetadata& attention = builder.attention();
  EXPECT_EQ(attention.num_tokens, 4);
  EXPECT_EQ(attention.num_seqs, 2);
  EXPECT_EQ(attention.max_query_len, 3);
  EXPECT_EQ(attention.max_context_len, 9);
  EXPECT_THAT(std::span(attention.query_start, 3), ElementsAre(0, 3, 4));
  EXPECT_THAT(std::span(attention.context_lens, 2), ElementsAre(5, 9));
  EXPECT_THAT(std::span(attention.positions, 4), ElementsAre(2, 3, 4, 8));
  EXPECT_THAT(std::span(attention.slot_mapping, 4), ElementsAre(38, 39, 8, 20));
  EXPECT_THAT(builder.sample_rows(), ElementsAre(3));
  ASSERT_EQ(builder.sampled().size(), 1U);
  EXPECT_EQ(builder.sampled()[0].sequence, 1);
  EXPECT_EQ(builder.sampling()[0].position, 3U);
  EXPECT_THAT(builder.sampling()[0].output_token_ids, ElementsAre(106, 107, 108));
}

TEST_F(InputBuilderTest, PromptLogprobsCoverEveryPromptTokenButTheFirstOverAnyChunks) {
  params_.prompt_logprobs = 5;
  std::vector<int64_t> positions;
  InputBuilder builder;
  for (int64_t begin = 0; begin < 6; begin += 2) {
    builder.build({.step = 1, .sequences = {sequence(1, begin, 2, 6)}, .num_tokens = 2}, 4);
    for (const PromptLogprobTarget& target : builder.prompt_targets()) {
      positions.push_back(target.position);
      EXPECT_EQ(target.token_id, 100 + target.position);
      EXPECT_EQ(target.row, target.position - 1 - begin);
    }
  }
  EXPECT_THAT(positions, ElementsAre(1, 2, 3, 4, 5));
}

// Every draft is a row of its own, drawn at its own position, with the drafts before it as history.
TEST_F(InputBuilderTest, DraftsAreSampledAsIfTheyWereKnown) {
  const std::vector<int32_t> drafts = {7, 8};
  for (const bool penalised : {false, true}) {
    params_.frequency_penalty = penalised ? 0.5F : 0.0F;
    ScheduledSequence drafted = sequence(1, 8, 3, 9);
    drafted.draft_token_ids = drafts;
    drafted.sample = true;
    InputBuilder builder;
    builder.build({.step = 1, .sequences = {drafted, sequence(2, 8, 1, 9)}, .num_tokens = 4}, 4);
    EXPECT_THAT(builder.token_ids(), ElementsAre(108, 7, 8, 108));
    EXPECT_THAT(std::span(builder.attention().positions, 4), ElementsAre(8, 9, 10, 8));
    EXPECT_THAT(builder.sample_rows(), ElementsAre(0, 1, 2, 3));
    ASSERT_EQ(builder.sampled().size(), 2U);
    EXPECT_EQ(builder.sampled()[0].count, 3);
    EXPECT_EQ(builder.sampled()[1].first, 3);
    const std::vector<uint64_t> positions = {3, 4, 5, 3};
    for (size_t i = 0; i < 4; ++i) {
      const SamplingRow& row = builder.sampling()[i];
      EXPECT_EQ(row.position, positions[i]);
      EXPECT_THAT(row.prompt_token_ids, ElementsAre(100, 101, 102, 103, 104, 105));
      std::vector<int32_t> output = {106, 107, 108};
      if (penalised && i < 3) {
        output.insert(output.end(), drafts.begin(), drafts.begin() + static_cast<ptrdiff_t>(i));
      }
      EXPECT_THAT(row.output_token_ids, ElementsAreArray(output));
    }
  }
}

TEST_F(InputBuilderTest, BlockTablesArePaddedToOneStride) {
  const std::vector<int32_t> one_block = {3};
  ScheduledSequence small = sequence(1, 0, 2, 6);
  small.block_table = one_block;
  InputBuilder builder;
  builder.build({.step = 1, .sequences = {small, sequence(2, 8, 1, 9)}, .num_tokens = 3}, 4);
  EXPECT_EQ(builder.attention().block_table_stride, 3);
  EXPECT_THAT(std::span(builder.attention().block_tables, 6), ElementsAreArray({3, 0, 0, 9, 2, 5}));
}

}  // namespace
}  // namespace atom
