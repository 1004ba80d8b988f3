// Sequences under a grammar, through the whole engine: the executor draws anything the mask allows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <boost/json.hpp>
#include <condition_variable>
#include <mutex>
#include <random>

#include "atom/model_engine/llm_engine.h"
#include "atom/model_engine/scheduler.h"
#include "tests/support/byte_tokenizer.h"

namespace atom {
namespace {

using namespace std::chrono_literals;
using testing_support::byte_ids;
using testing_support::kByteEos;

// Draws a random allowed token for every row, closing characters more often than others.
class RandomExecutor final : public Executor {
 public:
  explicit RandomExecutor(ExecutorCapacity capacity) : capacity_(capacity) {}
  ExecutorCapacity capacity() const override { return capacity_; }
  Status submit(const ScheduledBatch& batch) override {
    StepOutput output{.step = batch.step};
    for (const ScheduledSequence& sequence : batch.sequences) {
      if (!sequence.sample) {
        continue;
      }
      EXPECT_EQ(sequence.token_bitmask.empty(), !sequence.sampling->grammar.has_value());
      EXPECT_TRUE(sequence.pending_row < 0 || !sequence.sampling->grammar)
          << "scheduled before its matcher has read every token";
      output.rows.push_back({.id = sequence.id, .token = {.token_id = draw(sequence)}});
    }
    outputs_.push_back(std::move(output));
    return {};
  }
  Result<StepOutput> collect() override {
    StepOutput output = std::move(outputs_.front());
    outputs_.erase(outputs_.begin());
    return output;
  }

 private:
  int32_t draw(const ScheduledSequence& sequence) {
    std::vector<int32_t> ids, closing;
    for (size_t word = 0; word < sequence.token_bitmask.size(); ++word) {
      for (uint32_t bits = sequence.token_bitmask[word]; bits != 0; bits &= bits - 1) {
        const int32_t id = static_cast<int32_t>(word * 32) + std::countr_zero(bits);
        if (std::ranges::find(sequence.banned_token_ids, id) == sequence.banned_token_ids.end()) {
          ids.push_back(id);
          if (id == '"' || id == ']' || id == '}' || id == kByteEos) {
            closing.push_back(id);
          }
        }
      }
    }
    if (sequence.token_bitmask.empty()) {
      return 'x';
    }
    const std::vector<int32_t>& from = closing.empty() || random_() % 3 != 0 ? ids : closing;
    return from.empty() ? -1 : from[random_() % from.size()];
  }

  ExecutorCapacity capacity_;
  std::mt19937_64 random_{3};
  std::vector<StepOutput> outputs_;
};

std::unique_ptr<LLMEngine> make_engine(ExecutorCapacity capacity = {.num_blocks = 4096}) {
  EngineParts parts{.executor = std::make_unique<RandomExecutor>(capacity),
                    .tokenizer = testing_support::make_byte_tokenizer(),
                    .scheduler = {.max_model_len = 1024}};
  parts.model.vocab_size = testing_support::kByteVocabSize;
  parts.model.eos_token_ids = {kByteEos};
  Result<std::unique_ptr<LLMEngine>> engine = LLMEngine::create_with(std::move(parts));
  EXPECT_TRUE(engine.has_value());
  return std::move(*engine);
}

SamplingParams with(GrammarSpec::Kind kind, std::string text, int64_t max_tokens = 800) {
  return {.max_tokens = max_tokens, .grammar = GrammarSpec{.kind = kind, .text = std::move(text)}};
}

constexpr const char* kSchema =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":12},
        "tags":{"type":"array","items":{"enum":["a","b"]},"maxItems":5}},"required":["name","tags"]})";

void expect_object(const std::string& text) {
  boost::system::error_code failure;
  const boost::json::value value = boost::json::parse(text, failure);
  ASSERT_FALSE(failure) << text;
  EXPECT_TRUE(value.as_object().contains("name")) << text;
  EXPECT_TRUE(value.as_object().at("tags").is_array()) << text;
}

TEST(GrammarEngine, EveryChoiceOfEveryRequestHasItsForm) {
  // Blocks for about four sequences: the others wait or are preempted. Two steps in flight.
  for (const ExecutorCapacity capacity : {ExecutorCapacity{.num_blocks = 4096},
                                          ExecutorCapacity{.num_blocks = 70, .max_in_flight = 2}}) {
    const auto engine = make_engine(capacity);
    SamplingParams params = with(GrammarSpec::Kind::kJsonSchema, kSchema);
    params.n = 5;
    SamplingParams free{.max_tokens = 300};
    const auto results = engine->generate({byte_ids("one"), byte_ids("two"), byte_ids("three")},
                                          {params, free, params});
    ASSERT_TRUE(results) << results.error().message;
    ASSERT_EQ(results->size(), 11U);
    int finished = 0;
    for (size_t i = 0; i < results->size(); ++i) {
      const GenerationResult& result = (*results)[i];
      if (i == 5) {
        EXPECT_EQ(result.text, std::string(300, 'x'));
      } else if (result.finish_reason == FinishReason::kStop) {
        ++finished;
        expect_object(result.text);
      }
    }
    EXPECT_GE(finished, 6);
  }
}

TEST(GrammarEngine, TheEndOfTheGrammarIsTheEnd) {
  const auto engine = make_engine();
  SamplingParams params = with(GrammarSpec::Kind::kChoice, R"(["yes"])");
  params.ignore_eos = true;  // nothing may follow "yes", whatever is asked for
  params.min_tokens = 50;
  const auto results = engine->generate({byte_ids("p")}, {params});
  ASSERT_TRUE(results) << results.error().message;
  EXPECT_EQ(results->front().text, "yes");
  EXPECT_EQ(results->front().finish_reason, FinishReason::kStop);
  EXPECT_EQ(results->front().num_tokens_output, 4);  // and EOS
}

TEST(GrammarEngine, MinTokensHoldsWhereTheGrammarLeavesRoom) {
  const auto engine = make_engine();
  SamplingParams params = with(GrammarSpec::Kind::kRegex, "[ab]*");
  params.min_tokens = 40;
  const auto results = engine->generate({byte_ids("p")}, {params});
  ASSERT_TRUE(results) << results.error().message;
  EXPECT_GT(results->front().num_tokens_output, 40);
}

TEST(GrammarEngine, StopStringsAndLengthEndATextBeforeItsGrammar) {
  const auto engine = make_engine();
  SamplingParams params = with(GrammarSpec::Kind::kRegex, "a{20}STOPb{20}");
  params.stop_strings = {"STOP"};
  auto results = engine->generate({byte_ids("p")}, {params});
  ASSERT_TRUE(results);
  EXPECT_EQ(results->front().text, std::string(20, 'a'));
  EXPECT_EQ(results->front().finish_reason, FinishReason::kStop);
  results = engine->generate({byte_ids("p")}, {with(GrammarSpec::Kind::kRegex, "a{20}", 7)});
  ASSERT_TRUE(results);
  EXPECT_EQ(results->front().finish_reason, FinishReason::kLength);
}

TEST(GrammarEngine, ARequestThatCannotBeServedIsRefusedAtOnce) {
  const auto engine = make_engine();
  SamplingParams params = with(GrammarSpec::Kind::kJsonSchema, R"({"not":{}})");
  params.grammar->param = "response_format";
  const auto id = engine->add_request({.prompt_token_ids = byte_ids("p"), .sampling = params},
                                      [](RequestOutput&&) {});
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(id.error().param, "response_format");
  EXPECT_TRUE(engine->generate({byte_ids("p")}, {with(GrammarSpec::Kind::kRegex, "ok")}));
}

// The matchers of one step share its CPU time: 64 grammars that would take seconds end their own
// requests, and the stream among them does not wait for them. Counted in CPU time, not wall time.
TEST(GrammarEngine, HostileGrammarsDoNotHoldUpTheStepOfOthers) {
  GrammarCompiler compiler(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                           {kByteEos}, {.matcher_seconds = 20, .matcher_bytes = 1 << 30});
  const SchedulerOptions options{.max_num_batched_tokens = 128,
                                 .max_num_seqs = 128,
                                 .max_model_len = 256,
                                 .num_blocks = 4096,
                                 .vocab_size = testing_support::kByteVocabSize,
                                 .eos_token_ids = {kByteEos}};
  Scheduler scheduler(options);
  constexpr RequestId kGood = 32;
  for (RequestId id = 0; id <= 64; ++id) {
    const GenerationRequest request{
        .prompt_token_ids = {1},
        .sampling = with(GrammarSpec::Kind::kRegex,
                         id == kGood ? "[xyz]{60}" : "((a{0,200}){0,200}){0,200}", 200)};
    const auto grammar = compiler.compile(*request.sampling.grammar);
    ASSERT_TRUE(grammar) << grammar.error().message;
    GrammarMatcher matcher(*grammar);
    ASSERT_TRUE(matcher.start());
    scheduler.add(Scheduler::make_request(id, request, id, 0, options, &matcher));
  }
  std::vector<SequenceUpdate> updates;
  for (int step = 0; step < 70; ++step) {
    const ScheduledBatch& batch = scheduler.schedule(step);
    StepOutput output{.step = batch.step};
    for (const ScheduledSequence& sequence : batch.sequences) {
      int32_t id = 'a';
      while ((sequence.token_bitmask[static_cast<size_t>(id) / 32] >> id % 32 & 1U) == 0) ++id;
      output.rows.push_back({.id = sequence.id, .token = {.token_id = id}});
    }
    if (batch.sequences.empty()) break;
    ASSERT_TRUE(scheduler.commit(std::move(output), updates));
  }
  int64_t good_tokens = 0;
  int failed = 0;
  for (const SequenceUpdate& update : updates) {
    if (update.request_id == kGood) {
      EXPECT_FALSE(update.error) << update.error->message;
      ++good_tokens;
    } else if (update.error) {
      EXPECT_EQ(update.error->code, ErrorCode::kResourceExhausted) << update.error->message;
      ++failed;
    }
  }
  EXPECT_GE(good_tokens, 60);
  EXPECT_EQ(failed, 64);
  // 20 ms for all and 0.5 ms each, and what a call does between two looks at the clock.
  EXPECT_LT(scheduler.stats().grammar_seconds_max, 0.020 + 65 * 0.001);
}

}  // namespace
}  // namespace atom
