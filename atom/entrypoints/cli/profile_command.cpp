// `atom profile`: runs one batch of prompts offline under the profiler, writes the trace and prints
// what it says.
#include <cstdio>

#include "atom/core/splitmix64.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/cli/generation.h"
#include "atom/entrypoints/cli/terminal.h"
#include "atom/profiler/trace_summary.h"

namespace atom::cli {
namespace {

constexpr const char* kDefaultDir = "./profiler_traces";
constexpr const char* kText =
    "The history of computing begins long before the electronic computer. People counted with "
    "pebbles, built tables of logarithms, and made machines of brass that added and multiplied. ";
constexpr int kSummaryRows = 15;

struct Options {
  EngineArgs engine;
  int64_t input_length = 128;
  int64_t output_length = 32;
  int64_t batch_size = 1;
  bool random_input = false;
  bool verbose = false;
};

FlagSet make_flags(Options& options) {
  FlagSet flags("atom profile [MODEL] [FLAGS]",
                "Generates with a model under the profiler, without a server: writes a trace for "
                "Perfetto, TensorBoard or chrome://tracing and prints its summary.");
  flags.group("Workload");
  flags.add({.name = "--input-length",
             .metavar = "N",
             .help = "tokens of each prompt",
             .min = 1,
             .max = 1 << 24},
            &options.input_length);
  flags.add({.name = "--output-length",
             .metavar = "N",
             .help = "tokens generated for each prompt",
             .min = 1,
             .max = 1 << 24},
            &options.output_length);
  flags.add(
      {.name = "--bs", .metavar = "N", .help = "prompts, all at once", .min = 1, .max = 65536},
      &options.batch_size);
  flags.add_switch({.name = "--random-input", .help = "random token ids instead of a text"},
                   &options.random_input);
  flags.add_switch({.name = "--verbose", .help = "log the start-up phases and the memory plan"},
                   &options.verbose);
  add_engine_flags(flags, options.engine);
  flags.positional("--model");
  return flags;
}

std::vector<std::vector<int32_t>> make_prompts(const Options& options, const LLMEngine& engine) {
  const std::vector<int32_t> text = engine.tokenizer()->encode(kText, false);
  const auto length = static_cast<size_t>(options.input_length);
  uint64_t state = static_cast<uint64_t>(options.engine.seed);
  std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(options.batch_size));
  for (size_t p = 0; p < prompts.size(); ++p) {  // no two begin alike: nothing is in the cache yet
    for (size_t i = p; i < length + p; ++i) {
      const auto vocabulary = static_cast<uint64_t>(engine.tokenizer()->vocab_size());
      prompts[p].push_back(options.random_input || text.empty()
                               ? static_cast<int32_t>(splitmix64(state++) % vocabulary)
                               : text[i % text.size()]);
    }
  }
  return prompts;
}

Result<int> run(const Options& options, bool /*seed_given*/) {
  ATOM_ASSIGN_OR_RETURN(EngineConfig config, make_engine_config(options.engine));
  if (config.profiler.dir.empty()) config.profiler.dir = kDefaultDir;
  ATOM_ASSIGN_OR_RETURN(const auto engine, start_engine(config, options.verbose));
  const auto prompts = make_prompts(options, *engine);
  SamplingParams params;
  params.temperature = 0;
  params.ignore_eos = true;
  params.max_tokens = 2;
  ATOM_RETURN_IF_ERROR(engine->generate({{prompts[0][0]}}, {params}));  // first use is not typical
  params.max_tokens = options.output_length;
  ATOM_RETURN_IF_ERROR(engine->start_profile());
  ATOM_ASSIGN_OR_RETURN(const auto results,
                        engine->generate(prompts, std::vector(prompts.size(), params)));
  ATOM_ASSIGN_OR_RETURN(const std::vector<std::string> traces, engine->stop_profile());
  for (const std::string& path : traces) {
    ATOM_ASSIGN_OR_RETURN(TraceEvents events, read_trace(path));
    const bool written =
        write_out(str_format("{}\n{}", path, summarize_trace(std::move(events), kSummaryRows)));
    if (!written) return kExitFailure;
  }
  double latency = 0;
  int64_t tokens = 0;
  for (const GenerationResult& result : results) {
    latency = std::max(latency, result.latency);
    tokens += result.num_tokens_output;
  }
  std::fprintf(stderr, "%lld tokens in %.3f s, profiled\n", static_cast<long long>(tokens),
               latency);
  return kExitOk;
}

}  // namespace

int profile_command(const Arguments& arguments) {
  return run_with_flags(arguments, make_flags, run);
}

}  // namespace atom::cli
