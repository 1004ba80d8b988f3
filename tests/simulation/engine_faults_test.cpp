// The whole engine (threads, queues, scheduler, output) on an executor that fails: step errors,
// memory that runs out at any allocation, slow and stuck steps, rows without numbers. After every
// fault the same must hold: every request ends exactly once, all blocks come back, and the engine
// either serves the next request or says that it is dead. The controls at the end show that these
// checks can fail. ATOM_FAULT_SEEDS and ATOM_FAULT_ALLOCATIONS change how many lives there are.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <random>
#include <thread>

#include "atom/core/log.h"
#include "atom/model_engine/engine_core.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/failing_memory.h"
#include "tests/support/scripted_executor.h"

namespace atom {
namespace {

using namespace std::chrono_literals;
using testing_support::byte_ids;
using testing_support::exempt_from_failing_memory;
using testing_support::ScriptedExecutor;
using testing_support::ScriptedOptions;

constexpr const char* kText = "a fine answer, long enough for some steps";

int64_t from_environment(const char* name, int64_t fallback) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoll(text, nullptr, 10) : fallback;
}

ScriptedOptions says_text() {
  return {.script = byte_ids(kText),
          .eos = testing_support::kByteEos,
          .capacity = {.num_blocks = 64, .block_size = 4, .max_in_flight = 2}};
}

std::unique_ptr<EngineCore> make_core(ScriptedOptions options,
                                      DraftMethod drafts = DraftMethod::kNone,
                                      std::chrono::milliseconds stall = 30s) {
  const ExecutorCapacity capacity = options.capacity;
  EngineCoreOptions core{.scheduler = {.max_num_batched_tokens = 64,
                                       .max_num_seqs = 8,
                                       .max_model_len = 128,
                                       .num_blocks = capacity.num_blocks,
                                       .block_size = capacity.block_size,
                                       .vocab_size = testing_support::kByteVocabSize,
                                       .eos_token_ids = {testing_support::kByteEos},
                                       .speculative = {.method = drafts,
                                                       .num_tokens = 3,
                                                       .adaptive = false,
                                                       .lookup_min = 1}},
                         .stall_timeout = stall};
  return std::make_unique<EngineCore>(std::make_unique<ScriptedExecutor>(std::move(options)),
                                      testing_support::make_byte_tokenizer(), std::move(core));
}

// What a client sees of one request, and what must never be seen.
class Witness {
 public:
  explicit Witness(int32_t n) : ends_(static_cast<size_t>(n)), texts_(static_cast<size_t>(n)) {}

  void see(const RequestOutput& output) {
    const std::lock_guard lock(mutex_);
    if (finished_) fault_ = "an event after the last one";
    for (const ChoiceDelta& delta : output.choices) {
      const auto i = static_cast<size_t>(delta.index);
      if (ends_[i] > 0) fault_ = "a choice goes on after its end";
      texts_[i] += delta.text;
      ends_[i] += delta.finish_reason ? 1 : 0;
    }
    finished_ = finished_ || output.finished;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [this] { return finished_; });
  }
  // Empty when all is well.
  std::string fault() {
    const std::lock_guard lock(mutex_);
    if (!fault_.empty()) return fault_;
    if (!finished_) return "no end";
    for (const int count : ends_) {
      if (count != 1) return "a choice ended " + std::to_string(count) + " times";
    }
    for (const std::string& text : texts_) {
      if (!std::string_view(kText).starts_with(text)) return "wrong text: " + text;
    }
    return {};
  }
  bool whole() {
    const std::lock_guard lock(mutex_);
    return finished_ && texts_[0] == kText;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> ends_;
  std::vector<std::string> texts_;
  bool finished_ = false;
  std::string fault_;
};

// Asks; nullptr when the engine refused.
std::shared_ptr<Witness> ask(EngineCore& core, int32_t n, RequestId* id = nullptr) {
  auto witness = std::make_shared<Witness>(n);
  const auto added = core.add_request(
      {.prompt_token_ids = byte_ids("prompt"), .sampling = {.max_tokens = 100, .n = n}},
      [witness](RequestOutput&& output) {
        const bool before = std::exchange(exempt_from_failing_memory, true);
        witness->see(output);
        exempt_from_failing_memory = before;
      });
  if (!added) return nullptr;
  if (id != nullptr) *id = *added;
  return witness;
}

bool balanced(const EngineCore& core) {
  for (int i = 0; i < 2000; ++i) {
    const EngineStats stats = core.stats();
    if (stats.num_free_blocks == stats.num_blocks && stats.num_running == 0 &&
        stats.num_waiting == 0)
      return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

// After the fault: serves, or is dead and says so.
void expect_alive_or_honest(EngineCore& core) {
  if (core.stats().condition == EngineCondition::kDead) {
    EXPECT_EQ(ask(core, 1), nullptr);
    return;
  }
  EXPECT_TRUE(balanced(core)) << core.stats().num_free_blocks << " of " << core.stats().num_blocks;
  const auto next = ask(core, 1);
  if (next == nullptr) {
    EXPECT_EQ(core.stats().condition, EngineCondition::kDead);
    return;
  }
  ASSERT_TRUE(next->wait());
  EXPECT_EQ(next->fault(), "");
  EXPECT_TRUE(next->whole());
}

class EngineFaults : public testing::Test {
 protected:
  void SetUp() override {
    exempt_from_failing_memory = true;
    set_log_level(LogLevel::kOff);
  }
  void TearDown() override {
    testing_support::give_memory_back();
    set_log_level(LogLevel::kInfo);
  }
};

TEST_F(EngineFaults, RandomLivesKeepEveryPromise) {
  const int64_t seeds = from_environment("ATOM_FAULT_SEEDS", 150);
  int dead = 0, errors = 0, whole = 0;
  int64_t accepted = 0;
  for (int64_t seed = 1; seed <= seeds; ++seed) {
    const auto random = std::make_shared<std::mt19937_64>(seed);
    ScriptedOptions options = says_text();
    options.on_submit = [random](uint64_t) -> Status {
      switch ((*random)() % 60) {
        case 0:
          return make_error(ErrorCode::kInternal, "step error");
        case 1:
          throw std::bad_alloc();
        case 2:
          std::this_thread::sleep_for(2ms);
          return {};
        default:
          return {};
      }
    };
    options.on_token = [random](SequenceId, int64_t, int32_t token) {
      return (*random)() % 400 == 0 ? -1 : token;
    };
    const auto core = make_core(std::move(options), static_cast<DraftMethod>(seed % 3));
    std::vector<std::shared_ptr<Witness>> witnesses;
    std::mt19937_64 mine(seed + 1'000'000);
    for (int i = 0; i < 12; ++i) {
      RequestId id = 0;
      auto witness = ask(*core, static_cast<int32_t>(mine() % 3 + 1), &id);
      if (witness == nullptr) break;  // dead
      witnesses.push_back(std::move(witness));
      if (mine() % 4 == 0) core->abort(id);
      if (mine() % 4 == 0) core->abort(id);  // twice is allowed
      if (mine() % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(mine() % 300));
    }
    for (const auto& witness : witnesses) {
      ASSERT_TRUE(witness->wait()) << "seed " << seed;
      ASSERT_EQ(witness->fault(), "") << "seed " << seed;
      (witness->whole() ? whole : errors) += 1;
    }
    if (core->stats().condition == EngineCondition::kDead) {
      ++dead;
      EXPECT_EQ(ask(*core, 1), nullptr);
    } else {
      ASSERT_TRUE(balanced(*core)) << "seed " << seed;
    }
    accepted += core->stats().drafts.num_accepted_tokens;
  }
  if (seeds >= 150) {  // the lives are worth something only if they reach both
    EXPECT_GT(errors, 100);
    EXPECT_GT(whole, 100);
    EXPECT_GT(accepted, 200);
  }
}

// Two requests to an engine whose allocations fail from the k-th on, `failures` of them.
// False when none was left to fail.
bool live_without_memory(int64_t k, int64_t failures, DraftMethod drafts) {
  const auto core = make_core(says_text(), drafts);
  std::vector<std::shared_ptr<Witness>> witnesses;
  testing_support::let_memory_run_out(k, failures);
  for (const int32_t n : {1, 2}) {
    exempt_from_failing_memory = false;
    auto witness = std::shared_ptr<Witness>();
    try {
      witness = ask(*core, n);
    } catch (const std::bad_alloc&) {  // of the witness itself
    }
    exempt_from_failing_memory = true;
    if (witness != nullptr) witnesses.push_back(std::move(witness));
  }
  for (const auto& witness : witnesses) {
    EXPECT_TRUE(witness->wait());
    EXPECT_EQ(witness->fault(), "");
  }
  const bool failed = testing_support::memory_ran_out();
  testing_support::give_memory_back();
  if (failures < 3) {  // as many as may happen in a row
    EXPECT_EQ(core->stats().condition, EngineCondition::kOk);
  }
  expect_alive_or_honest(*core);
  return failed;
}

// Fails the k-th allocation of the engine's threads and of add_request, for every k until a run
// needs no more than k. No single one ends the engine.
TEST_F(EngineFaults, EveryAllocationMayFail) {
  const int64_t most = from_environment("ATOM_FAULT_ALLOCATIONS", 3000);
  for (const DraftMethod drafts : {DraftMethod::kNone, DraftMethod::kMtp, DraftMethod::kNgram}) {
    int64_t k = 0;
    for (; k < most; ++k) {
      SCOPED_TRACE("allocation " + std::to_string(k));
      if (!live_without_memory(k, 1, drafts) || testing::Test::HasFailure()) break;
    }
    EXPECT_GT(k, 50);
    EXPECT_LT(k, most);
  }
}

TEST_F(EngineFaults, MemoryMayStayAwayForAWhile) {
  for (const int64_t failures : {2, 5, 20}) {
    for (int64_t k = 0; k < 300; k += 7) {
      SCOPED_TRACE(std::to_string(failures) + " allocations after " + std::to_string(k));
      live_without_memory(k, failures, static_cast<DraftMethod>(k % 3));
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST_F(EngineFaults, AStuckStepIsReportedAndASlowOneIsNot) {
  std::atomic<bool> stuck{false}, entered{false};
  ScriptedOptions options = says_text();
  options.step_time = 5ms;
  options.on_submit = [&](uint64_t) -> Status {
    while (stuck) {
      entered = true;
      std::this_thread::sleep_for(1ms);
    }
    return {};
  };
  const auto core = make_core(std::move(options), DraftMethod::kNone, 100ms);
  EXPECT_EQ(core->stats().condition, EngineCondition::kOk);
  std::this_thread::sleep_for(250ms);  // idle is not stuck
  EXPECT_EQ(core->stats().condition, EngineCondition::kOk);
  const auto slow = ask(*core, 1);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(core->stats().condition, EngineCondition::kOk);
    std::this_thread::sleep_for(10ms);
  }
  ASSERT_TRUE(slow->wait());
  stuck = true;
  const auto waits = ask(*core, 1);
  bool reported = false;
  for (int i = 0; i < 3000 && !reported; ++i) {
    std::this_thread::sleep_for(1ms);
    reported = core->stats().condition == EngineCondition::kStalled;
  }
  EXPECT_TRUE(entered && reported);
  stuck = false;  // and when it comes back, nothing is lost
  ASSERT_TRUE(waits->wait());
  EXPECT_TRUE(waits->whole());
  EXPECT_EQ(waits->fault(), "");
  expect_alive_or_honest(*core);
}

// The checks themselves: each kind of broken promise is seen.
TEST_F(EngineFaults, TheChecksCanFail) {
  const auto event = [](int32_t index, std::string text, bool end, bool last) {
    RequestOutput output{.finished = last};
    output.choices.push_back({.index = index, .text = std::move(text)});
    if (end) output.choices[0].finish_reason = FinishReason::kStop;
    return output;
  };
  Witness lost(1);
  lost.see(event(0, "a", false, false));
  EXPECT_EQ(lost.fault(), "no end");
  Witness twice(1);
  twice.see(event(0, "a", true, true));
  EXPECT_EQ(twice.fault(), "");
  twice.see(event(0, "", true, true));
  EXPECT_NE(twice.fault(), "");
  Witness half(2);
  half.see(event(0, "a", true, true));
  EXPECT_EQ(half.fault(), "a choice ended 0 times");
  Witness wrong(1);
  wrong.see(event(0, "b", true, true));
  EXPECT_EQ(wrong.fault(), "wrong text: b");
  // A request that is still running holds blocks.
  std::atomic<bool> stuck{true};
  ScriptedOptions options = says_text();
  options.on_submit = [&](uint64_t step) -> Status {
    while (stuck && step > 2) std::this_thread::sleep_for(1ms);
    return {};
  };
  const auto core = make_core(std::move(options));
  const auto witness = ask(*core, 1);
  for (int i = 0; i < 1000 && core->stats().num_running == 0; ++i) std::this_thread::sleep_for(1ms);
  const EngineStats stats = core->stats();
  EXPECT_TRUE(stats.num_free_blocks < stats.num_blocks || stats.num_running > 0);
  stuck = false;
  EXPECT_TRUE(witness->wait());
}

}  // namespace
}  // namespace atom
