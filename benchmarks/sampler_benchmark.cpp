// Microseconds per sampled row on one thread, for two vocabularies and two shapes of distribution.
// Takes no arguments; results go to docs/benchmarks/sampler.md.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "atom/model_ops/cpu/sampler_ops.h"

namespace {

using atom::SamplingRow;

struct Case {
  const char* name;
  SamplingRow row;
};

// flat: normal logits with deviation 1, a nucleus of most of the vocabulary. peaked: deviation 2.5
// and 200 tokens far above, as a trained model gives.
std::vector<float> make_logits(int64_t vocab_size, bool peaked) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0F, peaked ? 2.5F : 1.0F);
  std::exponential_distribution<float> lead(0.35F);
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  std::ranges::generate(logits, [&] { return normal(random); });
  for (int i = 0; peaked && i < 200; ++i) {
    logits[random() % logits.size()] += 6.0F + lead(random);
  }
  return logits;
}

// The best of 80 batches of 5 rows: short enough to be undisturbed.
double microseconds(std::vector<float>& logits, SamplingRow row) {
  const atom::Tensor tensor(logits.data(), atom::DType::kF32,
                            {1, static_cast<int64_t>(logits.size())});
  double best = std::numeric_limits<double>::infinity();
  for (int batch = 0; batch < 80; ++batch) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 5; ++i) {
      ++row.position;
      atom::SampledToken token;
      atom::sample_cpu({}, tensor, {&row, 1}, {&token, 1});
    }
    const std::chrono::duration<double, std::micro> elapsed =
        std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count() / 5);
  }
  return best;
}

std::vector<Case> make_cases(std::span<const int32_t> prompt, std::span<const int32_t> output) {
  return {{"greedy", {.temperature = 0.0F}},
          {"temperature 0.8", {.temperature = 0.8F}},
          {"min-p 0.05", {.temperature = 0.8F, .min_p = 0.05F}},
          {"top-k 50", {.temperature = 0.8F, .top_k = 50}},
          {"top-k 5000", {.temperature = 0.8F, .top_k = 5000}},
          {"top-p 0.9", {.temperature = 0.8F, .top_p = 0.9F}},
          {"top-k 50, top-p 0.9", {.temperature = 0.8F, .top_p = 0.9F, .top_k = 50}},
          {"all penalties, 1000 + 500 tokens",
           {.temperature = 0.8F,
            .presence_penalty = 1.0F,
            .frequency_penalty = 1.0F,
            .repetition_penalty = 1.1F,
            .prompt_token_ids = prompt,
            .output_token_ids = output}},
          {"greedy, 20 logprobs", {.temperature = 0.0F, .num_logprobs = 20}}};
}

}  // namespace

int main() {
  std::printf("| us per row | 49152 peaked | 49152 flat | 151936 peaked | 151936 flat |\n");
  std::printf("|---|---|---|---|---|\n");
  std::mt19937 random(2);
  std::vector<int32_t> history(1500);
  std::ranges::generate(history, [&] { return static_cast<int32_t>(random() % 49152); });
  const std::span<const int32_t> tokens(history);
  for (const Case& entry : make_cases(tokens.first(1000), tokens.last(500))) {
    std::printf("| %s |", entry.name);
    for (const int64_t vocab_size : {49152, 151936}) {
      for (const bool peaked : {true, false}) {
        std::vector<float> logits = make_logits(vocab_size, peaked);
        std::printf(" %.1f |", microseconds(logits, entry.row));
      }
    }
    std::printf("\n");
  }
}
