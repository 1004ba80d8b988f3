// `atom bench throughput` and `atom bench latency`: an engine in this process, no server; flags,
// output and JSON keys of vLLM's commands of the same names.
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <numeric>

#include "atom/benchmark/model_text.h"
#include "atom/benchmark/pytorch_records.h"
#include "atom/benchmark/result_file.h"
#include "atom/config.h"
#include "atom/core/json_text.h"
#include "atom/core/splitmix64.h"
#include "atom/entrypoints/cli/bench_command.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/cli/generation.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

namespace json = boost::json;

using Prompts = std::vector<std::vector<int32_t>>;

struct Workload {
  EngineArgs engine;
  ServingFlags serving;  // of throughput: its dataset
  std::optional<int64_t> input_len;
  std::optional<int64_t> output_len;
  int64_t n = 1;
  int64_t batch_size = 8;
  int64_t num_warmups = 0;
  int64_t num_iterations = 30;
  bool profile = false;
  bool verbose = false;
  std::string output_json;
  std::string settings;  // the flags as a JSON object
};

// What both commands have.
void add_common_flags(FlagSet& flags, Workload& work, const char* input, const char* output) {
  flags.add({.name = "--input-len",
             .metavar = "TOKENS",
             .help = "of each prompt",
             .default_text = input,
             .min = 1,
             .max = 1e7},
            &work.input_len);
  flags.add({.name = "--output-len",
             .metavar = "TOKENS",
             .help = "of each answer",
             .default_text = output,
             .min = 1,
             .max = 1e7},
            &work.output_len);
  flags.add(
      {.name = "--n", .metavar = "N", .help = "answers to each prompt", .min = 1, .max = 1024},
      &work.n);
  flags.add({.name = "--output-json", .metavar = "FILE", .help = "write the result there too"},
            &work.output_json);
  flags.add_switch(
      {.name = "--profile", .help = "trace the measured part into --torch-profiler-dir"},
      &work.profile);
  flags.add_switch({.name = "--verbose", .help = "log the start-up phases and the memory plan"},
                   &work.verbose);
}

FlagSet throughput_flags(Workload& work) {
  FlagSet flags("atom bench throughput [MODEL] [FLAGS]",
                "Gives all prompts to an engine at once and reports requests and tokens a second.");
  work.serving.options.dataset.name = "random";
  work.serving.options.dataset.num_prompts = 1000;
  add_dataset_flags(flags, work.serving);
  flags.group("Workload");
  add_common_flags(flags, work, "of the dataset", "of the dataset");
  flags.add({.name = "--num-warmups",
             .metavar = "N",
             .help = "prompts run before the measured ones",
             .min = 0,
             .max = 1e6},
            &work.num_warmups);
  add_engine_flags(flags, work.engine);
  flags.positional("--model");
  return flags;
}

FlagSet latency_flags(Workload& work) {
  FlagSet flags("atom bench latency [MODEL] [FLAGS]",
                "Generates with one batch of random prompts again and again and reports how long "
                "the whole batch takes.");
  work.num_warmups = 10;
  flags.group("Workload");
  add_common_flags(flags, work, "32", "128");
  flags.add({.name = "--batch-size", .metavar = "N", .help = "prompts", .min = 1, .max = 65536},
            &work.batch_size);
  flags.add({.name = "--num-iters-warmup",
             .metavar = "N",
             .help = "batches that do not count",
             .min = 0,
             .max = 1e6},
            &work.num_warmups);
  flags.add({.name = "--num-iters", .metavar = "N", .help = "batches", .min = 1, .max = 1e6},
            &work.num_iterations);
  add_engine_flags(flags, work.engine);
  flags.positional("--model");
  return flags;
}

SamplingParams sampling(const Workload& work, int64_t output_len) {
  SamplingParams params;
  params.n = static_cast<int32_t>(work.n);
  params.temperature = 1.0F;
  params.ignore_eos = true;
  params.max_tokens = output_len;
  return params;
}

// The engine, and a trace of what follows when one was asked for.
Result<std::unique_ptr<LLMEngine>> start(const Workload& work) {
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config(work.engine));
  if (work.profile && config.profiler.dir.empty()) {
    return flag_error("--profile", "needs --torch-profiler-dir");
  }
  catch_interrupts();
  return start_engine(config, work.verbose);
}

Status check_length(const LLMEngine& engine, int64_t prompt, int64_t output) {
  if (prompt + output <= engine.max_model_len()) return {};
  return flag_error("--max-model-len",
                    str_format("{} prompt and {} answer tokens do not fit a context of {}", prompt,
                               output, engine.max_model_len()));
}

// Seconds of one generate().
Result<double> timed(LLMEngine& engine, const Prompts& prompts,
                     const std::vector<SamplingParams>& params) {
  const auto started = std::chrono::steady_clock::now();
  ATOM_RETURN_IF_ERROR(engine.generate(prompts, params, [] { return interrupted(); }));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

Result<double> timed_profiled(const Workload& work, LLMEngine& engine, const Prompts& prompts,
                              const std::vector<SamplingParams>& params) {
  if (!work.profile) return timed(engine, prompts, params);
  ATOM_RETURN_IF_ERROR(engine.start_profile());
  const Result<double> seconds = timed(engine, prompts, params);
  ATOM_ASSIGN_OR_RETURN(const std::vector<std::string> traces, engine.stop_profile());
  for (const std::string& path : traces) std::fprintf(stderr, "trace: %s\n", path.c_str());
  return seconds;
}

// `metrics`: the keys of `result` whose values are measurements.
Status save(const Workload& work, const json::object& result,
            std::initializer_list<std::pair<std::string_view, std::string_view>> metrics) {
  if (work.output_json.empty()) return {};
  ATOM_RETURN_IF_ERROR(write_result_file(work.output_json, json_text(result)));
  if (!environment_wants_pytorch_records()) return {};
  json::object values;
  json::object extra_info = result;
  for (const auto& [key, name] : metrics) {
    const json::value& value = result.at(key);
    values[name] = value.is_array() ? value : json::array{value};
    extra_info.erase(key);
  }
  return write_pytorch_records(work.output_json,
                               {.model = work.engine.model, .arguments = work.settings}, values,
                               extra_info);
}

// After Ctrl-C there is nothing to report.
Result<int> stopped(const Error& error) {
  if (interrupted()) return kExitInterrupted;
  return std::unexpected(error);
}

struct Sampled {
  Prompts prompts;
  std::vector<SamplingParams> params;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
};

Result<Sampled> sample(const Workload& work, const LLMEngine& engine) {
  DatasetOptions dataset = work.serving.options.dataset;
  dataset.seed = static_cast<uint32_t>(work.engine.seed);
  dataset.random_input_len = work.input_len.value_or(dataset.random_input_len);
  if (!dataset.path.empty() && dataset.name == "random") dataset.name = "sharegpt";
  if (work.input_len && dataset.name != "random") {
    return flag_error("--input-len", "only with --dataset-name random; files have their own");
  }
  NumpyRandom random(dataset.seed);
  ModelText text;
  if (engine.chat_template() != nullptr) {
    ATOM_ASSIGN_OR_RETURN(text, load_model_text(work.engine.model));
  }
  ATOM_ASSIGN_OR_RETURN(
      const std::vector<SampleRequest> requests,
      sample_dataset(dataset, {.tokenizer = engine.tokenizer().get(),
                               .render = [&](std::string_view user) { return text.render(user); },
                               .random = &random}));
  Sampled out;
  for (const SampleRequest& request : requests) {
    out.prompts.push_back(engine.tokenizer()->encode(request.prompt, false));
    const int64_t output_len = work.output_len.value_or(request.output_len);
    const auto prompt_len = static_cast<int64_t>(out.prompts.back().size());
    ATOM_RETURN_IF_ERROR(check_length(engine, prompt_len, output_len));
    out.params.push_back(sampling(work, output_len));
    out.prompt_tokens += prompt_len;
    out.output_tokens += output_len * work.n;
  }
  return out;
}

Result<int> run_throughput(const Workload& work) {
  ATOM_ASSIGN_OR_RETURN(const auto engine, start(work));
  ATOM_ASSIGN_OR_RETURN(const Sampled work_list, sample(work, *engine));
  const auto warm = std::min(static_cast<size_t>(work.num_warmups), work_list.prompts.size());
  if (warm > 0) {
    const auto end = static_cast<ptrdiff_t>(warm);
    const Result<double> ran =
        timed(*engine, Prompts(work_list.prompts.begin(), work_list.prompts.begin() + end),
              std::vector(work_list.params.begin(), work_list.params.begin() + end));
    if (!ran) return stopped(ran.error());
  }
  const Result<double> ran = timed_profiled(work, *engine, work_list.prompts, work_list.params);
  if (!ran) return stopped(ran.error());
  const double seconds = *ran;
  const auto requests = static_cast<double>(work_list.prompts.size());
  const auto total = static_cast<double>(work_list.prompt_tokens + work_list.output_tokens);
  if (!write_out(str_format(
          "Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s\n"
          "Total num prompt tokens:  {}\nTotal num output tokens:  {}\n",
          requests / seconds, total / seconds,
          static_cast<double>(work_list.output_tokens) / seconds, work_list.prompt_tokens,
          work_list.output_tokens))) {
    return kExitFailure;
  }
  ATOM_RETURN_IF_ERROR(
      save(work,
           {{"elapsed_time", seconds},
            {"num_requests", work_list.prompts.size()},
            {"total_num_tokens", work_list.prompt_tokens + work_list.output_tokens},
            {"requests_per_second", requests / seconds},
            {"tokens_per_second", total / seconds}},
           {{"requests_per_second", "requests_per_second"},
            {"tokens_per_second", "tokens_per_second"}}));
  return kExitOk;
}

// Of random tokens; no two begin alike, so that nothing of one is in the cache for another.
Prompts random_prompts(const Workload& work, const LLMEngine& engine, int64_t input_len) {
  const auto vocabulary = static_cast<uint64_t>(engine.tokenizer()->base_vocab_size());
  auto state = static_cast<uint64_t>(work.engine.seed);
  Prompts prompts(static_cast<size_t>(work.batch_size));
  for (std::vector<int32_t>& prompt : prompts) {
    for (int64_t i = 0; i < input_len; ++i) {
      prompt.push_back(static_cast<int32_t>(splitmix64(state++) % vocabulary));
    }
  }
  return prompts;
}

Result<int> run_latency(const Workload& work) {
  const int64_t input_len = work.input_len.value_or(32);
  const int64_t output_len = work.output_len.value_or(128);
  ATOM_ASSIGN_OR_RETURN(const auto engine, start(work));
  ATOM_RETURN_IF_ERROR(check_length(*engine, input_len, output_len));
  const Prompts prompts = random_prompts(work, *engine, input_len);
  const std::vector<SamplingParams> params{sampling(work, output_len)};
  std::vector<double> latencies;
  for (int64_t i = 0; i < work.num_warmups + work.num_iterations && !interrupted(); ++i) {
    const bool last = i + 1 == work.num_warmups + work.num_iterations;
    const Result<double> seconds =
        last ? timed_profiled(work, *engine, prompts, params) : timed(*engine, prompts, params);
    if (!seconds && !interrupted()) return std::unexpected(seconds.error());
    if (!seconds) break;
    if (i >= work.num_warmups) latencies.push_back(*seconds);
  }
  if (latencies.empty()) return kExitInterrupted;
  const double mean = std::accumulate(latencies.begin(), latencies.end(), 0.0) /
                      static_cast<double>(latencies.size());
  std::string text = interrupted() ? str_format("PARTIAL RESULT: {} of {} iterations\n",
                                                latencies.size(), work.num_iterations)
                                   : "";
  text += str_format("Avg latency: {} seconds\n", mean);
  json::object percentiles;
  for (const int percentile : {10, 25, 50, 75, 90, 99}) {
    const double value = percentile_of(latencies, percentile);
    text += str_format("{}% percentile latency: {} seconds\n", percentile, value);
    percentiles[std::to_string(percentile)] = value;
  }
  if (!write_out(text)) return kExitFailure;
  ATOM_RETURN_IF_ERROR(save(work,
                            {{"avg_latency", mean},
                             {"latencies", json::value_from(latencies)},
                             {"percentiles", std::move(percentiles)}},
                            {{"latencies", "latency"}}));
  return interrupted() ? kExitInterrupted : kExitOk;
}

int run_offline(const Arguments& arguments, FlagSet (*make_flags)(Workload&),
                Result<int> (*run)(const Workload&)) {
  Workload work;
  FlagSet flags = make_flags(work);
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  work.settings = flags.settings();
  const Result<int> result = run(work);
  return result ? *result : report_error(result.error());
}

}  // namespace

int bench_throughput_command(const Arguments& arguments) {
  return run_offline(arguments, throughput_flags, run_throughput);
}

int bench_latency_command(const Arguments& arguments) {
  return run_offline(arguments, latency_flags, run_latency);
}

}  // namespace atom::cli
