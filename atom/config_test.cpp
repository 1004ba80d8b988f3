// make_engine_config: every accepted edge, every refusal with its flag and reason.
#include "atom/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

namespace atom {
namespace {

class Environment {  // sets a variable for one test
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  ~Environment() { old_.empty() ? unsetenv(name_) : setenv(name_, old_.c_str(), 1); }

 private:
  const char* name_;
  std::string old_;
};

struct Refusal {
  const char* flag;
  const char* reason;  // part of the message
  std::function<void(EngineArgs&)> change;
  ErrorCode code = ErrorCode::kInvalidArgument;
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr ErrorCode kLater = ErrorCode::kUnsupported;

const Refusal kRefusals[] = {
    {"--model", "no model", [](EngineArgs& a) { a.model = ""; }},
    {"--model", "zero byte", [](EngineArgs& a) { a.model = std::string("a\0b", 3); }},
    {"--tensor-parallel-size", "0: out of range",
     [](EngineArgs& a) { a.tensor_parallel_size = 0; }},
    {"--tensor-parallel-size", "-1", [](EngineArgs& a) { a.tensor_parallel_size = -1; }},
    {"--tensor-parallel-size", "not supported yet",
     [](EngineArgs& a) { a.tensor_parallel_size = 2; }, kLater},
    {"--data-parallel-size", "not supported yet", [](EngineArgs& a) { a.data_parallel_size = 8; },
     kLater},
    {"--data-parallel-size", "0", [](EngineArgs& a) { a.data_parallel_size = 0; }},
    {"--enable-expert-parallel", "not supported yet",
     [](EngineArgs& a) { a.enable_expert_parallel = true; }, kLater},
    {"--enable-dp-attention", "not supported yet",
     [](EngineArgs& a) { a.enable_dp_attention = true; }, kLater},
    {"--method", "allowed: mtp, ngram", [](EngineArgs& a) { a.method = "eagle"; }},
    {"--num-speculative-tokens", "needs --method",
     [](EngineArgs& a) { a.num_speculative_tokens = 3; }},
    {"--num-speculative-tokens", "0", [](EngineArgs& a) { a.num_speculative_tokens = 0; }},
    {"--num-speculative-tokens", "allowed: 1 to 16",
     [](EngineArgs& a) {
       a.method = "mtp";
       a.num_speculative_tokens = 17;
     }},
    {"--prompt-lookup-min", "only with --method ngram",
     [](EngineArgs& a) {
       a.method = "mtp";
       a.prompt_lookup_min = 2;
     }},
    {"--prompt-lookup-max", "only with --method ngram",
     [](EngineArgs& a) { a.prompt_lookup_max = 4; }},
    {"--prompt-lookup-min", "more than --prompt-lookup-max 2",
     [](EngineArgs& a) {
       a.method = "ngram";
       a.prompt_lookup_min = 3;
       a.prompt_lookup_max = 2;
     }},
    {"--speculative-config", "must be a JSON object",
     [](EngineArgs& a) { a.speculative_config = R"([])"; }},
    {"--speculative-config", "invalid JSON at byte",
     [](EngineArgs& a) { a.speculative_config = R"({)"; }},
    {"--speculative-config", "names no method",
     [](EngineArgs& a) { a.speculative_config = R"({})"; }},
    {"--speculative-config: method", "allowed: mtp, deepseek_mtp, glm4_moe_mtp, ngram",
     [](EngineArgs& a) { a.speculative_config = R"({"method":"eagle"})"; }},
    {"--speculative-config", "must be a string",
     [](EngineArgs& a) { a.speculative_config = R"({"method":1})"; }},
    {"--speculative-config", "model: unknown key",
     [](EngineArgs& a) { a.speculative_config = R"({"method":"ngram","model":"x"})"; }},
    {"--speculative-config", "must be a whole number",
     [](EngineArgs& a) {
       a.speculative_config = R"({"method":"ngram","num_speculative_tokens":2.5})";
     }},
    {"--speculative-config: num_speculative_tokens", "allowed: 1 to 16",
     [](EngineArgs& a) {
       a.speculative_config = R"({"method":"ngram","num_speculative_tokens":4294967297})";
     }},
    {"--prompt-lookup-max", "only with --method ngram",
     [](EngineArgs& a) {
       a.speculative_config = R"({"method":"deepseek_mtp","prompt_lookup_max":3})";
     }},
    {"--speculative-config", "not together with --method",
     [](EngineArgs& a) {
       a.method = "ngram";
       a.speculative_config = R"({"method":"ngram"})";
     }},
    {"--speculative-config", "not together with --num-speculative-tokens",
     [](EngineArgs& a) {
       a.num_speculative_tokens = 1;
       a.speculative_config = R"({"method":"ngram"})";
     }},
    {"--torch-profiler-dir", "names no directory",
     [](EngineArgs& a) { a.torch_profiler_dir = ""; }},
    {"--device", "not supported yet", [](EngineArgs& a) { a.device = "hip"; }, kLater},
    {"--device", "allowed: auto, cpu", [](EngineArgs& a) { a.device = "tpu"; }},
    {"--kv_cache_dtype", "allowed: bf16, fp8", [](EngineArgs& a) { a.kv_cache_dtype = "int4"; }},
    {"--block-size", "0: ", [](EngineArgs& a) { a.block_size = 0; }},
    {"--block-size", "7: ", [](EngineArgs& a) { a.block_size = 7; }},
    {"--block-size", "24: ", [](EngineArgs& a) { a.block_size = 24; }},
    {"--block-size", "1048576: ", [](EngineArgs& a) { a.block_size = 1 << 20; }},
    {"--gpu-memory-utilization", "0: ", [](EngineArgs& a) { a.gpu_memory_utilization = 0; }},
    {"--gpu-memory-utilization", "1.5: ", [](EngineArgs& a) { a.gpu_memory_utilization = 1.5; }},
    {"--gpu-memory-utilization", "nan: ", [](EngineArgs& a) { a.gpu_memory_utilization = kNan; }},
    {"--kv-cache-memory-gb", "0: ", [](EngineArgs& a) { a.kv_cache_memory_gb = 0; }},
    {"--kv-cache-memory-gb", "nan: ", [](EngineArgs& a) { a.kv_cache_memory_gb = kNan; }},
    {"--max-num-seqs", "0: ", [](EngineArgs& a) { a.max_num_seqs = 0; }},
    {"--max-num-seqs", "1000000000: ", [](EngineArgs& a) { a.max_num_seqs = 1000000000; }},
    {"--max-num-seqs", "--max-num-batched-tokens 64",
     [](EngineArgs& a) {
       a.max_num_seqs = 65;
       a.max_num_batched_tokens = 64;
     }},
    {"--max-num-batched-tokens", "0: ", [](EngineArgs& a) { a.max_num_batched_tokens = 0; }},
    {"--max-num-batched-tokens", "--block-size 16",
     [](EngineArgs& a) { a.max_num_batched_tokens = 15; }},
    {"--max-model-len", "0: ", [](EngineArgs& a) { a.max_model_len = 0; }},
    {"--max-model-len", "1: ", [](EngineArgs& a) { a.max_model_len = 1; }},
    {"--scheduler-delay-factor", "-0.5: ", [](EngineArgs& a) { a.scheduler_delay_factor = -0.5; }},
    {"--scheduler-delay-factor", "nan: ", [](EngineArgs& a) { a.scheduler_delay_factor = kNan; }},
    {"--level", "4: ", [](EngineArgs& a) { a.level = 4; }},
    {"--level", "-1: ", [](EngineArgs& a) { a.level = -1; }},
    {"--threads", "-1: ", [](EngineArgs& a) { a.threads = -1; }},
    {"--port", "70000: ", [](EngineArgs& a) { a.port = 70000; }},
    {"--cudagraph-capture-sizes", "0: ",
     [](EngineArgs& a) {
       a.cudagraph_capture_sizes = {1, 0};
     }},
    {"--dtype", "allowed: auto", [](EngineArgs& a) { a.dtype = "int8"; }},
    {"--load_dummy", "allowed: empty", [](EngineArgs& a) { a.load_dummy = "ones"; }},
};

TEST(EngineConfig, RefusesWithFlagValueAndReason) {
  for (const Refusal& refusal : kRefusals) {
    EngineArgs args;
    refusal.change(args);
    const auto config = make_engine_config(args);
    ASSERT_FALSE(config) << refusal.flag << " " << refusal.reason;
    const Error& error = config.error();
    EXPECT_EQ(error.param, refusal.flag);
    EXPECT_EQ(error.code, refusal.code) << error.message;
    EXPECT_TRUE(error.message.starts_with(std::string(refusal.flag) + ": ")) << error.message;
    EXPECT_NE(error.message.find(refusal.reason), std::string::npos) << error.message;
    EXPECT_EQ(error.message.find('\n'), std::string::npos);
  }
}

TEST(EngineConfig, DefaultsAreTheGuides) {
  const auto config = make_engine_config({});
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model.model, "Qwen/Qwen3-0.6B");
  EXPECT_EQ(config->cache.block_size, 16);
  EXPECT_EQ(config->cache.dtype, KvCacheType::kBF16);
  EXPECT_TRUE(config->cache.enable_prefix_caching);
  EXPECT_FALSE(config->cache.kv_cache_bytes);
  EXPECT_EQ(config->scheduler.max_num_batched_tokens, 16384);
  EXPECT_EQ(config->scheduler.max_num_seqs, 512);
  EXPECT_FALSE(config->scheduler.max_model_len);
  EXPECT_EQ(config->level, 3);
  EXPECT_GE(config->num_threads, 1);
}

TEST(EngineConfig, CarriesEveryValue) {
  EngineArgs args;
  args.model = "m.gguf";
  args.kv_cache_dtype = "fp8";
  args.block_size = 32;
  args.enable_prefix_caching = false;
  args.gpu_memory_utilization = 1.0;
  args.kv_cache_memory_gb = 0.5;
  args.max_num_batched_tokens = 128;
  args.max_model_len = 2048;
  args.scheduler_delay_factor = 0.25;
  args.level = 0;
  args.enforce_eager = true;
  args.seed = -7;
  args.threads = 3;
  args.dtype = "float32";
  args.load_dummy = "xavier";
  const auto config = make_engine_config(args);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model.model, "m.gguf");
  EXPECT_EQ(config->model.dtype, ComputeType::kFloat32);
  EXPECT_EQ(config->model.load_dummy, DummyWeights::kXavier);
  EXPECT_EQ(config->cache.dtype, KvCacheType::kFP8);
  EXPECT_EQ(config->cache.block_size, 32);
  EXPECT_FALSE(config->cache.enable_prefix_caching);
  EXPECT_EQ(config->cache.memory_utilization, 1.0);
  EXPECT_EQ(config->cache.kv_cache_bytes, int64_t{1} << 29);
  EXPECT_EQ(config->scheduler.max_num_batched_tokens, 128);
  EXPECT_EQ(config->scheduler.max_num_seqs, 128) << "the default follows a small token budget";
  EXPECT_EQ(config->scheduler.max_model_len, 2048);
  EXPECT_EQ(config->scheduler.delay_factor, 0.25);
  EXPECT_EQ(config->level, 0);
  EXPECT_TRUE(config->enforce_eager);
  EXPECT_EQ(config->seed, -7);
  EXPECT_EQ(config->num_threads, 3);
}

TEST(EngineConfig, ReadsTheHubEnvironment) {
  const Environment home("HF_HOME", "/x/hf");
  const Environment cache("HF_HUB_CACHE", nullptr);
  const Environment endpoint("HF_ENDPOINT", "http://127.0.0.1:9/");
  const Environment token("HF_TOKEN", " secret\n");
  const Environment offline("HF_HUB_OFFLINE", "True");
  const auto config = make_engine_config({});
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model.hub_cache_dir, "/x/hf/hub");
  EXPECT_EQ(config->model.hub_endpoint, "http://127.0.0.1:9");
  EXPECT_EQ(config->model.hub_token, "secret");
  EXPECT_TRUE(config->model.hub_offline);
  const Environment own("HF_HUB_CACHE", "/y");
  EXPECT_EQ(make_engine_config({})->model.hub_cache_dir, "/y");
}

TEST(EngineConfig, LivesWithoutAHomeAndRefusesABadEndpoint) {
  const Environment hf("HF_HOME", nullptr);
  const Environment cache("HF_HUB_CACHE", nullptr);
  const Environment xdg("XDG_CACHE_HOME", nullptr);
  const Environment home("HOME", nullptr);
  const auto config = make_engine_config({});
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model.hub_cache_dir, "");
  const Environment endpoint("HF_ENDPOINT", "ftp://x");
  const auto refused = make_engine_config({});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "HF_ENDPOINT");
}

TEST(EngineConfig, SpeculationHasTheDefaultsOfItsMethod) {
  EXPECT_EQ(make_engine_config({})->speculative.method, DraftMethod::kNone);
  EXPECT_TRUE(make_engine_config({.num_speculative_tokens = 1}));
  const auto mtp = make_engine_config({.method = "mtp"});
  ASSERT_TRUE(mtp) << mtp.error().message;
  EXPECT_EQ(mtp->speculative.method, DraftMethod::kMtp);
  EXPECT_EQ(mtp->speculative.num_tokens, 1);
  const auto ngram = make_engine_config({.method = "ngram", .prompt_lookup_min = 6});
  ASSERT_TRUE(ngram) << ngram.error().message;
  EXPECT_EQ(ngram->speculative.num_tokens, 5);
  EXPECT_EQ(ngram->speculative.lookup_min, 6);
  EXPECT_EQ(ngram->speculative.lookup_max, 6);
}

TEST(EngineConfig, SpeculationMayComeAsJson) {
  const auto ngram =
      make_engine_config({.speculative_config = R"({"method":"ngram","num_speculative_tokens":3,)"
                                                R"("prompt_lookup_max":7,"prompt_lookup_min":1})"});
  ASSERT_TRUE(ngram) << ngram.error().message;
  EXPECT_EQ(ngram->speculative.method, DraftMethod::kNgram);
  EXPECT_EQ(ngram->speculative.num_tokens, 3);
  EXPECT_EQ(ngram->speculative.lookup_min, 1);
  EXPECT_EQ(ngram->speculative.lookup_max, 7);
  const auto mtp = make_engine_config(
      {.speculative_config = R"({"method":"deepseek_mtp","num_speculative_tokens":null})"});
  ASSERT_TRUE(mtp) << mtp.error().message;
  EXPECT_EQ(mtp->speculative.method, DraftMethod::kMtp);
  EXPECT_EQ(mtp->speculative.num_tokens, 1);
}

}  // namespace
}  // namespace atom
