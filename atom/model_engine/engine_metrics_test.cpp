// What the engine says about itself: stalls, and counters that agree with what its callers got.
#include "atom/model_engine/engine_metrics.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "atom/model_engine/engine_core.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/scripted_executor.h"

namespace atom {
namespace {

using namespace std::chrono_literals;
using testing_support::byte_ids;
using testing_support::ScriptedExecutor;
using testing_support::ScriptedOptions;

std::unique_ptr<EngineCore> make_core(ScriptedOptions options, EngineCoreOptions core = {}) {
  core.scheduler.max_model_len = 256;
  core.scheduler.num_blocks = options.capacity.num_blocks;
  core.scheduler.block_size = options.capacity.block_size;
  core.scheduler.vocab_size = testing_support::kByteVocabSize;
  core.scheduler.eos_token_ids = {testing_support::kByteEos};
  return std::make_unique<EngineCore>(std::make_unique<ScriptedExecutor>(std::move(options)),
                                      testing_support::make_byte_tokenizer(), std::move(core));
}

// Counts requests that have ended.
class Ends {
 public:
  OutputCallback callback() {
    return [this](RequestOutput&& output) {
      if (!output.finished) return;
      const std::lock_guard lock(mutex_);
      ++count_;
      changed_.notify_all();
    };
  }
  void wait_for(int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 20s, [&] { return count_ >= count; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int count_ = 0;
};

int64_t total(const Histogram& histogram) {
  int64_t sum = 0;
  for (size_t i = 0; i <= histogram.bounds().size(); ++i) sum += histogram.count(i);
  return sum;
}

TEST(EngineHealth, AStepThatHangsIsReportedAndRecoveredFrom) {
  std::atomic<bool> hang{true};
  ScriptedOptions options{.script = byte_ids("abc"), .eos = testing_support::kByteEos};
  options.on_submit = [&](uint64_t) -> Status {
    while (hang) std::this_thread::sleep_for(1ms);
    return {};
  };
  const auto core = make_core(std::move(options), {.stall_timeout = 50ms});
  EXPECT_EQ(core->stats().condition, EngineCondition::kOk);  // asleep, and that is no stall
  Ends ends;
  ASSERT_TRUE(core->add_request({.prompt_token_ids = byte_ids("x")}, ends.callback()));
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (core->stats().condition != EngineCondition::kStalled &&
         std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(1ms);
  const EngineStats stalled = core->stats();
  EXPECT_EQ(stalled.condition, EngineCondition::kStalled);
  EXPECT_GE(stalled.seconds_since_progress, 0.05);
  hang = false;
  ends.wait_for(1);
  EXPECT_EQ(core->stats().condition, EngineCondition::kOk);
}

TEST(EngineHealth, AnOutputThreadThatHangsIsReported) {
  std::atomic<bool> hang{true};
  const auto core = make_core({.script = byte_ids("a"), .eos = testing_support::kByteEos},
                              {.stall_timeout = 50ms});
  ASSERT_TRUE(core->add_request({.prompt_token_ids = byte_ids("x")}, [&](RequestOutput&&) {
    while (hang) std::this_thread::sleep_for(1ms);
  }));
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (core->stats().condition != EngineCondition::kStalled &&
         std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(1ms);
  EXPECT_EQ(core->stats().condition, EngineCondition::kStalled);
  hang = false;
}

TEST(EngineMetrics, AgreeWithWhatCallersGot) {
  ScriptedOptions options{.script = byte_ids("abcdefgh"), .eos = testing_support::kByteEos};
  options.step_time = 200us;
  const auto core = make_core(std::move(options));
  const EngineMetrics& metrics = core->metrics();
  Ends ends;
  SamplingParams two{.max_tokens = 4};
  two.n = 2;
  ASSERT_TRUE(core->add_request({.prompt_token_ids = byte_ids("prompt"), .sampling = two},
                                ends.callback()));
  SamplingParams whole{.max_tokens = 100};
  ASSERT_TRUE(
      core->add_request({.prompt_token_ids = byte_ids("p"), .sampling = whole}, ends.callback()));
  SamplingParams endless{.max_tokens = 200};
  endless.ignore_eos = true;
  const auto id =
      core->add_request({.prompt_token_ids = byte_ids("q"), .sampling = endless}, ends.callback());
  ASSERT_TRUE(id);
  ends.wait_for(2);
  core->abort(*id);
  core->abort(*id);  // once is enough
  ends.wait_for(3);
  const auto finished = [&](FinishReason reason) {
    return metrics.finished[static_cast<size_t>(reason)].value();
  };
  EXPECT_EQ(finished(FinishReason::kLength), 2);
  EXPECT_EQ(finished(FinishReason::kStop), 1);
  EXPECT_EQ(finished(FinishReason::kAbort) + finished(FinishReason::kError), 1);
  EXPECT_EQ(total(metrics.time_to_first_token), 4);
  for (const Histogram* histogram :
       {&metrics.e2e_latency, &metrics.queue_time, &metrics.prefill_time, &metrics.decode_time,
        &metrics.inference_time, &metrics.time_per_output_token, &metrics.generation_tokens,
        &metrics.params_max_tokens})
    EXPECT_EQ(total(*histogram), 3);
  EXPECT_EQ(metrics.generation_tokens.sum(), 4 + 4 + 9);  // EOS is a token
  EXPECT_EQ(metrics.prompt_tokens.sum(), 6 + 6 + 1);
  EXPECT_EQ(metrics.params_n.sum(), 2 + 1 + 1);
  EXPECT_NEAR(metrics.e2e_latency.sum(), metrics.queue_time.sum() + metrics.inference_time.sum(),
              1e-6);
  EXPECT_NEAR(metrics.inference_time.sum(), metrics.prefill_time.sum() + metrics.decode_time.sum(),
              1e-9);
  EXPECT_EQ(static_cast<int64_t>(metrics.iteration_tokens.sum()) > 20, true);
  EXPECT_EQ(total(metrics.iteration_tokens), core->stats().num_steps);
}

}  // namespace
}  // namespace atom
