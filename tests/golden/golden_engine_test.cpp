// What a request answers does not depend on how it was served: the same tokens alone and in a
// batch, with the prefix cache on and off, for any chunking, any number of threads and after
// preemption; greedy and seeded. Golden models through the whole engine; the reference is each
// request alone in an engine without tricks.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "atom/model_engine/llm_engine.h"
#include "atom/model_engine/memory_plan.h"

namespace atom {
namespace {

constexpr int64_t kMaxModelLen = 192;
constexpr int64_t kBlockSize = 16;
constexpr int32_t kVocab = 277;  // ids below this exist in every golden model

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams params;
};

using Answers = std::vector<std::vector<int32_t>>;

// Prompts of 1 to 100 tokens, half of them starting with the same 50; greedy and sampled in turn.
std::vector<Request> make_requests() {
  std::mt19937 random(5);
  const auto ids = [&](size_t count) {
    std::vector<int32_t> result(count);
    std::ranges::generate(result, [&] { return static_cast<int32_t>(random() % kVocab); });
    return result;
  };
  const std::vector<int32_t> shared = ids(50);
  std::vector<Request> requests;
  for (const size_t length : {1, 2, 15, 16, 17, 31, 33, 50, 64, 77, 90, 100}) {
    const bool sampled = requests.size() % 3 == 2;
    Request request{.prompt = ids(length),
                    .params = {.temperature = sampled ? 0.9F : 0.0F,
                               .top_p = sampled ? 0.95F : 1.0F,
                               .repetition_penalty = requests.size() % 4 == 1 ? 1.2F : 1.0F,
                               .seed = static_cast<int64_t>(requests.size()),
                               .max_tokens = 32,
                               .ignore_eos = true}};
    if (requests.size() % 2 == 0) {
      request.prompt.insert(request.prompt.begin(), shared.begin(), shared.end());
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Model {
  const char* path;
  const char* kv_cache_dtype;
};

struct Serving {
  const char* name;
  bool prefix_caching = false;
  int64_t max_num_batched_tokens = 4096;
  int64_t max_num_seqs = 64;
  int64_t num_blocks = 256;
  int threads = 2;
  bool one_by_one = false;
  int rounds = 1;  // later rounds find the cache filled
};

constexpr Serving kServings[] = {
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

EngineConfig make_config(const Model& model, const Serving& serving) {
  const std::string path = std::string("tests/golden/models/") + model.path;
  auto config = make_engine_config({.model = path,
                                    .enable_prefix_caching = serving.prefix_caching,
                                    .kv_cache_dtype = model.kv_cache_dtype,
                                    .block_size = kBlockSize,
                                    .max_model_len = kMaxModelLen,
                                    .device = "cpu",
                                    .threads = serving.threads});
  EXPECT_TRUE(config) << config.error().message;
  config->scheduler.max_num_batched_tokens = serving.max_num_batched_tokens;
  config->scheduler.max_num_seqs = serving.max_num_seqs;
  const auto checkpoint = Checkpoint::open(path);
  EXPECT_TRUE(checkpoint) << checkpoint.error().message;
  const auto plan = plan_memory(*config, **checkpoint);
  EXPECT_TRUE(plan) << plan.error().message;
  config->cache.kv_cache_bytes = plan->bytes_per_block * serving.num_blocks;
  return *config;
}

Answers run(LLMEngine& engine, const std::vector<Request>& requests, bool one_by_one) {
  Answers answers;
  const auto ask = [&](std::span<const Request> some) {
    std::vector<std::vector<int32_t>> prompts;
    std::vector<SamplingParams> params;
    for (const Request& request : some) {
      prompts.push_back(request.prompt);
      params.push_back(request.params);
    }
    const auto results = engine.generate(prompts, params);
    ASSERT_TRUE(results) << results.error().message;
    for (const GenerationResult& result : *results) {
      answers.push_back(result.token_ids);
    }
  };
  if (one_by_one) {
    for (const Request& request : requests) {
      ask({&request, 1});
    }
  } else {
    ask(requests);
  }
  return answers;
}

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

INSTANTIATE_TEST_SUITE_P(
    Models, GoldenEngine,
    testing::Values(Model{"llama31-rope-sharded-bf16", "bf16"},
                    Model{"qwen3-tied-padded-f32", "bf16"}, Model{"qwen3-untied-bf16", "fp8"},
                    Model{"gguf-llama-q4_k_m/gguf-llama-q4_k_m.gguf", "bf16"}));

}  // namespace
}  // namespace atom
