#include "atom/model_engine/output_processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "tests/support/byte_tokenizer.h"

namespace atom {
namespace {

using testing_support::byte_ids;

// A processor with one request, fed by hand.
class OutputProcessorTest : public testing::Test {
 protected:
  struct Received {
    std::vector<std::string> pieces;
    std::string text;
    std::string marked;  // the text with a NUL for each control token
    std::vector<int32_t> token_ids;
    std::vector<TokenLogprobs> logprobs;
    std::vector<FinishReason> reasons;
    std::variant<std::monostate, std::string, int32_t> stop_reason;
    RequestOutput last;
  };

  void start(const SamplingParams& params, size_t num_prompt = 4) {
    received_ = {};
    stopped_.clear();
    processor_ = std::make_unique<OutputProcessor>(OutputProcessor::Hooks{
        .stop_choice = [this](RequestId, int32_t choice) { stopped_.push_back(choice); },
        .abort = [this](RequestId) { ++num_aborts_; },
        .done = [this](RequestId) { ++num_done_; }});
    pending_.clear();
    pending_.push_back({});
    pending_.back().added.push_back(std::make_unique<OutputRequest>(
        1,
        GenerationRequest{.prompt_token_ids = std::vector<int32_t>(num_prompt, 'p'),
                          .sampling = params},
        0.0, tokenizer_, [this](RequestOutput&& output) {
          for (ChoiceDelta& delta : output.choices) {
            received_.pieces.push_back(delta.text);
            received_.text += delta.text;
            size_t at = 0;
            for (const ControlToken& control : delta.control_tokens) {
              received_.marked += delta.text.substr(at, control.offset - at) + '\0';
              at = control.offset;
            }
            received_.marked += delta.text.substr(at);
            received_.token_ids.insert(received_.token_ids.end(), delta.token_ids.begin(),
                                       delta.token_ids.end());
            std::ranges::move(delta.logprobs, std::back_inserter(received_.logprobs));
            if (delta.finish_reason) {
              received_.reasons.push_back(*delta.finish_reason);
              received_.stop_reason = delta.stop_reason;
            }
          }
          received_.last = std::move(output);
        }));
  }
  void token(int32_t id, std::optional<FinishReason> finish = {}, bool ended_by_token = false) {
    SequenceUpdate update{.request_id = 1, .token = SampledToken{.token_id = id}};
    update.finish_reason = finish;
    update.ended_by_token = ended_by_token;
    update.token->logprobs.logprob = static_cast<float>(id);
    pending_.push_back({.now = ++time_});
    pending_.back().updates.push_back(std::move(update));
  }
  void flush() {
    processor_->process(pending_);
    pending_.clear();
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = testing_support::make_byte_tokenizer();
  std::unique_ptr<OutputProcessor> processor_;
  std::vector<OutputBatch> pending_;
  Received received_;
  std::vector<int32_t> stopped_;
  int num_aborts_ = 0, num_done_ = 0;
  double time_ = 0;
};

bool is_whole_utf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if ((lead & 0xC0) == 0x80 || i + size > text.size()) {
      return false;
    }
    i += size;
  }
  return true;
}

TEST_F(OutputProcessorTest, StreamEqualsWholeForAnyTextStopsAndBatching) {
  std::mt19937 random(11);
  const std::vector<std::string> alphabet = {"a", "b", "é", "漢", "🙂", " "};
  const auto draw = [&](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) {
      text += alphabet[random() % alphabet.size()];
    }
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    SamplingParams params{.max_tokens = 1000};
    params.include_stop_str_in_output = random() % 3 == 0;
    params.logprobs = 0;
    params.min_tokens = random() % 4 == 0 ? static_cast<int64_t>(random() % 20) : 0;
    for (size_t i = random() % 4; i > 0; --i) {
      params.stop_strings.push_back(draw(1 + random() % 3));
    }
    const std::vector<int32_t> ids = byte_ids(draw(1 + random() % 25));
    // Once event by event, once in random batches: what is delivered must be the same.
    Received results[2];
    std::vector<int32_t> stopped[2];
    for (int mode = 0; mode < 2; ++mode) {
      start(params);
      for (size_t i = 0; i < ids.size(); ++i) {
        token(ids[i], i + 1 == ids.size() ? std::optional(FinishReason::kLength) : std::nullopt);
        if (mode == 0 || random() % 4 == 0) {
          flush();
        }
      }
      flush();
      results[mode] = std::move(received_);
      stopped[mode] = stopped_;
    }
    ASSERT_EQ(results[0].text, results[1].text);
    ASSERT_EQ(results[0].token_ids, results[1].token_ids);
    ASSERT_EQ(results[0].logprobs.size(), results[0].token_ids.size());
    ASSERT_EQ(results[0].reasons, results[1].reasons);
    ASSERT_EQ(results[0].stop_reason, results[1].stop_reason);
    ASSERT_EQ(results[0].last.num_generated_tokens, results[1].last.num_generated_tokens);
    ASSERT_EQ(stopped[0], stopped[1]);
    ASSERT_EQ(results[0].reasons.size(), 1U);
    for (const std::string& piece : results[0].pieces) {
      ASSERT_TRUE(is_whole_utf8(piece)) << piece;
    }
    // The text is what the tokens say, up to the stop string.
    const std::string all = tokenizer_->decode(ids, true);
    const bool stop = std::holds_alternative<std::string>(results[0].stop_reason);
    ASSERT_TRUE(all.starts_with(results[0].text));
    ASSERT_EQ(results[0].reasons[0], stop ? FinishReason::kStop : FinishReason::kLength);
    const auto tokens = static_cast<size_t>(results[0].last.num_generated_tokens);
    ASSERT_EQ(tokens, results[0].token_ids.size());
    if (!stop) {
      ASSERT_EQ(results[0].text, all);
      ASSERT_EQ(tokens, ids.size());
    } else {
      const std::string& found = std::get<std::string>(results[0].stop_reason);
      const std::string seen = tokenizer_->decode(std::span(ids).first(tokens), true);
      ASSERT_TRUE(seen.ends_with(found));
      ASSERT_EQ(results[0].text, params.include_stop_str_in_output
                                     ? seen
                                     : seen.substr(0, seen.size() - found.size()));
      ASSERT_GT(static_cast<int64_t>(tokens), params.min_tokens);
    }
    if (params.min_tokens == 0) {
      for (const std::string& s : params.stop_strings) {
        const size_t at = results[0].text.find(s);
        ASSERT_TRUE(at == std::string::npos || (stop && at + s.size() == results[0].text.size()))
            << s;
      }
    }
  }
}

TEST_F(OutputProcessorTest, AnUnfinishedCharacterAppearsOnceAtTheEnd) {
  start({});
  for (const int32_t id : {0xF0, 0x9F, 0x99}) {
    token(id);
    flush();
    EXPECT_TRUE(received_.pieces.empty());
  }
  token('x', FinishReason::kLength);
  flush();
  EXPECT_EQ(received_.text, "\xEF\xBF\xBDx");
}

TEST_F(OutputProcessorTest, HeldBackTextIsDeliveredWhenTheChoiceEnds) {
  for (const FinishReason reason : {FinishReason::kLength, FinishReason::kAbort}) {
    start({.stop_strings = {"end."}});
    for (const int32_t id : byte_ids("the end")) {
      token(id);
    }
    flush();
    EXPECT_EQ(received_.text, "the ");
    pending_.push_back({.now = 9});
    pending_.back().updates.push_back({.request_id = 1, .finish_reason = reason});
    flush();
    EXPECT_EQ(received_.text, "the end");
    EXPECT_THAT(received_.reasons, testing::ElementsAre(reason));
  }
}

TEST_F(OutputProcessorTest, TheTokenThatEndsAChoiceIsCountedButIsNoText) {
  start({.skip_special_tokens = false});
  token('a');
  token(testing_support::kByteEos, FinishReason::kStop, true);
  flush();
  EXPECT_EQ(received_.text, "a");
  EXPECT_EQ(received_.last.num_generated_tokens, 2);
  EXPECT_THAT(received_.token_ids, testing::ElementsAre('a', testing_support::kByteEos));
  start({.include_stop_str_in_output = true});
  token('a');
  token('!', FinishReason::kStop, true);
  flush();
  EXPECT_EQ(received_.text, "a!");
}

TEST_F(OutputProcessorTest, TokensAfterAStopStringAreDroppedAndTheEngineIsToldOnce) {
  start({.stop_strings = {"b"}});
  for (const int32_t id : byte_ids("abcdef")) {
    token(id);
  }
  flush();
  token('g', FinishReason::kLength);
  flush();
  EXPECT_EQ(received_.text, "a");
  EXPECT_EQ(received_.last.num_generated_tokens, 2);
  EXPECT_THAT(stopped_, testing::ElementsAre(0));
  EXPECT_EQ(num_done_, 1);
  EXPECT_EQ(num_aborts_, 0);
}

// However the text is held back and batched, control tokens stand where they were generated.
TEST_F(OutputProcessorTest, ControlTokensKeepTheirPlace) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    start({.stop_strings = {"abab", "ca"},
           .control_token_ids = {testing_support::kByteEot},
           .skip_special_tokens = round % 2 == 0});
    std::string want;  // a control token as a NUL
    std::string plain;
    bool stopped = false;
    for (int i = 0; i < 24; ++i) {
      const auto id =
          random() % 4 == 0 ? testing_support::kByteEot : static_cast<int32_t>('a' + random() % 3);
      token(id, i == 23 ? std::optional(FinishReason::kLength) : std::nullopt);
      if (!stopped && id == testing_support::kByteEot) want += '\0';
      if (!stopped && id != testing_support::kByteEot) {
        want += static_cast<char>(id);
        plain += static_cast<char>(id);
        for (const std::string_view stop : {"abab", "ca"}) {
          if (!plain.ends_with(stop)) continue;
          stopped = true;  // its text goes, and what stands behind what is left stays
          for (size_t left = stop.size(), at = want.size(); left > 0;) {
            if (want[--at] != '\0') {
              want.erase(at);
              --left;
            }
          }
          break;
        }
      }
      if (random() % 2 == 0) flush();
    }
    flush();
    // Control tokens right behind the last text may be of either side of a stop string.
    std::string got = received_.marked;
    if (stopped) {
      while (got.ends_with('\0')) got.pop_back();
      while (want.ends_with('\0')) want.pop_back();
    }
    ASSERT_EQ(got, want) << round;
  }
}

TEST_F(OutputProcessorTest, PromptLogprobsComeOnceWithTheFirstEvent) {
  start({.prompt_logprobs = 1}, 5);
  for (const auto& [first, count] :
       std::vector<std::pair<int64_t, size_t>>{{1, 2}, {1, 2}, {3, 2}}) {
    SequenceUpdate update{.request_id = 1};
    update.prompt_logprobs =
        std::make_shared<PromptLogprobRows>(PromptLogprobRows{.id = 1, .first_position = first});
    for (size_t i = 0; i < count; ++i) {
      update.prompt_logprobs->logprobs.push_back(
          {.logprob = static_cast<float>(first + static_cast<int64_t>(i))});
    }
    pending_.push_back({});
    pending_.back().updates.push_back(std::move(update));
  }
  token('a');
  flush();
  ASSERT_EQ(received_.last.prompt_logprobs.size(), 5U);
  EXPECT_FALSE(received_.last.prompt_logprobs[0]);
  for (size_t i = 1; i < 5; ++i) {
    EXPECT_EQ(received_.last.prompt_logprobs[i]->logprob, static_cast<float>(i));
  }
  token('b');
  flush();
  EXPECT_TRUE(received_.last.prompt_logprobs.empty());
}

}  // namespace
}  // namespace atom
