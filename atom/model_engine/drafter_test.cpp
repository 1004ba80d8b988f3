// Drafter with a model that counts: which tokens, states and cache slots every pass gets, what is
// guessed, and that a step takes no more memory for longer drafts.
#include "atom/model_engine/drafter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace atom {
namespace {

constexpr int64_t kVocab = 512;
constexpr int64_t kHidden = 64;
constexpr int64_t kBlockSize = 4;

// Tokens count upwards, and the state before a token is the number before it.
class CountingModel final : public CausalLM {
 public:
  KvCacheSpec kv_cache_spec() const override { return {}; }
  Tensor forward(const ExecContext& ctx, const Tensor& token_ids,
                 std::span<const PagedKvCache> /*kv_caches*/) override {
    return states(ctx, token_ids, 0);
  }
  DraftStates draft(const ExecContext& ctx, const Tensor& token_ids, const Tensor& hidden,
                    const Tensor& rows, std::span<const PagedKvCache> /*kv_caches*/) override {
    const AttentionMetadata& attention = *ctx.attention;
    ++num_passes;
    EXPECT_EQ(attention.num_tokens, token_ids.dim(0));
    EXPECT_EQ(hidden.dim(0), token_ids.dim(0));
    for (int64_t i = 0; i < token_ids.dim(0); ++i) {
      const int32_t before = token_ids.data_as<int32_t>()[i] - 1;
      EXPECT_EQ(hidden.data_as<float>()[i * kHidden], static_cast<float>(before));
      EXPECT_EQ(attention.positions[i] % 100, before % 100);
      written.push_back(attention.slot_mapping[i]);
    }
    Tensor newest = ctx.arena->allocate(DType::kI32, {rows.dim(0)});
    for (int64_t i = 0; i < rows.dim(0); ++i) {
      newest.data_as<int32_t>()[i] = token_ids.data_as<int32_t>()[rows.data_as<int32_t>()[i]];
    }
    const Tensor out = states(ctx, newest, 0);
    return {.hidden = out, .normed = states(ctx, newest, 1)};
  }
  Tensor compute_logits(const ExecContext& /*ctx*/, const Tensor& /*hidden*/) override {
    ADD_FAILURE() << "not of drafts";
    return {};
  }
  Tensor compute_draft_logits(const ExecContext& ctx, const Tensor& hidden) override {
    Tensor logits = ctx.arena->allocate(DType::kF32, {hidden.dim(0), kVocab});
    std::fill_n(logits.data_as<float>(), hidden.dim(0) * kVocab, 0.0F);
    for (int64_t i = 0; i < hidden.dim(0); ++i) {
      const auto best = static_cast<int64_t>(hidden.data_as<float>()[i * kHidden]);
      logits.data_as<float>()[i * kVocab + best] = 1;
    }
    return logits;
  }

  int num_passes = 0;
  std::vector<int64_t> written;  // slots

 private:
  static Tensor states(const ExecContext& ctx, const Tensor& numbers, int32_t more) {
    Tensor out = ctx.arena->allocate(DType::kF32, {numbers.dim(0), kHidden});
    for (int64_t i = 0; i < numbers.dim(0); ++i) {
      std::fill_n(out.data_as<float>() + i * kHidden, kHidden,
                  static_cast<float>(numbers.data_as<int32_t>()[i] + more));
    }
    return out;
  }
};

// Sequences whose token at position p is 100 * i + p.
class DrafterTest : public testing::Test {
 protected:
  DrafterTest() : arena_(*Buffer::allocate(int64_t{1} << 24)) {
    ctx_.ops = &cpu_op_table(0);
    ctx_.arena = &arena_;
    tokens_.resize(kVocab);
    std::iota(tokens_.begin(), tokens_.end(), 0);
    blocks_.resize(20);
    std::iota(blocks_.begin(), blocks_.end(), 30);
    std::ranges::reverse(blocks_);
  }

  // `known` tokens, of which the last `scheduled` are computed now, with drafts behind them.
  void add(int64_t known, int64_t scheduled, std::span<const int32_t> drafts, int num_accepted,
           int num_next) {
    const auto begin = static_cast<int32_t>(100 * batch_.sequences.size());
    const auto id = static_cast<SequenceId>(batch_.sequences.size() + 1);
    batch_.sequences.push_back(
        {.id = id,
         .token_ids =
             std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(known)),
         .num_prompt_tokens = 1,
         .num_computed_tokens = known - scheduled,
         .num_scheduled_tokens = scheduled + static_cast<int64_t>(drafts.size()),
         .draft_token_ids = drafts,
         .num_next_drafts = num_next,
         .block_table = blocks_,
         .sample = true,
         .sampling = &params_});
    for (int i = 0; i <= num_accepted; ++i) {
      output_.rows.push_back(
          {.id = id, .token = {.token_id = begin + static_cast<int32_t>(known) + i}});
    }
  }

  void run() {
    arena_.reset();
    inputs_.build(batch_, kBlockSize);
    ctx_.attention = &inputs_.attention();
    std::vector<int32_t> ids(inputs_.token_ids().begin(), inputs_.token_ids().end());
    const Tensor hidden = model_.forward(
        ctx_, Tensor(ids.data(), DType::kI32, {static_cast<int64_t>(ids.size())}), {});
    drafter_.run(ctx_, model_, {}, batch_, inputs_, hidden, output_);
  }

  Arena arena_;
  ExecContext ctx_;
  CountingModel model_;
  Drafter drafter_;
  InputBuilder inputs_;
  ScheduledBatch batch_;
  StepOutput output_;
  SamplingParams params_;
  std::vector<int32_t> tokens_, blocks_;
};

TEST_F(DrafterTest, GuessesFromTheLastAcceptedRow) {
  const std::vector<int32_t> drafts = {107, 108, 9};
  add(5, 5, {}, 0, 1);      // a prompt
  add(7, 1, drafts, 2, 3);  // two of three drafts accepted: tokens 107, 108, 109 are known now
  add(3, 1, {}, 0, 0);      // wants no guess, but its row is kept
  run();
  EXPECT_EQ(model_.num_passes, 3);
  EXPECT_EQ(output_.draft_token_ids, (std::vector<int32_t>{6, 110, 111, 112}));
  const auto slot = [&](int64_t position) {
    return blocks_[static_cast<size_t>(position / kBlockSize)] * kBlockSize + position % kBlockSize;
  };
  std::vector<int64_t> expected;
  for (const int64_t position : {0, 1, 2, 3, 4, 6, 7, 8, 2, 9, 10}) {
    expected.push_back(slot(position));
  }
  EXPECT_EQ(model_.written, expected);
}

TEST_F(DrafterTest, LongDraftsTakeNoMoreMemoryThanShortOnes) {
  const auto peak = [&](int num_next) {
    batch_.sequences.clear();
    output_ = {};
    for (int i = 0; i < 4; ++i) {
      add(10, 1, {}, 0, num_next);
    }
    run();
    EXPECT_EQ(output_.draft_token_ids.size(), static_cast<size_t>(4 * num_next));
    return arena_.peak();
  };
  const int64_t of_two = peak(2);
  EXPECT_EQ(peak(kMaxDraftTokens), of_two);
}

}  // namespace
}  // namespace atom
