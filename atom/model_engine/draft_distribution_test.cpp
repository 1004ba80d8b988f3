// Drafts keep the distribution of what is drawn: chi-square over the transitions of a Markov chain
// with few words, whose most likely successors are drafted, through the Scheduler, the InputBuilder
// and the sampler. The draws are seeded, so the statistic is always the same number. Rules of
// acceptance that look right and are not fail the same test.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "atom/core/thread_pool.h"
#include "atom/model_engine/input_builder.h"
#include "atom/model_engine/scheduler.h"
#include "atom/model_ops/ops.h"

namespace atom {
namespace {

constexpr int32_t kWords = 6;
constexpr int kNumSequences = 400;
constexpr int64_t kLength = 40;

using Distribution = std::array<double, kWords>;

// Logits of what follows each word: one likely word, others not hopeless.
constexpr float kLogits[kWords][kWords] = {
    {0.1F, 2.0F, 0.3F, -0.5F, 1.1F, 0.0F}, {1.2F, 0.2F, 1.0F, 0.4F, -1.0F, 0.6F},
    {-0.3F, 0.5F, 0.0F, 1.7F, 0.9F, 0.2F}, {0.8F, -0.2F, 0.7F, 0.1F, 2.3F, -1.2F},
    {0.0F, 0.4F, -0.8F, 0.3F, 0.2F, 1.4F}, {1.5F, 0.6F, 1.3F, -0.4F, 0.1F, 0.5F}};

int32_t most_likely(int32_t word) {
  const float* row = kLogits[word];
  return static_cast<int32_t>(std::max_element(row, row + kWords) - row);
}

// After temperature and top-k.
Distribution target(int32_t word, const SamplingParams& params) {
  const float* row = kLogits[word];
  std::array<float, kWords> sorted;
  std::copy(row, row + kWords, sorted.begin());
  std::ranges::sort(sorted, std::greater());
  const float least = params.top_k > 0 ? sorted[static_cast<size_t>(params.top_k) - 1] : sorted[5];
  Distribution result{};
  double sum = 0;
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] = row[i] < least ? 0 : std::exp(static_cast<double>(row[i] / params.temperature));
    sum += result[i];
  }
  for (double& value : result) {
    value /= sum;
  }
  return result;
}

enum class Rule {
  kDrawn,       // a draft is accepted when it is what is drawn there: the rule
  kMostLikely,  // when it is the most likely word
  kDrawnAgain,  // when it is drawn; else the word is drawn anew, and may be the draft again
};

class Chain {
 public:
  Chain(Rule rule, int num_drafts, const SamplingParams& params)
      : rule_(rule),
        params_(params),
        scheduler_(
            {.max_num_batched_tokens = 4096,
             .max_num_seqs = 64,
             .max_model_len = 64,
             .num_blocks = 1024,
             .block_size = 4,
             .vocab_size = kWords,
             .speculative = {.method = num_drafts > 0 ? DraftMethod::kMtp : DraftMethod::kNone,
                             .num_tokens = std::max(num_drafts, 1),
                             .adaptive = false}}) {}

  // What follows the first word, by request.
  std::map<RequestId, std::vector<int32_t>> run() {
    GenerationRequest request;
    request.sampling = params_;
    request.sampling.max_tokens = kLength;
    for (RequestId id = 1; id <= kNumSequences; ++id) {
      request.prompt_token_ids = {static_cast<int32_t>(id % kWords)};
      scheduler_.add(Scheduler::make_request(id, request, 7919 * id, 0, scheduler_options()));
    }
    std::map<RequestId, std::vector<int32_t>> words;
    while (scheduler_.has_requests()) {
      StepOutput output = step(scheduler_.schedule(0));
      std::vector<SequenceUpdate> updates;
      const Status committed = scheduler_.commit(std::move(output), updates);
      EXPECT_TRUE(committed) << committed.error().message;
      for (const SequenceUpdate& update : updates) {
        words[update.request_id].push_back(update.token->token_id);
      }
    }
    return words;
  }
  DraftStats drafts() const { return scheduler_.stats().drafts; }

 private:
  static SchedulerOptions scheduler_options() {
    return {.max_model_len = 64, .vocab_size = kWords};
  }

  // Draws every row; `again` counts how often that was done before.
  std::vector<SampledToken> draw(uint64_t again) {
    const std::span<const int32_t> rows = inputs_.sample_rows();
    std::vector<float> logits;
    for (const int32_t row : rows) {
      const float* values = kLogits[inputs_.token_ids()[static_cast<size_t>(row)]];
      logits.insert(logits.end(), values, values + kWords);
    }
    std::vector<SamplingRow> sampling(inputs_.sampling().begin(), inputs_.sampling().end());
    for (SamplingRow& row : sampling) {
      row.seed += again << 40;
    }
    std::vector<SampledToken> tokens(rows.size());
    const ExecContext ctx{.parallel = pool_.parallel_for()};
    cpu_op_table(0).sample(
        ctx,
        Tensor(logits.data(), DType::kF32, {static_cast<int64_t>(rows.size()), int64_t{kWords}}),
        sampling, tokens);
    return tokens;
  }

  StepOutput step(const ScheduledBatch& batch) {
    inputs_.build(batch, 4);
    const std::vector<SampledToken> drawn = draw(0);
    const std::vector<SampledToken> anew = draw(1);
    StepOutput output{.step = batch.step, .rows = {}, .draft_token_ids = {}, .prompt_logprobs = {}};
    for (const SampledSequence& sampled : inputs_.sampled()) {
      const ScheduledSequence& s = batch.sequences[static_cast<size_t>(sampled.sequence)];
      int32_t word = s.token_ids.back();
      for (size_t i = 0; i <= s.draft_token_ids.size(); ++i) {
        const auto row = static_cast<size_t>(sampled.first) + i;
        const bool last = i == s.draft_token_ids.size();
        int32_t next = drawn[row].token_id;
        if (!last && rule_ == Rule::kMostLikely && s.draft_token_ids[i] == most_likely(word)) {
          next = s.draft_token_ids[i];
        }
        const bool accepted = !last && next == s.draft_token_ids[i];
        if (!last && !accepted && rule_ == Rule::kDrawnAgain) {
          next = anew[row].token_id;
        }
        output.rows.push_back({.id = s.id, .token = {.token_id = next, .logprobs = {}}});
        word = next;
        if (!accepted) {
          break;
        }
      }
      for (int32_t i = 0; i < s.num_next_drafts; ++i) {
        output.draft_token_ids.push_back(word = most_likely(word));
      }
    }
    return output;
  }

  Rule rule_;
  SamplingParams params_;
  Scheduler scheduler_;
  InputBuilder inputs_;
  ThreadPool pool_{1};
};

// Of all transitions; the words that may follow make the degrees of freedom.
double chi_square(const std::map<RequestId, std::vector<int32_t>>& sequences,
                  const SamplingParams& params, int& degrees) {
  std::array<Distribution, kWords> counts{};
  for (const auto& [id, words] : sequences) {
    auto before = static_cast<size_t>(id % kWords);
    for (const int32_t word : words) {
      ++counts[before][static_cast<size_t>(word)];
      before = static_cast<size_t>(word);
    }
  }
  double sum = 0;
  degrees = 0;
  for (int32_t before = 0; before < kWords; ++before) {
    const Distribution& row = counts[static_cast<size_t>(before)];
    const double total = std::accumulate(row.begin(), row.end(), 0.0);
    const Distribution probabilities = target(before, params);
    --degrees;
    for (size_t i = 0; i < row.size(); ++i) {
      const double expected = total * probabilities[i];
      if (probabilities[i] == 0) {
        EXPECT_EQ(row[i], 0);
        continue;
      }
      ++degrees;
      sum += (row[i] - expected) * (row[i] - expected) / expected;
    }
  }
  return sum;
}

const SamplingParams kSettings[] = {{.temperature = 1.0F}, {.temperature = 0.7F, .top_k = 3}};

TEST(DraftDistribution, IsThatOfTheModel) {
  for (const SamplingParams& params : kSettings) {
    Chain plain(Rule::kDrawn, 0, params);
    const auto expected = plain.run();
    ASSERT_EQ(expected.size(), static_cast<size_t>(kNumSequences));
    for (const int num_drafts : {1, 2, 4}) {
      Chain chain(Rule::kDrawn, num_drafts, params);
      const auto words = chain.run();
      EXPECT_EQ(words, expected);
      int degrees = 0;
      const double statistic = chi_square(words, params, degrees);
      EXPECT_EQ(degrees, params.top_k > 0 ? 12 : 30);
      // Mean `degrees`, standard deviation sqrt(2 degrees).
      EXPECT_LT(statistic, degrees + 3 * std::sqrt(2.0 * degrees));
      EXPECT_GT(chain.drafts().num_accepted_tokens, 2000);
      EXPECT_GT(chain.drafts().num_draft_tokens - chain.drafts().num_accepted_tokens, 2000);
    }
  }
}

TEST(DraftDistribution, WrongRulesAreFound) {
  for (const Rule rule : {Rule::kMostLikely, Rule::kDrawnAgain}) {
    for (const SamplingParams& params : kSettings) {
      for (const int num_drafts : {1, 4}) {
        Chain chain(rule, num_drafts, params);
        int degrees = 0;
        const double statistic = chi_square(chain.run(), params, degrees);
        EXPECT_GT(statistic, degrees + 30 * std::sqrt(2.0 * degrees));
      }
    }
  }
}

}  // namespace
}  // namespace atom
