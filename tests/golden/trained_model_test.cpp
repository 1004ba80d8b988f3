// A trained model through the whole engine: the tokens and the text that its authors' reference
// generates greedily, up to near ties. Where the model is there (shared/models).
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>

#include "atom/core/json.h"
#include "atom/model_engine/llm_engine.h"
#include "atom/model_loader/mapped_file.h"
#include "tests/golden/golden_models.h"

namespace atom::golden {
namespace {

namespace json = boost::json;

struct Precision {
  const char* dtype;
  ComputeType compute;
  float near_tie;  // logits; what the reference computed in bf16 decides where the lead is smaller
};

// By how much each token of `output` lies below the best one after the tokens before it.
std::vector<float> gaps(LogitsRunner& runner, const std::vector<int32_t>& prompt,
                        const std::vector<int32_t>& output) {
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), output.begin(), output.end());
  const std::vector<float> logits = runner.logits(ids, 512);
  const size_t vocab = logits.size() / ids.size();
  std::vector<float> result;
  for (size_t i = 0; i < output.size(); ++i) {
    const float* row = logits.data() + (prompt.size() + i - 1) * vocab;
    result.push_back(*std::max_element(row, row + vocab) - row[output[i]]);
  }
  return result;
}

struct Speculation {
  DraftMethod method = DraftMethod::kNone;
  int num_tokens = 1;
};

class TrainedModel : public ::testing::TestWithParam<Speculation> {};

TEST_P(TrainedModel, DeepSeekV3ReproducesItsGreedyReference) {
  const char* shared = std::getenv("ATOM_SHARED_DIR");
  const std::filesystem::path model =
      std::filesystem::path(shared != nullptr ? shared : "../shared") /
      "models/tiny-deepseek-v3-mtp";
  const auto text = read_small_file(model / "greedy_reference.json", 1 << 20);
  if (!text) {
    GTEST_SKIP() << "no " << model.string() << " (set ATOM_SHARED_DIR)";
  }
  const json::value list = parse_json(*text).value();
  for (const Precision& precision : {Precision{"float32", ComputeType::kFloat32, 0.02F},
                                     Precision{"auto", ComputeType::kAuto, 0.25F}}) {
    auto config = make_engine_config({.model = model.string(),
                                      .max_model_len = 128,
                                      .device = "cpu",
                                      .dtype = precision.dtype,
                                      .threads = 2,
                                      .kv_cache_memory_gb = 0.01});
    ASSERT_TRUE(config) << config.error().message;
    config->speculative = {
        .method = GetParam().method, .num_tokens = GetParam().num_tokens, .adaptive = false};
    const auto engine = LLMEngine::create(*config);
    ASSERT_TRUE(engine) << engine.error().message;
    const auto runner = LogitsRunner::load({.path = model, .prompts = {}}, precision.compute, 3, 2);
    ASSERT_TRUE(runner) << runner.error().message;
    size_t reproduced = 0;
    for (const json::value& entry : list.as_array()) {
      SCOPED_TRACE(std::string(precision.dtype) + json::serialize(entry.at("prompt")));
      const auto prompt = json::value_to<std::vector<int32_t>>(entry.at("prompt_ids"));
      const auto expected = json::value_to<std::vector<int32_t>>(entry.at("output_ids"));
      const auto results =
          (*engine)->generate({prompt}, {{.temperature = 0.0F,
                                          .max_tokens = static_cast<int64_t>(expected.size()),
                                          .ignore_eos = true}});
      ASSERT_TRUE(results) << results.error().message;
      const std::vector<float> below = gaps(**runner, prompt, expected);
      EXPECT_LT(*std::ranges::max_element(below), precision.near_tie);
      const auto tie = std::ranges::find_if(below, [](float gap) { return gap > 0; });
      const std::vector<int32_t>& tokens = results->front().token_ids;
      EXPECT_TRUE(
          std::equal(expected.begin(), expected.begin() + (tie - below.begin()), tokens.begin()));
      if (tie == below.end()) {
        EXPECT_EQ(results->front().text, json::value_to<std::string>(entry.at("text")));
        ++reproduced;
      }
    }
    EXPECT_GE(reproduced, 3U) << precision.dtype;
    const DraftStats drafts = (*engine)->stats().drafts;
    if (GetParam().method == DraftMethod::kMtp) {
      EXPECT_GT(drafts.num_draft_tokens, 100);
      EXPECT_GT(drafts.num_accepted_at[0], drafts.num_drafts / 2);
      printf("accepted %.2f of %ld, %.2f a forward\n", drafts.acceptance_rate(),
             drafts.num_draft_tokens, drafts.tokens_per_forward());
    }
  }
}

// Many requests together, most of them seeded draws: each answer is the one without drafts.
std::vector<GenerationResult> draw(const std::filesystem::path& model, const json::array& list,
                                   const Speculation& speculation, DraftStats& drafts) {
  auto config = make_engine_config({.model = model.string(),
                                    .max_model_len = 128,
                                    .device = "cpu",
                                    .dtype = "float32",
                                    .threads = 2,
                                    .kv_cache_memory_gb = 0.01});
  EXPECT_TRUE(config) << config.error().message;
  config->speculative = {
      .method = speculation.method, .num_tokens = speculation.num_tokens, .adaptive = false};
  const auto engine = LLMEngine::create(*config);
  EXPECT_TRUE(engine) << engine.error().message;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<SamplingParams> params;
  for (size_t i = 0; i < 10; ++i) {
    prompts.push_back(
        json::value_to<std::vector<int32_t>>(list.at(i % list.size()).at("prompt_ids")));
    params.push_back({.temperature = 0.2F * static_cast<float>(i % 6),
                      .top_p = i % 2 == 0 ? 1.0F : 0.9F,
                      .repetition_penalty = i % 3 == 2 ? 1.1F : 1.0F,
                      .seed = static_cast<int64_t>(i),
                      .max_tokens = 40,
                      .n = i % 4 == 1 ? 2 : 1,
                      .logprobs = 3});
  }
  auto results = (*engine)->generate(prompts, params);
  EXPECT_TRUE(results) << results.error().message;
  drafts = (*engine)->stats().drafts;
  return results ? std::move(*results) : std::vector<GenerationResult>();
}

TEST_P(TrainedModel, SeededDrawsAreThoseWithoutDrafts) {
  const char* shared = std::getenv("ATOM_SHARED_DIR");
  const std::filesystem::path model =
      std::filesystem::path(shared != nullptr ? shared : "../shared") /
      "models/tiny-deepseek-v3-mtp";
  const auto text = read_small_file(model / "greedy_reference.json", 1 << 20);
  if (!text) {
    GTEST_SKIP() << "no " << model.string() << " (set ATOM_SHARED_DIR)";
  }
  const json::value list = parse_json(*text).value();
  DraftStats drafts;
  const std::vector<GenerationResult> expected = draw(model, list.as_array(), {}, drafts);
  const std::vector<GenerationResult> results = draw(model, list.as_array(), GetParam(), drafts);
  EXPECT_EQ(drafts.num_accepted_tokens > 0, GetParam().method != DraftMethod::kNone);
  ASSERT_EQ(results.size(), expected.size());
  ASSERT_EQ(results.size(), 13U);
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].token_ids, expected[i].token_ids);
    EXPECT_EQ(results[i].text, expected[i].text);
    ASSERT_EQ(results[i].logprobs.size(), expected[i].logprobs.size());
    for (size_t j = 0; j < results[i].logprobs.size(); ++j) {
      EXPECT_NEAR(results[i].logprobs[j].logprob, expected[i].logprobs[j].logprob, 1e-4F);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Drafts, TrainedModel,
                         ::testing::Values(Speculation{}, Speculation{DraftMethod::kMtp, 1},
                                           Speculation{DraftMethod::kMtp, 3},
                                           Speculation{DraftMethod::kNgram, 4}));

}  // namespace
}  // namespace atom::golden
