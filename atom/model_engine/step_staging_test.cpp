#include "atom/model_engine/step_staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>

namespace atom {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::ElementsAreArray;

class StepStagingTest : public testing::Test {
 protected:
  ScheduledSequence sequence(SequenceId id, int64_t computed, int64_t scheduled,
                             const std::vector<int32_t>& table, int32_t pending_row = -1) {
    tables_.push_back(table);
    return {.id = id,
            .token_ids = tokens_,
            .pending_row = pending_row,
            .num_prompt_tokens = 4,
            .num_computed_tokens = computed,
            .num_scheduled_tokens = scheduled,
            .block_table = tables_.back(),
            .sample = true,
            .sampling = &params_,
            .seed = id,
            .banned_token_ids = banned_};
  }
  StagedStep write(std::vector<ScheduledSequence> sequences, int64_t padded = 0) {
    ScheduledBatch batch{.sequences = std::move(sequences)};
    for (const ScheduledSequence& s : batch.sequences) {
      batch.num_tokens += s.num_scheduled_tokens;
    }
    const std::vector<int32_t> slots(batch.sequences.size(), -1);
    auto step = staging_.write(batch, padded, slots, area_.data());
    EXPECT_TRUE(step);
    EXPECT_LE(step->bytes, staging_.area_bytes());
    std::memcpy(&header_, area_.data(), sizeof(header_));
    return *step;
  }
  template <class T>
  std::vector<T> array(int32_t offset, int64_t count) const {
    const auto* data = reinterpret_cast<const T*>(area_.data() + offset);
    return {data, data + count};
  }

  std::deque<std::vector<int32_t>> tables_;  // what the sequences point to
  std::vector<int32_t> tokens_ = {10, 11, 12, 13, 14, 15, 16, 17};
  std::vector<int32_t> banned_ = {2, 3};
  SamplingParams params_ = {.logit_bias = {{9, 1.5F}}};
  StepStaging staging_{{.max_tokens = 32, .max_seqs = 4, .block_size = 4, .table_stride = 8}};
  std::vector<uint8_t> area_ = std::vector<uint8_t>(static_cast<size_t>(staging_.area_bytes()));
  gpu::StagingHeader header_;
};

TEST_F(StepStagingTest, WritesPrefillAndDecode) {
  const StagedStep step = write(
      {sequence(1, 7, 1, {5, 6}), sequence(2, 2, 4, {7, 8}), sequence(3, 9, 1, {1, 2, 3}, 0)});
  EXPECT_EQ(step.max_query_len, 4);
  EXPECT_EQ(step.max_context_len, 10);
  EXPECT_THAT(step.sample_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(array<int32_t>(header_.token_ids, 6), ElementsAre(17, 12, 13, 14, 15, ~0));
  EXPECT_THAT(array<int32_t>(header_.positions, 6), ElementsAre(7, 2, 3, 4, 5, 9));
  EXPECT_THAT(array<int64_t>(header_.slot_mapping, 6),
              ElementsAre(6 * 4 + 3, 7 * 4 + 2, 7 * 4 + 3, 8 * 4, 8 * 4 + 1, 3 * 4 + 1));
  EXPECT_THAT(array<int32_t>(header_.query_start, 4), ElementsAre(0, 1, 5, 6));
  EXPECT_THAT(array<int32_t>(header_.context_lens, 3), ElementsAre(8, 6, 10));
  EXPECT_THAT(array<int32_t>(header_.sample_rows, 3), ElementsAre(0, 4, 5));
  const auto rows = array<gpu::SamplerRow>(header_.sampling, 3);
  EXPECT_EQ(rows[1].seed, 2U);
  EXPECT_EQ(rows[1].position, 2U);
  EXPECT_EQ(array<gpu::SamplerBias>(header_.sampling + rows[2].biases, 1)[0].token_id, 9);
  EXPECT_THAT(array<int32_t>(header_.sampling + rows[2].banned, 2), ElementsAreArray(banned_));
}

TEST_F(StepStagingTest, SendsTheMasksOfGrammars) {
  const std::vector<uint32_t> mask = {0xff, 0x1};
  ScheduledSequence masked = sequence(1, 7, 1, {5, 6});
  masked.token_bitmask = mask;
  write({sequence(2, 7, 1, {5, 6}), masked});
  const auto rows = array<gpu::SamplerRow>(header_.sampling, 2);
  EXPECT_EQ(rows[0].mask, 0);
  EXPECT_THAT(array<uint32_t>(header_.sampling + rows[1].mask, 2), ElementsAreArray(mask));
}

TEST_F(StepStagingTest, PaddingTouchesNothing) {
  const StagedStep step = write({sequence(1, 7, 1, {5, 6})}, 4);
  EXPECT_EQ(step.num_tokens, 4);
  EXPECT_EQ(step.num_seqs, 4);
  EXPECT_EQ(step.num_sample_rows, 4);
  EXPECT_THAT(step.sample_ids, ElementsAre(1));
  EXPECT_THAT(array<int64_t>(header_.slot_mapping, 4), ElementsAre(6 * 4 + 3, -1, -1, -1));
  EXPECT_THAT(array<int32_t>(header_.context_lens, 4), ElementsAre(8, 0, 0, 0));
  EXPECT_THAT(array<int32_t>(header_.query_start, 5), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(array<int32_t>(header_.sample_rows, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(array<gpu::SamplerRow>(header_.sampling, 4)[3].temperature, 0.0F);
}

TEST_F(StepStagingTest, SendsOnlyWhatChangedInTheTables) {
  const auto updates = [&] {
    return array<gpu::TableUpdate>(header_.table_updates, header_.num_table_updates);
  };
  write({sequence(1, 7, 1, {5, 6}), sequence(2, 7, 1, {7, 8})});
  EXPECT_EQ(updates().size(), 2U);
  write({sequence(1, 8, 1, {5, 6, 9}, 0), sequence(2, 7, 1, {7, 8}, 1)});
  ASSERT_EQ(updates().size(), 1U);
  EXPECT_EQ(updates()[0].row, 0);
  EXPECT_EQ(updates()[0].begin, 2);
  EXPECT_EQ(updates()[0].count, 1);
  EXPECT_THAT(array<int32_t>(header_.table_values, 1), ElementsAre(9));
  // Sequence 1 is gone: sequence 2 moves to its row.
  write({sequence(2, 7, 1, {7, 8}, 1)});
  ASSERT_EQ(updates().size(), 1U);
  EXPECT_EQ(updates()[0].begin, 0);
  EXPECT_EQ(updates()[0].count, 2);
  staging_.forget_tables();
  write({sequence(2, 7, 1, {7, 8}, 0)});
  EXPECT_EQ(updates().size(), 1U);
}

TEST_F(StepStagingTest, RefusesWhatIsTooMuch) {
  ScheduledBatch batch{.sequences = {sequence(1, 0, 8, {1, 2})}, .num_tokens = 33};  // claimed
  EXPECT_FALSE(staging_.write(batch, 0, {-1}, area_.data()));
  params_.logit_bias.assign(1 << 20, {1, 1.0F});
  batch.num_tokens = 8;
  const auto refused = staging_.write(batch, 0, {-1}, area_.data());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace atom
