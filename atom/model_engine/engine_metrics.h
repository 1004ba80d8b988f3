// EngineMetrics: what the engine measures about requests and steps, with the buckets of vLLM so
// that its dashboards work unchanged. Written by the engine thread and the output thread, each its
// own members; read by anyone. Gauges and totals that the scheduler keeps anyway are in
// EngineStats.
#pragma once

#include <array>
#include <cstdint>

#include "atom/core/metrics.h"
#include "atom/request_output.h"

namespace atom {

struct EngineMetrics {
  explicit EngineMetrics(int64_t max_model_len);

  // Engine thread.
  Histogram iteration_tokens;  // of a step

  // Output thread. Times in seconds, one observation per choice unless said otherwise.
  Histogram time_to_first_token;
  Histogram inter_token_latency;    // per token after the first
  Histogram time_per_output_token;  // mean of a choice, first token excluded
  Histogram e2e_latency;
  Histogram queue_time;      // arrival -> first scheduled
  Histogram prefill_time;    // first scheduled -> first token
  Histogram decode_time;     // first token -> last token
  Histogram inference_time;  // first scheduled -> last token
  Histogram prompt_tokens;
  Histogram prefill_computed_tokens;  // prompt tokens that the prefix cache did not have
  Histogram generation_tokens;
  Histogram max_generation_tokens;  // longest choice, per request
  Histogram params_n;               // per request
  Histogram params_max_tokens;
  std::array<Counter, 4> finished;  // choices, by FinishReason

  Counter& finished_by(FinishReason reason) { return finished[static_cast<size_t>(reason)]; }
};

}  // namespace atom
