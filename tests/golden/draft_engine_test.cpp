// Speculative decoding does not change an answer: the same tokens, text, logprobs and ends with and
// without drafts, whatever is served beside them: greedy and seeded, penalties, n choices, stop
// strings and ids, any max_tokens, chunks, prefix cache, preemption. Golden models through the
// whole engine, where sums do not depend on how rows are batched; the reference is each request
// alone, without drafts.
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "tests/golden/golden_models.h"
#include "tests/golden/serving.h"

namespace atom::golden {
namespace {

struct Drafting {
  const char* name;
  SpeculativeConfig speculative;
};

constexpr SpeculativeConfig ngram(int num_tokens) {
  return {.method = DraftMethod::kNgram,
          .num_tokens = num_tokens,
          .adaptive = false,
          .lookup_min = 1,
          .lookup_max = 3};
}

constexpr SpeculativeConfig mtp(int num_tokens) {
  return {.method = DraftMethod::kMtp, .num_tokens = num_tokens, .adaptive = false};
}

const Drafting kNgramDraftings[] = {
    {"ngram 1", ngram(1)}, {"ngram 3", ngram(3)}, {"ngram 8", ngram(8)}};
const Drafting kMtpDraftings[] = {{"mtp 1", mtp(1)}, {"mtp 2", mtp(2)}, {"mtp 3", mtp(3)}};

const Serving kServings[] = {
    {.name = "batch"},
    {.name = "prefix cache, one by one", .prefix_caching = true, .one_by_one = true, .rounds = 2},
    {.name = "chunks of 7, four at a time", .max_num_batched_tokens = 7, .max_num_seqs = 4},
    {.name = "preemption", .num_blocks = 15},
    {.name = "preemption, prefix cache",
     .prefix_caching = true,
     .max_num_batched_tokens = 40,
     .num_blocks = 15,
     .rounds = 2},
};

std::vector<Request> make_draft_requests() {
  std::vector<Request> requests = make_requests();
  for (size_t i = 0; i < requests.size(); ++i) {
    SamplingParams& params = requests[i].params;
    params.logprobs = i % 2 == 0 ? std::optional<int32_t>(2) : std::nullopt;
    params.n = i % 4 == 3 ? 3 : 1;
    if (i % 4 == 2) {  // few words: what was said is said again
      params.logit_bias = {{50, 12.0F}, {60, 12.0F}, {70, 12.0F}};
      params.temperature = 1.0F;
    }
    if (i % 5 == 4) {
      params.presence_penalty = 0.7F;
      params.frequency_penalty = 0.3F;
    }
    if (i % 6 == 5) {
      params.ignore_eos = false;
      params.min_tokens = 6;
    }
  }
  return requests;
}

using Results = std::vector<GenerationResult>;

Results generate(LLMEngine& engine, const std::vector<Request>& requests, bool one_by_one) {
  Results all;
  const size_t at_once = one_by_one ? 1 : requests.size();
  for (size_t begin = 0; begin < requests.size(); begin += at_once) {
    std::vector<std::vector<int32_t>> prompts;
    std::vector<SamplingParams> params;
    for (size_t i = begin; i < begin + at_once; ++i) {
      prompts.push_back(requests[i].prompt);
      params.push_back(requests[i].params);
    }
    auto results = engine.generate(prompts, params);
    EXPECT_TRUE(results) << results.error().message;
    if (results) {
      std::ranges::move(*results, std::back_inserter(all));
    }
  }
  return all;
}

void expect_equal(const Results& results, const Results& expected) {
  ASSERT_EQ(results.size(), expected.size());
  for (size_t i = 0; i < results.size(); ++i) {
    SCOPED_TRACE("answer " + std::to_string(i));
    EXPECT_EQ(results[i].token_ids, expected[i].token_ids);
    EXPECT_EQ(results[i].text, expected[i].text);
    EXPECT_EQ(results[i].finish_reason, expected[i].finish_reason);
    EXPECT_EQ(results[i].num_tokens_output, expected[i].num_tokens_output);
    ASSERT_EQ(results[i].logprobs.size(), expected[i].logprobs.size());
    for (size_t token = 0; token < results[i].logprobs.size(); ++token) {
      const TokenLogprobs& logprobs = results[i].logprobs[token];
      EXPECT_NEAR(logprobs.logprob, expected[i].logprobs[token].logprob, 1e-4F);
      EXPECT_EQ(logprobs.rank, expected[i].logprobs[token].rank);
      EXPECT_EQ(logprobs.top.size(), expected[i].logprobs[token].top.size());
    }
  }
}

// What the statistics say, whatever was drafted.
void expect_sound(const EngineStats& stats, const SpeculativeConfig& speculative) {
  const DraftStats& drafts = stats.drafts;
  EXPECT_EQ(stats.draft_method, speculative.method);
  EXPECT_GT(drafts.num_accepted_tokens, 0);
  EXPECT_GT(drafts.num_draft_tokens, drafts.num_accepted_tokens);
  EXPECT_LE(drafts.num_draft_tokens, drafts.num_drafts * speculative.num_tokens);
  EXPECT_LE(drafts.num_drafts, drafts.num_forwards);
  int64_t accepted = 0;
  for (const int64_t count : drafts.num_accepted_at) {
    accepted += count;
  }
  EXPECT_EQ(accepted, drafts.num_accepted_tokens);
  ::testing::Test::RecordProperty("acceptance_rate", std::to_string(drafts.acceptance_rate()));
}

std::unique_ptr<LLMEngine> make_engine(const Model& model, Serving serving,
                                       const SpeculativeConfig& speculative) {
  serving.speculative = speculative;
  auto engine = LLMEngine::create(make_config(model, serving));
  EXPECT_TRUE(engine) << engine.error().message;
  return engine ? std::move(*engine) : nullptr;
}

struct Case {
  Model model;
  std::span<const Drafting> draftings;
};

class DraftEngine : public testing::TestWithParam<Case> {};

TEST_P(DraftEngine, AnswersDoNotDependOnDrafts) {
  const auto& [model, draftings] = GetParam();
  const std::vector<Request> requests = make_draft_requests();
  const auto reference = make_engine(model, {.name = "reference"}, {});
  const Results expected = generate(*reference, requests, /*one_by_one=*/true);
  for (const Serving& serving : kServings) {
    for (const Drafting& drafting : draftings) {
      SCOPED_TRACE(std::string(drafting.name) + ", " + serving.name);
      const auto engine = make_engine(model, serving, drafting.speculative);
      ASSERT_NE(engine, nullptr);
      for (int round = 0; round < serving.rounds; ++round) {
        expect_equal(generate(*engine, requests, serving.one_by_one), expected);
      }
      const EngineStats stats = engine->stats();
      expect_sound(stats, drafting.speculative);
      EXPECT_EQ(stats.num_preemptions > 0, serving.num_blocks < 20) << stats.num_preemptions;
      if (serving.prefix_caching && serving.num_blocks > 20) {
        EXPECT_GT(stats.prefix_cache_hits, 100);
      }
    }
  }
}

// Ends wherever drafts may be: at every max_tokens, every stop id, EOS and stop strings, also with
// min_tokens.
TEST_P(DraftEngine, EndsWhereItEndsWithoutDrafts) {
  const auto& [model, draftings] = GetParam();
  const auto plain = make_engine(model, {.name = "plain"}, {});
  const std::vector<int32_t> prompt = make_requests()[4].prompt;
  Request whole{.prompt = prompt,
                .params = {.temperature = 0.0F, .max_tokens = 40, .ignore_eos = true}};
  if (draftings[0].speculative.method == DraftMethod::kNgram) {
    whole.params.logit_bias = {{50, 12.0F}, {60, 12.0F}, {70, 12.0F}};
  }
  const Results base = generate(*plain, {whole}, true);
  ASSERT_EQ(base.size(), 1U);
  ASSERT_EQ(base[0].token_ids.size(), 40U);
  std::vector<Request> requests;
  for (int64_t i = 0; i < 40; i += i < 12 ? 1 : 3) {
    Request& counted = requests.emplace_back(whole);
    counted.params.max_tokens = i + 1;
    Request& stopped = requests.emplace_back(whole);
    stopped.params.stop_token_ids = {base[0].token_ids[static_cast<size_t>(i)]};
    Request& later = requests.emplace_back(stopped);
    later.params.min_tokens = i / 2;
    Request& ended = requests.emplace_back(whole);
    ended.params.ignore_eos = false;
    // EOS comes, sooner or later.
    ended.params.logit_bias.emplace_back(1, static_cast<float>(i) / 2);
    Request& said = requests.emplace_back(whole);
    const std::string& text = base[0].text;
    said.params.stop_strings = {text.substr(text.size() * static_cast<size_t>(i) / 40, 3)};
    std::erase(said.params.stop_strings, "");
  }
  const Results expected = generate(*plain, requests, false);
  EXPECT_GT(std::ranges::count(expected, FinishReason::kStop, &GenerationResult::finish_reason),
            20);
  for (const Drafting& drafting : draftings) {
    SCOPED_TRACE(drafting.name);
    const auto engine = make_engine(model, {.name = "drafts"}, drafting.speculative);
    const Results results = generate(*engine, requests, false);
    expect_equal(results, expected);
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_LE(results[i].token_ids.size(), static_cast<size_t>(requests[i].params.max_tokens));
    }
    expect_sound(engine->stats(), drafting.speculative);
  }
}

struct Streamed {
  std::string text;
  std::vector<int32_t> token_ids;
  size_t num_logprobs = 0;
  int num_events = 0;
  int num_ends = 0;
  bool finished = false;
};

Streamed stream(LLMEngine& engine, const Request& request) {
  std::mutex mutex;
  std::condition_variable changed;
  Streamed result;
  const auto id = engine.add_request(
      {.prompt_token_ids = request.prompt, .sampling = request.params, .grammar = nullptr},
      [&](RequestOutput&& output) {
        const std::lock_guard lock(mutex);
        EXPECT_FALSE(result.finished);
        ++result.num_events;
        for (const ChoiceDelta& delta : output.choices) {
          result.text += delta.text;
          result.token_ids.insert(result.token_ids.end(), delta.token_ids.begin(),
                                  delta.token_ids.end());
          result.num_logprobs += delta.logprobs.size();
          result.num_ends += delta.finish_reason ? 1 : 0;
        }
        EXPECT_GE(output.num_generated_tokens, static_cast<int64_t>(result.token_ids.size()));
        result.finished = output.finished;
        changed.notify_one();
      });
  EXPECT_TRUE(id) << id.error().message;
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return result.finished; });
  return result;
}

TEST_P(DraftEngine, StreamsEveryTokenOnce) {
  const auto& [model, draftings] = GetParam();
  const std::vector<Request> requests = make_draft_requests();
  const auto engine = make_engine(model, {.name = "drafts"}, draftings.back().speculative);
  for (const size_t i : {0, 2, 4, 6}) {
    const Results whole = generate(*engine, {requests[i]}, true);
    const Streamed streamed = stream(*engine, requests[i]);
    EXPECT_EQ(streamed.text, whole[0].text);
    EXPECT_EQ(streamed.token_ids, whole[0].token_ids);
    EXPECT_EQ(streamed.num_logprobs, whole[0].logprobs.size());
    EXPECT_EQ(streamed.num_ends, 1);
  }
}

// What the draft layer guesses is what it makes of the whole text from an empty cache: nothing that
// chunks, cached prefixes, preemption or rejected drafts leave behind is read. One guess at a time,
// so that every one follows from the text.
struct Guesses {
  int64_t drafted = 0, accepted = 0;
  bool operator==(const Guesses&) const = default;
};

Guesses guesses_from_scratch(LogitsRunner& runner, const Request& request,
                             const std::vector<int32_t>& answer) {
  std::vector<int32_t> ids = request.prompt;
  ids.insert(ids.end(), answer.begin(), answer.end());
  const std::vector<float> logits = runner.draft_logits(ids, 512);
  const size_t vocab = logits.size() / (ids.size() - 1);
  Guesses guesses;
  // `newest` is verified together with a guess of what follows it, unless that ends the answer.
  for (size_t newest = request.prompt.size(); newest + 2 < ids.size(); ++newest) {
    const auto row = logits.begin() + static_cast<ptrdiff_t>((newest - 1) * vocab);
    const auto guess = std::max_element(row, row + static_cast<ptrdiff_t>(vocab)) - row;
    ++guesses.drafted;
    if (guess == ids[newest + 1]) {
      ++guesses.accepted;
      ++newest;
    }
  }
  return guesses;
}

TEST(DraftLayer, GuessesWhatItGuessesFromScratch) {
  const Model model{"deepseek-v3-mtp-bf16", "bf16"};
  const auto runner =
      LogitsRunner::load({.path = std::string("tests/golden/models/") + model.path, .prompts = {}},
                         ComputeType::kAuto, 3, 2, Drafts::kQuantized);
  ASSERT_TRUE(runner) << runner.error().message;
  std::vector<Request> requests = make_requests();
  for (Request& request : requests) {
    request.params.max_tokens = 40;
  }
  // The same full blocks, and then another token: what the layer keeps of the last token depends on
  // the next one.
  for (int32_t i = 0; i < 8; ++i) {
    Request request = requests[10];
    request.prompt.resize(static_cast<size_t>(16 * (1 + i % 3)));
    request.prompt.push_back(20 + i);
    requests.push_back(std::move(request));
  }
  const auto plain = make_engine(model, {.name = "plain"}, {});
  const Results answers = generate(*plain, requests, false);
  Guesses expected;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Guesses one = guesses_from_scratch(**runner, requests[i], answers[i].token_ids);
    expected.drafted += one.drafted;
    expected.accepted += one.accepted;
  }
  EXPECT_GT(expected.accepted, 50);
  EXPECT_GT(expected.drafted - expected.accepted, 50);
  for (Serving serving : kServings) {
    SCOPED_TRACE(serving.name);
    // Beside prompts, room for a guess of each of four sequences: none is dropped.
    serving.max_num_batched_tokens = std::max<int64_t>(serving.max_num_batched_tokens, 12);
    const auto engine = make_engine(model, serving, mtp(1));
    Guesses before;
    for (int round = 0; round < serving.rounds; ++round) {
      expect_equal(generate(*engine, requests, serving.one_by_one), answers);
      const DraftStats drafts = engine->stats().drafts;
      const Guesses now{.drafted = drafts.num_draft_tokens, .accepted = drafts.num_accepted_tokens};
      const Guesses seen{.drafted = now.drafted - before.drafted,
                         .accepted = now.accepted - before.accepted};
      before = now;
      if (engine->stats().num_preemptions == 0) {
        EXPECT_EQ(seen, expected) << seen.accepted << " of " << seen.drafted;
      } else {  // guesses go with the blocks, or have none
        EXPECT_NEAR(static_cast<double>(seen.drafted), static_cast<double>(expected.drafted), 40);
        EXPECT_NEAR(static_cast<double>(seen.accepted), static_cast<double>(expected.accepted), 15);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, DraftEngine,
    testing::Values(Case{{"deepseek-v3-mtp-bf16", "bf16"}, kMtpDraftings},
                    Case{{"deepseek-v3-mtp-bf16", "fp8"}, kNgramDraftings},
                    Case{{"llama31-rope-sharded-bf16", "bf16"}, kNgramDraftings},
                    Case{{"gguf-llama-q4_k_m/gguf-llama-q4_k_m.gguf", "bf16"}, kNgramDraftings},
                    Case{{"gpt-oss-bf16", "bf16"}, kNgramDraftings}));

}  // namespace
}  // namespace atom::golden
