// What the golden engine tests share: requests of many shapes, ways to serve them, and an engine
// for each. Used for the CPU (golden_engine_test) and for a GPU without a GPU (gpu_engine_test).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "atom/model_engine/llm_engine.h"
#include "atom/sampling_params.h"

namespace atom::golden {

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams params;
};

using Answers = std::vector<std::vector<int32_t>>;

// Prompts of 1 to 100 tokens, half of them starting with the same 50; greedy and sampled in turn.
std::vector<Request> make_requests();

struct Model {
  const char* path;
  const char* kv_cache_dtype;
};

struct Serving {
  const char* name;
  bool prefix_caching = false;
  int64_t max_num_batched_tokens = 4096;
  int64_t max_num_seqs = 64;
  int64_t num_blocks = 256;
  int threads = 2;
  bool one_by_one = false;
  int rounds = 1;  // later rounds find the cache filled
  int level = 3;
  bool enforce_eager = false;
  bool deterministic = false;
  SpeculativeConfig speculative = {};
  std::vector<int> capture_sizes = {1, 2, 4, 8, 16, 32, 48, 64};
};

EngineConfig make_config(const Model& model, const Serving& serving);

Answers run(LLMEngine& engine, const std::vector<Request>& requests, bool one_by_one);

}  // namespace atom::golden
