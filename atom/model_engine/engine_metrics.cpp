#include "atom/model_engine/engine_metrics.h"

#include <vector>

namespace atom {
namespace {

// The buckets of vLLM's vllm/v1/metrics/loggers.py.
constexpr double kFirstToken[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                  1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
constexpr double kPerToken[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
constexpr double kLatency[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                               30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
constexpr double kStepTokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
constexpr double kChoices[] = {1, 2, 5, 10, 20};

// 1, 2, 5, 10, 20, 50, ... up to `max`.
std::vector<double> one_two_five(int64_t max) {
  std::vector<double> out;
  for (int64_t power = 1; power <= max; power *= 10) {
    for (const int64_t digit : {1, 2, 5}) {
      if (digit * power <= max) {
        out.push_back(static_cast<double>(digit * power));
      }
    }
  }
  return out;
}

}  // namespace

EngineMetrics::EngineMetrics(int64_t max_model_len)
    : iteration_tokens(kStepTokens),
      time_to_first_token(kFirstToken),
      inter_token_latency(kPerToken),
      time_per_output_token(kPerToken),
      e2e_latency(kLatency),
      queue_time(kLatency),
      prefill_time(kLatency),
      decode_time(kLatency),
      inference_time(kLatency),
      prompt_tokens(one_two_five(max_model_len)),
      prefill_computed_tokens(prompt_tokens.bounds()),
      generation_tokens(prompt_tokens.bounds()),
      max_generation_tokens(prompt_tokens.bounds()),
      params_n(kChoices),
      params_max_tokens(prompt_tokens.bounds()) {}

}  // namespace atom
