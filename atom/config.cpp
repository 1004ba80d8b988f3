// EngineArgs -> EngineConfig: every range, conflict and not-yet feature is settled here, before any
// file is opened. This is also the only place that reads the environment. To add a flag: one
// check_* below.
#include "atom/config.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string_view>

#include "atom/core/json.h"
#include "atom/core/log.h"
#include "atom/core/thread_pool.h"

namespace atom {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 24;        // tokens
constexpr int64_t kMaxBatchedTokens = int64_t{1} << 20;  // tokens
constexpr int64_t kMaxSeqs = 65536;
constexpr int kLookedUpTokens = 5;  // vLLM's examples draft as many
constexpr int kMaxThreads = 1024;
constexpr double kMaxCacheGiB = 65536;

// The one form of every refusal: `--flag: value: reason`.
std::unexpected<Error> refuse(std::string_view flag, std::string_view value,
                              std::string_view reason,
                              ErrorCode code = ErrorCode::kInvalidArgument) {
  auto error = make_error(code, "{}: {}: {}", flag, value, reason);
  error.error().param = std::string(flag);
  return error;
}

std::unexpected<Error> not_yet(std::string_view flag, std::string_view value,
                               std::string_view what) {
  return refuse(flag, value, str_format("not supported yet: {}", what), ErrorCode::kUnsupported);
}

template <class T>
Status check_range(std::string_view flag, T value, T lowest, T highest) {
  if (value >= lowest && value <= highest) return {};
  return refuse(flag, str_format("{}", value),
                str_format("out of range; allowed: {} to {}", lowest, highest));
}

Status check_choice(std::string_view flag, const std::string& value,
                    std::initializer_list<std::string_view> allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return {};
  std::string list;
  for (const std::string_view choice : allowed) {
    list += list.empty() ? "" : ", ";
    list += choice;
  }
  return refuse(flag, value.empty() ? "(empty)" : value, "unknown value; allowed: " + list);
}

// Features whose flags exist (spec section 2) but whose code comes later.
Status check_not_yet(const EngineArgs& args) {
  const std::pair<const char*, int> sizes[] = {
      {"--tensor-parallel-size", args.tensor_parallel_size},
      {"--data-parallel-size", args.data_parallel_size}};
  for (const auto& [flag, size] : sizes) {
    ATOM_RETURN_IF_ERROR(check_range(flag, size, 1, 4096));
    if (size > 1) return not_yet(flag, str_format("{}", size), "several devices; allowed: 1");
  }
  if (args.enable_expert_parallel) {
    return not_yet("--enable-expert-parallel", "true", "expert parallelism; leave it out");
  }
  if (args.enable_dp_attention) {
    return not_yet("--enable-dp-attention", "true", "data-parallel attention; leave it out");
  }
  if (args.torch_profiler_dir && args.torch_profiler_dir->empty()) {
    return refuse("--torch-profiler-dir", "(empty)", "names no directory");
  }
  ATOM_RETURN_IF_ERROR(check_choice("--device", args.device, {"auto", "cpu", "cuda", "hip"}));
  if (args.device == "hip") {
    return not_yet("--device", args.device, "no backend for AMD; allowed: auto, cpu, cuda");
  }
  if (args.quantization) {
    ATOM_RETURN_IF_ERROR(check_choice("--quantization", *args.quantization, {"fp8"}));
    if (args.device == "cpu") {
      return not_yet("--quantization", *args.quantization, "online quantisation on a CPU");
    }
  }
  return {};
}

Status check_cache(const EngineArgs& args) {
  ATOM_RETURN_IF_ERROR(check_choice("--kv_cache_dtype", args.kv_cache_dtype, {"bf16", "fp8"}));
  const int block = args.block_size;
  if (block < 8 || block > 256 || (block & (block - 1)) != 0) {
    return refuse("--block-size", str_format("{}", block),
                  "not a block size; allowed: 8, 16, 32, 64, 128, 256");
  }
  const double utilization = args.gpu_memory_utilization;
  if (!(utilization > 0.0 && utilization <= 1.0)) {
    return refuse("--gpu-memory-utilization", str_format("{}", utilization),
                  "not a fraction; allowed: above 0, up to 1");
  }
  if (args.kv_cache_memory_gb) {
    const double size = *args.kv_cache_memory_gb;
    if (!(size > 0.0 && size <= kMaxCacheGiB)) {
      return refuse("--kv-cache-memory-gb", str_format("{}", size),
                    str_format("not a size; allowed: above 0, up to {}", kMaxCacheGiB));
    }
  }
  return {};
}

Status check_scheduler(const EngineArgs& args) {
  ATOM_RETURN_IF_ERROR(check_range<int64_t>("--max-num-seqs", args.max_num_seqs, 1, kMaxSeqs));
  ATOM_RETURN_IF_ERROR(check_range<int64_t>("--max-num-batched-tokens", args.max_num_batched_tokens,
                                            1, kMaxBatchedTokens));
  if (args.max_num_batched_tokens < args.block_size) {
    return refuse("--max-num-batched-tokens", str_format("{}", args.max_num_batched_tokens),
                  str_format("smaller than --block-size {}", args.block_size));
  }
  // The default number of sequences follows a small token budget; an explicit one must fit it.
  if (args.max_num_seqs != EngineArgs{}.max_num_seqs &&
      args.max_num_seqs > args.max_num_batched_tokens) {
    return refuse("--max-num-seqs", str_format("{}", args.max_num_seqs),
                  str_format("more than --max-num-batched-tokens {}: a step could not give every "
                             "sequence one token",
                             args.max_num_batched_tokens));
  }
  if (args.max_model_len) {
    ATOM_RETURN_IF_ERROR(
        check_range<int64_t>("--max-model-len", *args.max_model_len, 2, kMaxContext));
  }
  if (!(args.scheduler_delay_factor >= 0.0 && args.scheduler_delay_factor <= 1000.0)) {
    return refuse("--scheduler-delay-factor", str_format("{}", args.scheduler_delay_factor),
                  "out of range; allowed: 0 to 1000");
  }
  return {};
}

Status check_execution(const EngineArgs& args) {
  ATOM_RETURN_IF_ERROR(check_range("--level", args.level, 0, 3));
  ATOM_RETURN_IF_ERROR(check_range("--threads", args.threads, 0, kMaxThreads));
  ATOM_RETURN_IF_ERROR(check_range("--port", args.port, 1, 65535));
  if (args.cudagraph_capture_sizes.size() > 1024) {
    return refuse("--cudagraph-capture-sizes",
                  str_format("{} sizes", args.cudagraph_capture_sizes.size()),
                  "too many; allowed: up to 1024");
  }
  for (const int size : args.cudagraph_capture_sizes) {
    ATOM_RETURN_IF_ERROR(check_range<int64_t>("--cudagraph-capture-sizes", size, 1, kMaxSeqs));
  }
  return {};
}

Result<ComputeType> parse_dtype(const std::string& name) {
  if (name == "auto") return ComputeType::kAuto;
  if (name == "bfloat16" || name == "bf16") return ComputeType::kBFloat16;
  if (name == "float16" || name == "half") return ComputeType::kFloat16;
  if (name == "float32" || name == "float") return ComputeType::kFloat32;
  return refuse("--dtype", name.empty() ? "(empty)" : name,
                "unknown value; allowed: auto, bfloat16, float16, float32");
}

Result<DummyWeights> parse_load_dummy(const std::optional<std::string>& name) {
  if (!name) return DummyWeights::kNone;
  ATOM_RETURN_IF_ERROR(check_choice("--load_dummy", *name, {"empty", "zero", "xavier"}));
  if (*name == "zero") return DummyWeights::kZero;
  return *name == "xavier" ? DummyWeights::kXavier : DummyWeights::kEmpty;
}

constexpr std::string_view kSpeculative = "--speculative-config";

// The names that vLLM has for the methods here.
Status set_method(const boost::json::value& value, std::optional<std::string>& method) {
  if (!value.is_string()) return refuse(kSpeculative, "method", "must be a string");
  method = std::string(value.get_string());
  ATOM_RETURN_IF_ERROR(check_choice("--speculative-config: method", *method,
                                    {"mtp", "deepseek_mtp", "glm4_moe_mtp", "ngram"}));
  if (*method != "ngram") method = "mtp";
  return {};
}

// --speculative-config as the flags that say the same.
Result<EngineArgs> read_speculative_config(EngineArgs args) {
  if (!args.speculative_config) return args;
  const std::string& text = *args.speculative_config;
  const std::tuple<std::string_view, std::string_view, std::optional<int>*> numbers[] = {
      {"num_speculative_tokens", "--num-speculative-tokens", &args.num_speculative_tokens},
      {"prompt_lookup_min", "--prompt-lookup-min", &args.prompt_lookup_min},
      {"prompt_lookup_max", "--prompt-lookup-max", &args.prompt_lookup_max}};
  if (args.method) return refuse(kSpeculative, text, "not together with --method");
  for (const auto& [key, flag, target] : numbers) {
    if (*target) return refuse(kSpeculative, text, str_format("not together with {}", flag));
  }
  const auto parsed = parse_json(text, {.max_depth = 4});
  if (!parsed) return refuse(kSpeculative, text, parsed.error().message);
  if (!parsed->is_object()) return refuse(kSpeculative, text, "must be a JSON object");
  for (const auto& [key, value] : parsed->get_object()) {
    const auto row = std::find_if(std::begin(numbers), std::end(numbers),
                                  [&key](const auto& n) { return std::get<0>(n) == key; });
    if (key != "method" && row == std::end(numbers)) {
      return refuse(kSpeculative, std::string_view(key),
                    "unknown key; allowed: method, num_speculative_tokens, prompt_lookup_min, "
                    "prompt_lookup_max");
    }
    if (value.is_null()) continue;  // as if it were not there
    if (key == "method") {
      ATOM_RETURN_IF_ERROR(set_method(value, args.method));
      continue;
    }
    if (!value.is_int64()) {
      return refuse(kSpeculative, std::string_view(key), "must be a whole number");
    }
    ATOM_RETURN_IF_ERROR(check_range(str_format("{}: {}", kSpeculative, std::string_view(key)),
                                     value.get_int64(), int64_t{1}, int64_t{kMaxDraftTokens}));
    *std::get<2>(*row) = static_cast<int>(value.get_int64());
  }
  if (!args.method) return refuse(kSpeculative, text, "names no method; allowed: mtp, ngram");
  return args;
}

Result<SpeculativeConfig> parse_speculative(const EngineArgs& args) {
  SpeculativeConfig config;
  const std::tuple<const char*, std::optional<int>, int*> numbers[] = {
      {"--num-speculative-tokens", args.num_speculative_tokens, &config.num_tokens},
      {"--prompt-lookup-min", args.prompt_lookup_min, &config.lookup_min},
      {"--prompt-lookup-max", args.prompt_lookup_max, &config.lookup_max}};
  if (args.method) {
    ATOM_RETURN_IF_ERROR(check_choice("--method", *args.method, {"mtp", "ngram"}));
    config.method = *args.method == "mtp" ? DraftMethod::kMtp : DraftMethod::kNgram;
  }
  const bool looks_up = config.method == DraftMethod::kNgram;
  config.num_tokens = looks_up ? kLookedUpTokens : 1;
  for (const auto& [flag, given, target] : numbers) {
    if (!given) continue;
    ATOM_RETURN_IF_ERROR(check_range(flag, *given, 1, kMaxDraftTokens));
    if (!looks_up && target != &config.num_tokens) {
      return refuse(flag, str_format("{}", *given), "only with --method ngram");
    }
    *target = *given;
  }
  // A value of 1 is what scripts give that do not speculate.
  if (!args.method && args.num_speculative_tokens.value_or(1) != 1) {
    return refuse("--num-speculative-tokens", str_format("{}", *args.num_speculative_tokens),
                  "needs --method mtp or --method ngram");
  }
  if (config.lookup_min > config.lookup_max) {
    if (args.prompt_lookup_max && args.prompt_lookup_min) {
      return refuse("--prompt-lookup-min", str_format("{}", config.lookup_min),
                    str_format("more than --prompt-lookup-max {}", config.lookup_max));
    }
    // One given alone moves the other's default.
    (args.prompt_lookup_min ? config.lookup_max : config.lookup_min) =
        args.prompt_lookup_min.value_or(config.lookup_max);
  }
  return config;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return value == "1" || value == "true" || value == "yes" || value == "on";
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// $HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface; empty when there is no
// home.
std::filesystem::path hub_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
    return std::filesystem::path(cache) / "huggingface";
  }
  if (const std::string home = environment("HOME"); !home.empty()) {
    return std::filesystem::path(home) / ".cache" / "huggingface";
  }
  return {};
}

// HF_TOKEN, else the file that `huggingface-cli login` leaves.
std::string hub_token(const std::filesystem::path& home) {
  if (const std::string token = trimmed(environment("HF_TOKEN")); !token.empty()) return token;
  if (home.empty()) return {};
  std::ifstream file(home / "token");
  std::string line;
  std::getline(file, line);
  return trimmed(line);
}

Status read_hub_environment(ModelSourceConfig& config) {
  const std::filesystem::path home = hub_home();
  config.hub_cache_dir = environment("HF_HUB_CACHE");
  if (config.hub_cache_dir.empty() && !home.empty()) config.hub_cache_dir = (home / "hub").string();
  config.hub_token = hub_token(home);
  config.hub_offline = is_true(environment("HF_HUB_OFFLINE"));
  std::string endpoint = trimmed(environment("HF_ENDPOINT"));
  while (endpoint.ends_with('/')) endpoint.pop_back();
  if (endpoint.empty()) return {};
  if (!endpoint.starts_with("http://") && !endpoint.starts_with("https://")) {
    return refuse("HF_ENDPOINT", endpoint, "not a URL; allowed: http://... or https://...");
  }
  config.hub_endpoint = endpoint;
  return {};
}

}  // namespace

Result<EngineConfig> make_engine_config(const EngineArgs& args) {
  if (args.model.empty()) return refuse("--model", "(empty)", "names no model");
  if (args.model.find('\0') != std::string::npos) {
    return refuse("--model", "(binary)", "a name cannot hold a zero byte");
  }
  ATOM_RETURN_IF_ERROR(check_not_yet(args));
  ATOM_RETURN_IF_ERROR(check_cache(args));
  ATOM_RETURN_IF_ERROR(check_scheduler(args));
  ATOM_RETURN_IF_ERROR(check_execution(args));

  EngineConfig config;
  config.model.model = args.model;
  ATOM_ASSIGN_OR_RETURN(config.model.dtype, parse_dtype(args.dtype));
  ATOM_ASSIGN_OR_RETURN(config.model.load_dummy, parse_load_dummy(args.load_dummy));
  if (args.quantization) config.model.quantization = Quantization::kFP8;
  ATOM_RETURN_IF_ERROR(read_hub_environment(config.model));
  ATOM_ASSIGN_OR_RETURN(const EngineArgs drafting, read_speculative_config(args));
  ATOM_ASSIGN_OR_RETURN(config.speculative, parse_speculative(drafting));
  config.cache = {.block_size = args.block_size,
                  .dtype = args.kv_cache_dtype == "fp8" ? KvCacheType::kFP8 : KvCacheType::kBF16,
                  .enable_prefix_caching = args.enable_prefix_caching,
                  .memory_utilization = args.gpu_memory_utilization,
                  .kv_cache_bytes = {}};
  if (args.kv_cache_memory_gb) {
    config.cache.kv_cache_bytes =
        static_cast<int64_t>(*args.kv_cache_memory_gb * static_cast<double>(int64_t{1} << 30));
  }
  config.scheduler = {.max_num_batched_tokens = args.max_num_batched_tokens,
                      .max_num_seqs = std::min(args.max_num_seqs, args.max_num_batched_tokens),
                      .max_model_len = args.max_model_len,
                      .delay_factor = args.scheduler_delay_factor};
  config.num_threads = args.threads > 0 ? args.threads : std::min(available_cpus(), kMaxThreads);
  config.level = args.level;
  config.enforce_eager = args.enforce_eager;
  config.deterministic = args.deterministic;
  config.device = args.device == "cuda" ? DeviceType::kCuda : DeviceType::kCpu;
  config.auto_device = args.device == "auto";
  config.capture_sizes = args.cudagraph_capture_sizes;
  std::sort(config.capture_sizes.begin(), config.capture_sizes.end());
  config.seed = args.seed;
  config.profiler = {
      .dir = args.torch_profiler_dir.value_or(environment("ATOM_TORCH_PROFILER_DIR")),
      .detailed = environment("ATOM_PROFILER_MORE") == "1"};
  return config;
}

std::string api_key_from_environment() { return trimmed(environment("ATOM_API_KEY")); }
std::string openai_api_key_from_environment() { return trimmed(environment("OPENAI_API_KEY")); }

bool environment_wants_pytorch_records() {
  return !environment("SAVE_TO_PYTORCH_BENCHMARK_FORMAT").empty();
}

bool environment_allows_colour() {
  const std::string term = environment("TERM");
  return environment("NO_COLOR").empty() && !term.empty() && term != "dumb";
}

}  // namespace atom
