#include "atom/entrypoints/cli/engine_flags.h"

namespace atom::cli {
namespace {

void add_model_flags(FlagSet& flags, EngineArgs& args) {
  flags.group("Model");
  flags.add(
      {.name = "--model",
       .metavar = "MODEL",
       .help = "directory, .gguf file or hub name; hub names are looked up in the local cache "
               "(HF_HOME, HF_HUB_CACHE), then downloaded (HF_ENDPOINT, HF_TOKEN, "
               "HF_HUB_OFFLINE)"},
      &args.model);
  flags.add({.name = "--dtype",
             .metavar = "TYPE",
             .help = "type of activations and unquantised weights; auto: as stored",
             .choices = {"auto", "bfloat16", "bf16", "float16", "half", "float32", "float"}},
            &args.dtype);
  flags.add({.name = "--max-model-len",
             .metavar = "TOKENS",
             .help = "longest prompt + answer",
             .default_text = "the model's own"},
            &args.max_model_len);
  flags.add_optional_value(
      {.name = "--load_dummy",
       .metavar = "KIND",
       .help = "made-up weights instead of the checkpoint's; without KIND: empty",
       .choices = {"empty", "zero", "xavier"}},
      &args.load_dummy, "empty");
  flags.add({.name = "--seed", .metavar = "N", .help = "seed of sampling and of dummy weights"},
            &args.seed);
  flags.add_switch({.name = "--trust-remote-code",
                    .help = "accepted, without effect: no code of a model is ever run"},
                   &args.trust_remote_code);
}

void add_cache_flags(FlagSet& flags, EngineArgs& args) {
  flags.group("KV cache");
  flags.add({.name = "--kv_cache_dtype",
             .metavar = "TYPE",
             .help = "type of cached keys and values",
             .choices = {"bf16", "fp8"}},
            &args.kv_cache_dtype);
  flags.add({.name = "--block-size",
             .metavar = "TOKENS",
             .help = "tokens in one cache block: 8, 16, 32, 64, 128 or 256"},
            &args.block_size);
  flags.add_on_off(
      {.name = "--enable_prefix_caching", .help = "reuse the cache of equal prompt beginnings"},
      &args.enable_prefix_caching);
  flags.add(
      {.name = "--gpu-memory-utilization",
       .metavar = "FRACTION",
       .help = "part of the free memory to plan with, above 0 up to 1; on a CPU: of free RAM"},
      &args.gpu_memory_utilization);
  flags.add({.name = "--kv-cache-memory-gb",
             .metavar = "GIB",
             .help = "size of the KV cache",
             .default_text = "planned from free memory"},
            &args.kv_cache_memory_gb);
}

void add_scheduler_flags(FlagSet& flags, EngineArgs& args) {
  flags.group("Scheduler");
  flags.add(
      {.name = "--max-num-seqs", .metavar = "N", .help = "sequences that run at once, up to 65536"},
      &args.max_num_seqs);
  flags.add({.name = "--max-num-batched-tokens",
             .metavar = "TOKENS",
             .help = "tokens of one step; longer prompts are processed in chunks"},
            &args.max_num_batched_tokens);
  flags.add({.name = "--scheduler-delay-factor",
             .metavar = "FACTOR",
             .help = "wait FACTOR x the last prompt's latency before the next prompt, 0 to 1000"},
            &args.scheduler_delay_factor);
}

void add_execution_flags(FlagSet& flags, EngineArgs& args) {
  flags.group("Execution");
  flags.add(
      {.name = "--device",
       .metavar = "DEVICE",
       .help = "auto: a CUDA device where its backend, a driver and a device are there, else cpu",
       .choices = {"auto", "cpu", "cuda", "hip"}},
      &args.device);
  flags.add_switch({.name = "--deterministic",
                    .help = "on a GPU: answers do not depend on what else is served, bit by bit; "
                            "slower. On a CPU they never do"},
                   &args.deterministic);
  flags.add({.name = "--quantization",
             .metavar = "SCHEME",
             .help = "quantise linear weights while loading (GPU only)",
             .choices = {"fp8"}},
            &args.quantization);
  flags.add({.name = "--threads",
             .metavar = "N",
             .help = "compute threads of the CPU backend; on a GPU, threads that load weights",
             .default_text = "all usable CPUs"},
            &args.threads);
  flags.add(
      {.name = "--level",
       .metavar = "0..3",
       .help = "0: ops unfused, for debugging; 1: fused; 2: replayed steps; 3: specialised per "
               "shape. On a CPU 1 to 3 are the same"},
      &args.level);
  flags.add_switch(
      {.name = "--enforce-eager", .help = "no captured steps at any level; a CPU never captures"},
      &args.enforce_eager);
  flags.add(
      {.name = "--cudagraph-capture-sizes",
       .metavar = "LIST",
       .help = "batch sizes to capture, as [1,2,4] or 1,2,4 or 1 2 4; without effect on a CPU"},
      &args.cudagraph_capture_sizes);
}

void add_parallel_flags(FlagSet& flags, EngineArgs& args) {
  flags.group("Parallelism (parsed; other values are not supported yet)");
  flags.add({.name = "--tensor-parallel-size",
             .alias = "-tp",
             .metavar = "N",
             .help = "devices per model"},
            &args.tensor_parallel_size);
  flags.add(
      {.name = "--data-parallel-size", .alias = "-dp", .metavar = "N", .help = "engine replicas"},
      &args.data_parallel_size);
  flags.add_switch({.name = "--enable-expert-parallel", .help = "experts spread over devices"},
                   &args.enable_expert_parallel);
  flags.add_switch({.name = "--enable-dp-attention", .help = "data-parallel attention"},
                   &args.enable_dp_attention);
  flags.add({.name = "--port",
             .metavar = "PORT",
             .help = "rendezvous of ranks, not the HTTP port (that is --server-port)"},
            &args.port);
  flags.group("Speculative decoding (docs/speculative.md)");
  flags.add({.name = "--method",
             .metavar = "NAME",
             .help = "draft tokens and verify several in one step: mtp by the checkpoint's own "
                     "layer, ngram by what followed the same words before",
             .default_text = "off",
             .choices = {"mtp", "ngram"}},
            &args.method);
  flags.add({.name = "--num-speculative-tokens",
             .metavar = "N",
             .help = "tokens drafted at most, 1 to 16; fewer where they do not pay",
             .default_text = "1, with ngram 5"},
            &args.num_speculative_tokens);
  flags.add({.name = "--prompt-lookup-min",
             .metavar = "N",
             .help = "ngram: newest tokens that must have occurred before",
             .default_text = "2"},
            &args.prompt_lookup_min);
  flags.add({.name = "--prompt-lookup-max",
             .metavar = "N",
             .help = "ngram: longer matches count as equal",
             .default_text = "4"},
            &args.prompt_lookup_max);
  flags.add({.name = "--speculative-config",
             .metavar = "JSON",
             .help = "the same as one object, as vLLM takes it: method, num_speculative_tokens, "
                     "prompt_lookup_min, prompt_lookup_max"},
            &args.speculative_config);
  flags.group("Profiling");
  flags.add({.name = "--torch-profiler-dir",
             .metavar = "DIR",
             .help = "where /start_profile and /stop_profile write traces (docs/profiling.md)",
             .default_text = "$ATOM_TORCH_PROFILER_DIR; without either nothing can be profiled"},
            &args.torch_profiler_dir);
}

}  // namespace

void add_engine_flags(FlagSet& flags, EngineArgs& args) {
  add_model_flags(flags, args);
  add_cache_flags(flags, args);
  add_scheduler_flags(flags, args);
  add_execution_flags(flags, args);
  add_parallel_flags(flags, args);
}

}  // namespace atom::cli
