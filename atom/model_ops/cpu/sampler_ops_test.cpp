// The sampler against a brute-force oracle (a full sort in double precision), against the
// distributions it must follow, and on rows that no model should produce.
#include "atom/model_ops/cpu/sampler_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "atom/core/thread_pool.h"
#include "atom/model_ops/cpu/sampler_oracle.h"

namespace atom {
namespace {

using oracle::kInfinity;
using oracle::random_logits;
using oracle::Row;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<SampledToken> sample(const std::vector<Row>& logits,
                                 const std::vector<SamplingRow>& rows, int num_threads = 1) {
  const auto vocab_size = static_cast<int64_t>(logits.at(0).size());
  Row flat;
  for (const Row& row : logits) {
    flat.insert(flat.end(), row.begin(), row.end());
  }
  const Row before = flat;
  ThreadPool pool(num_threads);
  const ExecContext ctx{.parallel = pool.parallel_for()};
  std::vector<SampledToken> out(rows.size());
  sample_cpu(ctx, Tensor(flat.data(), DType::kF32, {static_cast<int64_t>(rows.size()), vocab_size}),
             rows, out);
  EXPECT_EQ(std::memcmp(flat.data(), before.data(), flat.size() * sizeof(float)), 0)
      << "logits not restored";
  return out;
}

SampledToken sample_one(const Row& logits, const SamplingRow& row) {
  return sample({logits}, {row})[0];
}

// --- against the oracle
// ----------------------------------------------------------------------------------

TEST(Sampler, PhiloxMatchesThePublishedVectors) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Sampler, DrawsWhatTheOracleDraws) {
  std::mt19937 random(7);
  const auto one_of = [&](auto... values) {
    const std::array list{values...};
    return list[random() % list.size()];
  };
  int compared = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    const auto vocab_size = static_cast<size_t>(one_of(1, 2, 3, 17, 128, 129, 1000, 5000, 40000));
    Row logits = random_logits(vocab_size, random(), one_of(0.01F, 1.0F, 4.0F));
    if (random() % 4 == 0) {  // ties
      for (float& logit : logits) {
        logit = std::round(logit);
      }
    }
    std::vector<int32_t> prompt, output, banned;
    std::vector<std::pair<int32_t, float>> bias;
    SamplingRow row{.temperature = one_of(0.0F, 1e-6F, 0.3F, 1.0F, 1.7F),
                    .top_p = one_of(1.0F, 1.0F, 0.95F, 0.5F, 0.01F),
                    .top_k = one_of(-1, 0, 1, 2, 50, 1000, 30000, 1 << 30),
                    .min_p = one_of(0.0F, 0.0F, 0.05F, 1.0F),
                    .seed = random(),
                    .position = random() % 100};
    if (trial % 3 == 0 && vocab_size <= 5000) {
      const auto id = [&] { return static_cast<int32_t>(random() % vocab_size); };
      for (int i = 0; i < 20; ++i) {
        prompt.push_back(id());
        output.push_back(id());
        output.push_back(output.front());
      }
      if (vocab_size > 3) {
        banned = {id(), id()};
      }
      bias = {{id(), one_of(5.0F, -100.0F)}, {id(), 1.0F}};
      bias.push_back(bias.front());
      row.presence_penalty = one_of(0.0F, 1.5F, -2.0F);
      row.frequency_penalty = one_of(0.0F, 0.5F, -0.5F);
      row.repetition_penalty = one_of(1.0F, 1.3F, 0.8F);
      row.prompt_token_ids = prompt;
      row.output_token_ids = output;
      row.banned_token_ids = banned;
      row.logit_bias = bias;
    }
    std::vector<uint32_t> bitmask;
    if (trial % 4 == 1) {  // few tokens or about half of them, among them one that is not banned
      bitmask.resize((vocab_size + 31) / 32);
      const uint32_t rare = one_of(1U, 0U);
      for (uint32_t& word : bitmask) {
        word = rare != 0 ? 1U << random() % 32 & -static_cast<uint32_t>(random() % 8 == 0)
                         : static_cast<uint32_t>(random());
      }
      size_t kept = 0;
      while (std::ranges::find(banned, static_cast<int32_t>(kept)) != banned.end()) {
        ++kept;
      }
      bitmask[kept / 32] |= 1U << kept % 32;
      row.token_bitmask = bitmask;
    }
    const auto distribution = oracle::distribution(logits, row);
    const int32_t token = sample_one(logits, row).token_id;
    SCOPED_TRACE(testing::Message()
                 << "trial " << trial << " V=" << vocab_size << " T=" << row.temperature
                 << " k=" << row.top_k << " p=" << row.top_p << " min_p=" << row.min_p);
    const int32_t expected = oracle::token(distribution, row);
    compared += expected >= 0 ? 1 : 0;
    if (expected >= 0) {
      ASSERT_EQ(token, expected);
    } else {
      ASSERT_TRUE(token >= 0 && static_cast<size_t>(token) < vocab_size);
    }
  }
  EXPECT_GT(compared, 2700);
}

// Counts of `draws` tokens against their probabilities; the limit is five standard deviations of
// chi-square.
void expect_distribution(const Row& logits, SamplingRow row, int draws) {
  const auto distribution = oracle::distribution(logits, row);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    row.seed = 1234 + static_cast<uint64_t>(i % 7);
    row.position = static_cast<uint64_t>(i / 7);
    ++counts[sample_one(logits, row).token_id];
  }
  double statistic = 0.0;
  double rest_expected = 0.0;
  double rest_count = 0.0;
  int cells = 0;
  for (const auto& [id, probability] : distribution) {
    const double expected = probability * draws;
    const double count = counts.contains(id) ? counts[id] : 0;
    counts.erase(id);
    if (expected < 8) {
      rest_expected += expected;
      rest_count += count;
      continue;
    }
    statistic += (count - expected) * (count - expected) / expected;
    ++cells;
  }
  EXPECT_TRUE(counts.empty()) << "a token outside the allowed set: " << counts.begin()->first;
  if (rest_expected > 8) {
    statistic += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    ++cells;
  }
  const double freedom = std::max(1, cells - 1);
  EXPECT_LT(statistic, freedom + 5.0 * std::sqrt(2.0 * freedom));
}

TEST(Sampler, FollowsTheDistribution) {
  const Row logits = random_logits(300, 11, 1.5F);
  expect_distribution(logits, {.temperature = 1.0F}, 30000);
  expect_distribution(logits, {.temperature = 0.5F}, 30000);
  expect_distribution(logits, {.temperature = 2.0F}, 30000);
  expect_distribution(logits, {.temperature = 1.0F, .top_k = 2}, 30000);
  expect_distribution(logits, {.temperature = 1.0F, .top_k = 40}, 30000);
  expect_distribution(logits, {.temperature = 1.0F, .top_p = 0.6F}, 30000);
  expect_distribution(logits, {.temperature = 1.2F, .top_p = 0.9F, .top_k = 20, .min_p = 0.1F},
                      30000);
  expect_distribution(random_logits(5000, 12, 3.0F), {.temperature = 1.0F, .top_p = 0.7F}, 10000);
  expect_distribution(random_logits(20000, 13, 5.0F), {.temperature = 1.0F, .top_p = 0.9F}, 5000);
}

TEST(Sampler, EqualLogitsAreCutByIdAndDrawnEvenly) {
  const Row logits(1000, 0.25F);
  for (const int32_t top_k : {1, 3, 500}) {
    std::set<int32_t> seen;
    for (uint64_t i = 0; i < 4000; ++i) {
      seen.insert(sample_one(logits, {.top_k = top_k, .seed = i}).token_id);
    }
    EXPECT_EQ(*seen.rbegin(), top_k - 1);
    EXPECT_GE(static_cast<int32_t>(seen.size()), top_k * 99 / 100);
  }
  for (uint64_t i = 0; i < 500; ++i) {
    EXPECT_LT(sample_one(logits, {.top_p = 0.25F, .seed = i}).token_id, 250);
  }
}

// --- independence
// ----------------------------------------------------------------------------------------

TEST(Sampler, ARowDoesNotDependOnItsBatchOrOnThreads) {
  std::vector<Row> logits;
  std::vector<SamplingRow> rows;
  for (uint32_t i = 0; i < 37; ++i) {
    logits.push_back(random_logits(2000, 100 + i, 1.0F + static_cast<float>(i % 5)));
    rows.push_back({.temperature = i % 4 == 0 ? 0.0F : 0.8F,
                    .top_p = i % 3 == 0 ? 0.9F : 1.0F,
                    .top_k = i % 5 == 0 ? 17 : -1,
                    .min_p = i % 7 == 0 ? 0.02F : 0.0F,
                    .seed = i,
                    .position = i * 3,
                    .num_logprobs = static_cast<int32_t>(i % 6) - 1});
  }
  logits[5][100] = kNan;  // a broken neighbour
  std::vector<SampledToken> alone;
  for (size_t i = 0; i < rows.size(); ++i) {
    alone.push_back(sample_one(logits[i], rows[i]));
  }
  EXPECT_EQ(alone[5].token_id, -1);
  for (const int threads : {1, 2, 5}) {
    const auto batch = sample(logits, rows, threads);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(batch[i].token_id, alone[i].token_id);
      EXPECT_EQ(batch[i].logprobs.logprob, alone[i].logprobs.logprob);
      EXPECT_EQ(batch[i].logprobs.rank, alone[i].logprobs.rank);
      EXPECT_EQ(batch[i].logprobs.top, alone[i].logprobs.top);
    }
  }
}

TEST(Sampler, SeedAndPositionDecideTheDraw) {
  const Row logits(5000, 0.0F);
  std::set<int32_t> tokens;
  for (uint64_t position = 0; position < 50; ++position) {
    const SamplingRow row{.seed = 42, .position = position};
    const int32_t token = sample_one(logits, row).token_id;
    EXPECT_EQ(token, sample_one(logits, row).token_id);
    tokens.insert(token);
  }
  EXPECT_GT(tokens.size(), 45U);
  // All 64 bits of the seed count.
  EXPECT_NE(sample_one(logits, {.seed = 1}).token_id,
            sample_one(logits, {.seed = 1ULL << 40}).token_id);
}

TEST(Sampler, LogprobsDoNotChangeTheDraw) {
  const Row logits = random_logits(3000, 5);
  const std::vector<int32_t> output = {1, 2, 3, 3};
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SamplingRow row{.frequency_penalty = 1.0F, .seed = seed, .output_token_ids = output};
    const int32_t token = sample_one(logits, row).token_id;
    row.num_logprobs = 5;
    EXPECT_EQ(sample_one(logits, row).token_id, token);
  }
}

// --- logprobs
// --------------------------------------------------------------------------------------------

TEST(Sampler, LogprobsComeFromTheRawLogits) {
  for (const size_t vocab_size : {1U, 5U, 200U, 5000U}) {
    Row logits = random_logits(vocab_size, 3, 3.0F);
    if (vocab_size > 4) {
      logits[3] = logits[1];  // a tie
    }
    const std::vector<std::pair<int32_t, float>> bias = {{0, 50.0F}};
    const std::vector<int32_t> output = {0, 0};
    for (const int32_t num : {0, 1, 3, 20, 6000}) {
      const SamplingRow row{.temperature = 0.1F,
                            .frequency_penalty = 0.5F,
                            .output_token_ids = output,
                            .logit_bias = bias,
                            .num_logprobs = num};
      const SampledToken result = sample_one(logits, row);
      ASSERT_EQ(result.token_id, 0);
      EXPECT_NEAR(result.logprobs.logprob, oracle::logprob(logits, 0),
                  2e-6 * (1 + std::abs(oracle::logprob(logits, 0))));
      ASSERT_EQ(result.logprobs.top.size(), std::min<size_t>(static_cast<size_t>(num), vocab_size));
      for (size_t i = 0; i < result.logprobs.top.size(); ++i) {
        const auto& [id, logprob] = result.logprobs.top[i];
        EXPECT_NEAR(logprob, oracle::logprob(logits, id), 2e-6 * (1 + std::abs(logprob)));
        if (i > 0) {
          const auto& [before_id, before] = result.logprobs.top[i - 1];
          EXPECT_TRUE(before > logprob ||
                      (before == logprob &&
                       logits[static_cast<size_t>(before_id)] >= logits[static_cast<size_t>(id)]));
        }
        if (id == 0) {
          EXPECT_EQ(logprob, result.logprobs.logprob);
        }
        // The rank of a token is its place in the list.
        const SampledToken again = [&] {
          Row copy = logits;
          std::vector<SampledToken> out(1);
          const std::vector<int32_t> target = {id};
          token_logprobs_cpu(
              {}, Tensor(copy.data(), DType::kF32, {1, static_cast<int64_t>(vocab_size)}), target,
              0, out);
          return out[0];
        }();
        if (i < 30) {
          EXPECT_EQ(again.logprobs.rank, static_cast<int32_t>(i) + 1);
          EXPECT_EQ(again.logprobs.logprob, logprob);
          EXPECT_TRUE(again.logprobs.top.empty());
        }
      }
    }
  }
}

TEST(Sampler, TokenLogprobsOfManyRows) {
  constexpr int64_t kVocab = 777;
  Row flat;
  std::vector<int32_t> targets;
  for (uint32_t i = 0; i < 20; ++i) {
    const Row row = random_logits(kVocab, i);
    flat.insert(flat.end(), row.begin(), row.end());
    targets.push_back(static_cast<int32_t>(i * 31));
  }
  flat[5 * kVocab + 2] = kNan;
  ThreadPool pool(3);
  std::vector<SampledToken> out(20);
  token_logprobs_cpu({.parallel = pool.parallel_for()},
                     Tensor(flat.data(), DType::kF32, {20, kVocab}), targets, 4, out);
  for (size_t i = 0; i < 20; ++i) {
    if (i == 5) {
      EXPECT_EQ(out[i].token_id, -1);
      continue;
    }
    const Row row(flat.begin() + static_cast<int64_t>(i) * kVocab,
                  flat.begin() + static_cast<int64_t>(i + 1) * kVocab);
    EXPECT_EQ(out[i].token_id, targets[i]);
    EXPECT_NEAR(out[i].logprobs.logprob, oracle::logprob(row, targets[i]), 1e-5);
    EXPECT_EQ(out[i].logprobs.top.size(), 4U);
  }
}

// --- rows that no model should produce
// -------------------------------------------------------------------

std::vector<SamplingRow> every_mode() {
  std::vector<SamplingRow> modes;
  for (const float temperature : {0.0F, 1e-30F, 1.0F, 1e30F}) {
    for (const float top_p : {1.0F, 0.9F, 1e-6F}) {
      for (const int32_t top_k : {-1, 1, 3, 1000000}) {
        for (const float min_p : {0.0F, 0.5F}) {
          modes.push_back({.temperature = temperature,
                           .top_p = top_p,
                           .top_k = top_k,
                           .min_p = min_p,
                           .seed = modes.size(),
                           .num_logprobs = 3});
        }
      }
    }
  }
  return modes;
}

TEST(Sampler, BrokenRowsGiveNoToken) {
  for (const SamplingRow& mode : every_mode()) {
    EXPECT_EQ(sample_one(Row(100, -kInfinity), mode).token_id, -1);
    EXPECT_EQ(sample_one(Row(100, kNan), mode).token_id, -1);
    EXPECT_EQ(sample_one(Row(1, kNan), mode).token_id, -1);
    Row one_nan(3000, 1.0F);
    one_nan[2999] = kNan;
    EXPECT_EQ(sample_one(one_nan, mode).token_id, -1);
    // A ban does not hide it, and banning everything leaves nothing.
    SamplingRow banning = mode;
    std::vector<int32_t> banned = {2999};
    banning.banned_token_ids = banned;
    EXPECT_EQ(sample_one(one_nan, banning).token_id, -1);
    banned = {0, 1, 2};
    banning.banned_token_ids = banned;
    EXPECT_EQ(sample_one({1.0F, 2.0F, 3.0F}, banning).token_id, -1);
  }
}

TEST(Sampler, ExtremeRowsGiveTheOnlyPossibleToken) {
  for (const SamplingRow& mode : every_mode()) {
    for (const size_t vocab_size : {1U, 2U, 129U, 40000U}) {
      for (const size_t where : {size_t{0}, vocab_size / 2, vocab_size - 1}) {
        Row only_finite(vocab_size, -kInfinity);
        only_finite[where] = -5.0F;
        const SampledToken finite = sample_one(only_finite, mode);
        EXPECT_EQ(finite.token_id, static_cast<int32_t>(where));
        EXPECT_EQ(finite.logprobs.logprob, 0.0F);
        EXPECT_EQ(finite.logprobs.rank, 1);
        Row overflow(vocab_size, 3.0F);
        overflow[where] = kInfinity;
        const SampledToken infinite = sample_one(overflow, mode);
        EXPECT_EQ(infinite.token_id, static_cast<int32_t>(where));
        EXPECT_EQ(infinite.logprobs.logprob, 0.0F);
        if (mode.temperature < 10.0F) {
          Row huge(vocab_size, -3e38F);
          huge[where] = 3e38F;
          EXPECT_EQ(sample_one(huge, mode).token_id, static_cast<int32_t>(where));
        }
      }
    }
  }
}

TEST(Sampler, TinyTemperatureIsGreedyAndHugeIsEven) {
  const Row logits = random_logits(1000, 9);
  const auto best = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
  for (const float temperature : {0.0F, 1e-45F, 1e-38F, 1e-20F, 1e-6F, 1e-4F}) {
    EXPECT_EQ(sample_one(logits, {.temperature = temperature, .seed = 3}).token_id, best);
  }
  std::set<int32_t> seen;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    seen.insert(sample_one(logits, {.temperature = 3e38F, .seed = seed}).token_id);
  }
  EXPECT_GT(seen.size(), 350U);
}

TEST(Sampler, GreedyTiesGoToTheLowestId) {
  Row logits(1000, 1.0F);
  logits[130] = logits[131] = logits[700] = 2.0F;
  EXPECT_EQ(sample_one(logits, {.temperature = 0.0F}).token_id, 130);
  logits.assign(1000, -0.0F);
  logits[500] = 0.0F;
  EXPECT_EQ(sample_one(logits, {.temperature = 0.0F}).token_id, 0);
}

TEST(Sampler, PenaltiesCountRepeatedTokens) {
  const Row logits = {4.0F, 3.0F, -1.0F, 2.5F};
  const std::vector<int32_t> prompt = {0, 0, 2};
  const std::vector<int32_t> output = {1, 1, 1};
  // The prompt does not count for presence and frequency.
  EXPECT_EQ(sample_one(logits, {.temperature = 0,
                                .presence_penalty = 2,
                                .frequency_penalty = 2,
                                .prompt_token_ids = prompt,
                                .output_token_ids = output})
                .token_id,
            0);
  // It counts once for repetition: 4 / 1.8, 3 / 1.8, -1 * 1.8, 2.5.
  EXPECT_EQ(sample_one(logits, {.temperature = 0,
                                .repetition_penalty = 1.8F,
                                .prompt_token_ids = prompt,
                                .output_token_ids = output})
                .token_id,
            3);
  // A negative frequency penalty counts every occurrence: 3 + 3 * 0.4.
  EXPECT_EQ(
      sample_one(logits, {.temperature = 0, .frequency_penalty = -0.4F, .output_token_ids = output})
          .token_id,
      1);
  EXPECT_EQ(
      sample_one(logits, {.temperature = 0, .presence_penalty = -0.4F, .output_token_ids = output})
          .token_id,
      0);
}

TEST(Sampler, IdsOutsideTheVocabularyAreIgnored) {
  const Row logits = {1.0F, 2.0F};
  const std::vector<int32_t> ids = {-1, 2, 1 << 30, std::numeric_limits<int32_t>::min()};
  const std::vector<std::pair<int32_t, float>> bias = {{-1, 1.0F}, {2, 1.0F}};
  EXPECT_EQ(sample_one(logits, {.temperature = 0,
                                .frequency_penalty = 1,
                                .repetition_penalty = 2,
                                .prompt_token_ids = ids,
                                .output_token_ids = ids,
                                .logit_bias = bias,
                                .banned_token_ids = ids})
                .token_id,
            1);
}

TEST(Sampler, ABitmaskLeavesLogprobsAndTheRowAlone) {
  Row logits = random_logits(100, 5);
  logits[7] = 30.0F;
  const Row before = logits;
  const std::vector<uint32_t> bitmask = {0, 1U << 9, 0, 0};
  for (const float temperature : {0.0F, 1.0F}) {
    const SampledToken token = sample_one(
        logits, {.temperature = temperature, .token_bitmask = bitmask, .num_logprobs = 1});
    EXPECT_EQ(token.token_id, 41);
    EXPECT_EQ(token.logprobs.top.at(0).first, 7);
    EXPECT_NEAR(token.logprobs.logprob, oracle::logprob(before, 41), 1e-4);
  }
  EXPECT_EQ(logits, before);
  const std::vector<uint32_t> none(4);
  EXPECT_EQ(sample_one(logits, {.token_bitmask = none}).token_id, -1);
}

TEST(Sampler, NoRows) {
  std::vector<SampledToken> out;
  sample_cpu({}, Tensor(nullptr, DType::kF32, {0, 100}), {}, out);
  token_logprobs_cpu({}, Tensor(nullptr, DType::kF32, {0, 100}), {}, 3, out);
}

}  // namespace
}  // namespace atom
