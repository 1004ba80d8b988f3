// What a request answers does not depend on how it was served: the same tokens alone and in a
// batch, with the prefix cache on and off, for any chunking, any number of threads and after
// preemption; greedy and seeded. Golden models through the whole engine; the reference is each
// request alone in an engine without tricks.
#include <gtest/gtest.h>

#include "tests/golden/serving.h"

namespace atom::golden {
namespace {

const Serving kServings[] = {
    {.name = "batch"},
    {.name = "one thread", .threads = 1},
    {.name = "prefix cache", .prefix_caching = true, .rounds = 2},
    {.name = "prefix cache, one by one", .prefix_caching = true, .one_by_one = true, .rounds = 2},
    {.name = "single tokens", .max_num_batched_tokens = 1, .max_num_seqs = 1},
    {.name = "chunks of 7", .max_num_batched_tokens = 7, .max_num_seqs = 4},
    {.name = "chunks of 33, prefix cache", .prefix_caching = true, .max_num_batched_tokens = 33},
    {.name = "three at a time", .max_num_seqs = 3},
    {.name = "preemption", .num_blocks = 14},
    {.name = "preemption, prefix cache", .prefix_caching = true, .num_blocks = 14, .rounds = 2},
    {.name = "preemption, chunks of 9, prefix cache",
     .prefix_caching = true,
     .max_num_batched_tokens = 9,
     .num_blocks = 13},
};

class GoldenEngine : public testing::TestWithParam<Model> {};

TEST_P(GoldenEngine, AnswersDoNotDependOnTheServing) {
  const std::vector<Request> requests = make_requests();
  auto reference_engine = LLMEngine::create(make_config(GetParam(), {.name = "reference"}));
  ASSERT_TRUE(reference_engine) << reference_engine.error().message;
  const Answers expected = run(**reference_engine, requests, /*one_by_one=*/true);
  ASSERT_EQ(expected.size(), requests.size());
  for (const Serving& serving : kServings) {
    SCOPED_TRACE(serving.name);
    auto engine = LLMEngine::create(make_config(GetParam(), serving));
    ASSERT_TRUE(engine) << engine.error().message;
    for (int round = 0; round < serving.rounds; ++round) {
      const Answers answers = run(**engine, requests, serving.one_by_one);
      ASSERT_EQ(answers.size(), expected.size());
      for (size_t i = 0; i < answers.size(); ++i) {
        EXPECT_EQ(answers[i].size(), 32U);
        EXPECT_EQ(answers[i], expected[i]) << "request " << i << ", round " << round;
      }
    }
    // What each serving is there for did happen.
    const EngineStats stats = (*engine)->stats();
    EXPECT_LE(stats.num_blocks, serving.num_blocks);
    EXPECT_EQ(stats.num_preemptions > 0, serving.num_blocks < 20) << stats.num_preemptions;
    if (serving.prefix_caching && serving.num_blocks > 20) {
      EXPECT_GT(stats.prefix_cache_hits, 100);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenEngine,
                         testing::Values(Model{"llama31-rope-sharded-bf16", "bf16"},
                                         Model{"qwen3-tied-padded-f32", "bf16"},
                                         Model{"qwen3-untied-bf16", "fp8"},
                                         Model{"gguf-llama-q4_k_m/gguf-llama-q4_k_m.gguf", "bf16"},
                                         Model{"deepseek-v2-grouped-bf16", "fp8"},
                                         Model{"deepseek-v3-bf16", "bf16"}));

}  // namespace
}  // namespace atom::golden
