// EngineArgs: what the user typed. EngineConfig: what the engine runs with, checked and complete.
// The flag parser (entrypoints/cli) is the only reader of flags, and config.cpp the only reader of
// the environment. To add a flag: a field here, a row in the parser's table, a check in
// make_engine_config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "atom/core/error.h"
#include "atom/core/tensor.h"

namespace atom {

enum class ComputeType { kAuto, kBFloat16, kFloat16, kFloat32 };
enum class KvCacheType { kBF16, kFP8 };
enum class DummyWeights { kNone, kEmpty, kZero, kXavier };
enum class Quantization { kNone, kFP8 };  // done at load, of the linear weights

// Field names and defaults are those of the serving guide (spec section 2).
struct EngineArgs {
  std::string model = "Qwen/Qwen3-0.6B";
  bool trust_remote_code = false;
  int tensor_parallel_size = 1;
  int data_parallel_size = 1;
  bool enforce_eager = false;
  bool enable_prefix_caching = true;
  int port = 8006;
  std::string kv_cache_dtype = "bf16";
  int block_size = 16;
  std::optional<int64_t> max_model_len;
  int64_t max_num_batched_tokens = 16384;
  int64_t max_num_seqs = 512;
  double gpu_memory_utilization = 0.9;
  double scheduler_delay_factor = 0.0;
  std::vector<int> cudagraph_capture_sizes = {1, 2, 4, 8, 16, 32, 48, 64, 128, 256};
  int level = 3;
  std::optional<std::string> load_dummy;
  bool enable_expert_parallel = false;
  bool enable_dp_attention = false;
  std::optional<std::string> torch_profiler_dir;
  std::optional<std::string> method;
  std::optional<int> num_speculative_tokens;      // default: 1, of prompt look-up 5
  std::optional<int> prompt_lookup_min;           // default: 2
  std::optional<int> prompt_lookup_max;           // default: 4
  std::optional<std::string> speculative_config;  // the four above, as one JSON object
  int64_t seed = 0;
  std::string device = "auto";
  std::string dtype = "auto";
  std::optional<std::string> quantization;
  bool deterministic = false;
  int threads = 0;  // CPU backend; 0 = all CPUs this process may use
  std::optional<double>
      kv_cache_memory_gb;  // GiB for the KV cache; default: planned from free memory
};

struct ModelSourceConfig {
  std::string model;  // directory, .gguf file or hub name, as typed
  ComputeType dtype = ComputeType::kAuto;
  DummyWeights load_dummy = DummyWeights::kNone;
  Quantization quantization = Quantization::kNone;
  // Hub access, read from HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
  std::string hub_cache_dir;
  std::string hub_endpoint = "https://huggingface.co";
  std::string hub_token;
  bool hub_offline = false;
};

struct CacheConfig {
  int64_t block_size = 16;  // tokens
  KvCacheType dtype = KvCacheType::kBF16;
  bool enable_prefix_caching = true;
  double memory_utilization = 0.9;        // fraction of free memory for everything
  std::optional<int64_t> kv_cache_bytes;  // explicit size instead of a plan
};

struct SchedulerConfig {
  int64_t max_num_batched_tokens = 16384;
  int64_t max_num_seqs = 512;
  std::optional<int64_t> max_model_len;  // default: the model's own
  double delay_factor = 0.0;
};

inline constexpr int kMaxDraftTokens = 16;  // --num-speculative-tokens at most

enum class DraftMethod : uint8_t {
  kNone,
  kMtp,   // the checkpoint's own layer for it (multi-token prediction)
  kNgram  // what followed when the newest tokens last stood in this text (prompt lookup)
};

// Speculative decoding: tokens are drafted, and verified by the step that computes the next one.
struct SpeculativeConfig {
  DraftMethod method = DraftMethod::kNone;
  int num_tokens = 1;    // drafted at most
  bool adaptive = true;  // fewer, or none, where they do not pay
  // kNgram: how many of the newest tokens must have occurred before; longer matches are preferred.
  int lookup_min = 2;
  int lookup_max = 4;
};

struct ProfilerConfig {
  std::string dir;        // where traces go; empty: nothing can be profiled
  bool detailed = false;  // shapes and memory (ATOM_PROFILER_MORE=1)
};

struct ParallelConfig {
  int tensor_parallel_size = 1;
  int data_parallel_size = 1;
};

struct EngineConfig {
  ModelSourceConfig model;
  CacheConfig cache;
  SchedulerConfig scheduler;
  ParallelConfig parallel;
  ProfilerConfig profiler;
  SpeculativeConfig speculative;
  DeviceType device = DeviceType::kCpu;
  bool auto_device = false;  // a CUDA device when there is one, else `device`
  int num_threads = 1;
  int level = 3;
  bool enforce_eager = false;
  bool deterministic = false;      // an answer does not depend on what else is served; CPUs always
  std::vector<int> capture_sizes;  // batch sizes of captured decode steps, ascending
  int64_t seed = 0;
};

// Checks every value and conflict without touching the model. An error's `param` is the flag
// (--block-size).
Result<EngineConfig> make_engine_config(const EngineArgs& args);

// ATOM_API_KEY without surrounding white space; empty when unset.
std::string api_key_from_environment();
// OPENAI_API_KEY, what clients send; empty when unset.
std::string openai_api_key_from_environment();
// SAVE_TO_PYTORCH_BENCHMARK_FORMAT is set, whatever to.
bool environment_wants_pytorch_records();
// NO_COLOR is unset or empty, and TERM names a terminal that is not dumb.
bool environment_allows_colour();

}  // namespace atom
