#include "tests/golden/serving.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "atom/model_engine/memory_plan.h"

namespace atom::golden {
namespace {

constexpr int64_t kMaxModelLen = 192;
constexpr int64_t kBlockSize = 16;
constexpr int32_t kVocab = 277;  // ids below this exist in every golden model

}  // namespace

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

EngineConfig make_config(const Model& model, const Serving& serving) {
  const bool committed = !std::string_view(model.path).starts_with('/');
  const std::string path = (committed ? "tests/golden/models/" : "") + std::string(model.path);
  auto config = make_engine_config({.model = path,
                                    .enforce_eager = serving.enforce_eager,
                                    .enable_prefix_caching = serving.prefix_caching,
                                    .kv_cache_dtype = model.kv_cache_dtype,
                                    .block_size = kBlockSize,
                                    .max_model_len = kMaxModelLen,
                                    .cudagraph_capture_sizes = serving.capture_sizes,
                                    .level = serving.level,
                                    .device = "cpu",
                                    .deterministic = serving.deterministic,
                                    .threads = serving.threads});
  EXPECT_TRUE(config) << config.error().message;
  config->scheduler.max_num_batched_tokens = serving.max_num_batched_tokens;
  config->scheduler.max_num_seqs = serving.max_num_seqs;
  config->speculative = serving.speculative;
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

}  // namespace atom::golden
