#include "atom/model_engine/llm_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include "tests/support/byte_tokenizer.h"
#include "tests/support/scripted_executor.h"

namespace atom {
namespace {

using namespace std::chrono_literals;
using testing_support::byte_ids;
using testing_support::ScriptedExecutor;
using testing_support::ScriptedOptions;

ScriptedOptions says(std::string_view text) {
  return {.script = byte_ids(text), .eos = testing_support::kByteEos};
}

std::unique_ptr<LLMEngine> make_engine(ScriptedOptions options, SchedulerConfig scheduler = {}) {
  scheduler.max_model_len = scheduler.max_model_len.value_or(1024);
  EngineParts parts{.executor = std::make_unique<ScriptedExecutor>(std::move(options)),
                    .tokenizer = testing_support::make_byte_tokenizer(),
                    .scheduler = scheduler};
  parts.model.vocab_size = testing_support::kByteVocabSize;
  parts.model.eos_token_ids = {testing_support::kByteEos};
  Result<std::unique_ptr<LLMEngine>> engine = LLMEngine::create_with(std::move(parts));
  EXPECT_TRUE(engine.has_value());
  return std::move(*engine);
}

// Everything that one request said, and a way to wait for its end.
class Listener {
 public:
  OutputCallback callback() {
    return [this](RequestOutput&& output) {
      const std::lock_guard lock(mutex_);
      for (ChoiceDelta& delta : output.choices) {
        text += delta.text;
        token_ids.insert(token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
        if (delta.finish_reason) {
          reasons.push_back(*delta.finish_reason);
          stop_reason = delta.stop_reason;
        }
      }
      ++num_events;
      last = std::move(output);
      changed_.notify_all();
    };
  }
  const RequestOutput& wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 20s, [&] { return last.finished; }));
    return last;
  }
  void wait_for_event() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 20s, [&] { return num_events > 0; }));
  }

  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<FinishReason> reasons;
  std::variant<std::monostate, std::string, int32_t> stop_reason;
  int num_events = 0;
  RequestOutput last;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

GenerationRequest ask(std::string_view prompt, SamplingParams params = {}) {
  return {.prompt_token_ids = byte_ids(prompt), .sampling = std::move(params)};
}

TEST(LLMEngine, GeneratesTheScriptAndStopsAtEos) {
  const auto engine = make_engine(says("Hello, wörld!"));
  Listener listener;
  ASSERT_TRUE(engine->add_request(ask("Say hello"), listener.callback()));
  const RequestOutput& last = listener.wait();
  EXPECT_EQ(listener.text, "Hello, wörld!");
  EXPECT_THAT(listener.reasons, testing::ElementsAre(FinishReason::kStop));
  EXPECT_EQ(listener.stop_reason.index(), 0U);
  EXPECT_EQ(last.num_prompt_tokens, 9);
  EXPECT_EQ(last.num_generated_tokens, 15);  // 14 bytes and EOS
  EXPECT_GE(last.timing.ttft, last.timing.queued);
  EXPECT_GE(last.timing.latency, last.timing.ttft);
  EXPECT_FALSE(last.error);
}

TEST(LLMEngine, AStopStringEndsTheChoiceAndFreesItsBlocks) {
  ScriptedOptions options = says("one two STOP three");
  options.script.resize(900, 'x');
  options.step_time = 200us;
  const auto engine = make_engine(std::move(options));
  Listener listener;
  ASSERT_TRUE(engine->add_request(ask("count", {.max_tokens = 900, .stop_strings = {"STOP"}}),
                                  listener.callback()));
  const RequestOutput& last = listener.wait();
  EXPECT_EQ(listener.text, "one two ");
  EXPECT_EQ(std::get<std::string>(listener.stop_reason), "STOP");
  EXPECT_EQ(last.num_generated_tokens, 12);
  engine->drain(10s);
  for (int i = 0; i < 1000 && engine->stats().num_running > 0; ++i) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_EQ(engine->stats().num_running, 0);
  EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
  EXPECT_LT(engine->stats().num_steps, 900);
}

TEST(LLMEngine, GenerateKeepsTheOrderOfPromptsAndChoices) {
  const auto engine = make_engine({.echo = true, .eos = testing_support::kByteEos});
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 50; ++i) {
    prompts.push_back(byte_ids("prompt " + std::to_string(i)));
  }
  const auto results = engine->generate(prompts, {SamplingParams{.temperature = 0, .n = 2}});
  ASSERT_TRUE(results.has_value());
  ASSERT_EQ(results->size(), 100U);
  for (size_t i = 0; i < results->size(); ++i) {
    EXPECT_EQ((*results)[i].text, "prompt " + std::to_string(i / 2));
    EXPECT_EQ((*results)[i].finish_reason, FinishReason::kStop);
  }
}

TEST(LLMEngine, RefusesWhatCanNeverBeServed) {
  const auto engine = make_engine(says("x"), {.max_model_len = 32});
  const OutputCallback ignore = [](RequestOutput&&) { ADD_FAILURE(); };
  const auto refused = [&](GenerationRequest request, std::string_view words) {
    const auto result = engine->add_request(std::move(request), ignore);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(result.error().message, testing::HasSubstr(words));
  };
  refused(ask(""), "empty");
  refused(ask(std::string(32, 'a')), "maximum context length is 32 tokens");
  for (const int32_t id : {-1, 259, 1 << 30}) {
    refused({.prompt_token_ids = {65, id}}, "outside the vocabulary");
  }
  refused(ask("a", {.n = 0}), "n");
  refused(ask("a", {.logit_bias = {{259, 1.0F}}}), "outside the vocabulary");
  EXPECT_TRUE(engine->generate({byte_ids(std::string(31, 'a'))}, {{}}));
}

TEST(LLMEngine, AbortEndsARequestInAnyStateOnce) {
  ScriptedOptions options = says(std::string(900, 'a'));
  options.step_time = 1ms;
  const auto engine = make_engine(std::move(options), {.max_num_seqs = 1});
  Listener running, waiting;
  const auto first = engine->add_request(ask("a", {.max_tokens = 900}), running.callback());
  const auto second = engine->add_request(ask("b", {.max_tokens = 900}), waiting.callback());
  running.wait_for_event();
  for (int i = 0; i < 2; ++i) {
    engine->abort(*second);
    engine->abort(*first);
    engine->abort(999);
  }
  running.wait();
  waiting.wait();
  EXPECT_THAT(running.reasons, testing::ElementsAre(FinishReason::kAbort));
  EXPECT_THAT(waiting.reasons, testing::ElementsAre(FinishReason::kAbort));
  EXPECT_EQ(waiting.text, "");
  engine->abort(*first);
  EXPECT_EQ(engine->generate({byte_ids("next")}, {{.max_tokens = 3}})->at(0).text, "aaa");
}

TEST(LLMEngine, ARowWithoutFiniteLogitsFailsItsRequestOnly) {
  ScriptedOptions options = says("fine");
  options.on_token = [](SequenceId id, int64_t index, int32_t token) {
    return id == 2 && index == 2 ? -1 : token;
  };
  const auto engine = make_engine(std::move(options));
  Listener first, second, third;
  ASSERT_TRUE(engine->add_request(ask("a"), first.callback()));
  ASSERT_TRUE(engine->add_request(ask("b"), second.callback()));
  ASSERT_TRUE(engine->add_request(ask("c"), third.callback()));
  EXPECT_EQ(first.wait().error, std::nullopt);
  EXPECT_TRUE(second.wait().error.has_value());
  EXPECT_EQ(second.last.error->code, ErrorCode::kInternal);
  EXPECT_THAT(second.reasons, testing::ElementsAre(FinishReason::kError));
  third.wait();
  EXPECT_EQ(first.text, "fine");
  EXPECT_EQ(third.text, "fine");
  EXPECT_EQ(engine->stats().condition, EngineCondition::kOk);
}

TEST(LLMEngine, AFailedStepFailsTheRunningRequestsAndTheEngineGoesOn) {
  for (const bool throws : {false, true}) {
    ScriptedOptions options = says("fine");
    options.on_submit = [throws](uint64_t step) -> Status {
      if (step != 3) {
        return {};
      }
      if (throws) {
        throw std::bad_alloc();
      }
      return make_error(ErrorCode::kInternal, "secret address 0x1234");
    };
    const auto engine = make_engine(std::move(options));
    Listener listener;
    ASSERT_TRUE(engine->add_request(ask("a"), listener.callback()));
    const RequestOutput& last = listener.wait();
    ASSERT_TRUE(last.error);
    EXPECT_EQ(last.error->message, "a step of the engine failed");
    EXPECT_EQ(engine->stats().condition, EngineCondition::kOk);
    EXPECT_EQ(engine->generate({byte_ids("again")}, {{}})->at(0).text, "fine");
    EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
  }
}

TEST(LLMEngine, ADeviceThatFailsForGoodIsGivenUpAndHealthSaysSo) {
  ScriptedOptions options = says("fine");
  options.on_submit = [](uint64_t) -> Status { return make_error(ErrorCode::kInternal, "gone"); };
  const auto engine = make_engine(std::move(options));
  for (int i = 0; i < 3; ++i) {
    Listener listener;
    ASSERT_TRUE(engine->add_request(ask("a"), listener.callback()));
    EXPECT_TRUE(listener.wait().error.has_value());
  }
  EXPECT_EQ(engine->stats().condition, EngineCondition::kDead);
  const auto refused = engine->add_request(ask("a"), [](RequestOutput&&) {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
}

TEST(LLMEngine, DrainFinishesOrAbortsAndRefusesNewRequests) {
  ScriptedOptions options = says(std::string(900, 'a'));
  options.step_time = 1ms;
  const auto engine = make_engine(std::move(options));
  Listener quick, slow;
  ASSERT_TRUE(engine->add_request(ask("a", {.max_tokens = 5}), quick.callback()));
  ASSERT_TRUE(engine->add_request(ask("b", {.max_tokens = 900}), slow.callback()));
  engine->drain(100ms);
  EXPECT_EQ(quick.wait().finished, true);
  EXPECT_THAT(quick.reasons, testing::ElementsAre(FinishReason::kLength));
  EXPECT_TRUE(slow.last.finished);
  EXPECT_THAT(slow.reasons, testing::ElementsAre(FinishReason::kAbort));
  EXPECT_EQ(engine->add_request(ask("c"), [](RequestOutput&&) {}).error().code,
            ErrorCode::kUnavailable);
}

TEST(LLMEngine, ACallbackThatThrowsEndsOnlyItsRequest) {
  const auto engine = make_engine(says("fine"));
  ASSERT_TRUE(
      engine->add_request(ask("a"), [](RequestOutput&&) { throw std::runtime_error("client"); }));
  EXPECT_EQ(engine->generate({byte_ids("b")}, {{}})->at(0).text, "fine");
}

TEST(LLMEngine, DestructionAnswersOpenRequests) {
  ScriptedOptions options = says(std::string(900, 'a'));
  options.step_time = 1ms;
  auto engine = make_engine(std::move(options));
  Listener listener;
  ASSERT_TRUE(engine->add_request(ask("a", {.max_tokens = 900}), listener.callback()));
  engine.reset();
  EXPECT_TRUE(listener.last.finished);
  EXPECT_THAT(listener.reasons, testing::ElementsAre(FinishReason::kAbort));
}

}  // namespace
}  // namespace atom
