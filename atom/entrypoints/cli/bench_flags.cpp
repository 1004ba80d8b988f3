// The flags of the serving benchmark: the guide's, and vLLM's names for what the guide does not
// list. To add one: a field in ServingBenchmarkOptions or DatasetOptions, and a row here.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "atom/config.h"
#include "atom/entrypoints/cli/bench_command.h"

namespace atom::cli {
namespace {

Result<double> parse_number(const std::string& flag, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || std::isnan(value))
    return flag_error(flag, shown(text) + " is not a number");
  return value;
}

Status finish_metrics(const ServingFlags& flags, MetricsOptions& metrics) {
  metrics.metrics = split_list(flags.percentile_metrics, ',');
  for (const std::string& name : metrics.metrics) {
    if (name != "ttft" && name != "tpot" && name != "itl" && name != "e2el") {
      return flag_error("--percentile-metrics",
                        shown(name) + " is unknown; allowed: ttft, tpot, itl, e2el");
    }
  }
  metrics.percentiles.clear();
  for (const std::string& text : split_list(flags.metric_percentiles, ',')) {
    ATOM_ASSIGN_OR_RETURN(const double value, parse_number("--metric-percentiles", text));
    if (value < 0 || value > 100)
      return flag_error("--metric-percentiles", shown(text) + " must be 0 to 100");
    metrics.percentiles.push_back(value);
  }
  for (const std::string& words : flags.goodput) {
    for (const std::string& pair : split_list(words, ' ')) {
      const size_t colon = pair.find(':');
      if (colon == std::string::npos)
        return flag_error("--goodput", shown(pair) + ": KEY:MILLISECONDS expected");
      ATOM_ASSIGN_OR_RETURN(const double value, parse_number("--goodput", pair.substr(colon + 1)));
      metrics.goodput[pair.substr(0, colon)] = value;
    }
  }
  return {};
}

}  // namespace

std::vector<std::string> split_list(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

std::string command_line(const std::string& command, const Arguments& arguments) {
  std::string line = command;
  bool is_key = false;
  for (const std::string& argument : arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    const bool names_key = name == "--api-key" || name == "--api_key";
    if (is_key) {
      line += " ...";
    } else {
      line += " " + (names_key && name.size() < argument.size() ? name + "=..." : argument);
    }
    is_key = !is_key && names_key && name.size() == argument.size();
  }
  return line;
}

void add_server_choice_flags(FlagSet& flags, ServingFlags& out) {
  ServingBenchmarkOptions& options = out.options;
  flags.group("Server");
  flags.add({.name = "--backend",
             .metavar = "NAME",
             .help = "what the server speaks; all but openai-chat, tgi, tensorrt-llm and "
                     "deepspeed-mii send OpenAI completions",
             .choices = backend_names()},
            &options.backend);
  flags.add({.name = "--model",
             .metavar = "MODEL",
             .help = "model that the server serves, and whose tokenizer counts: "
                     "directory, .gguf file or hub name"},
            &options.model);
  flags.add({.name = "--served-model-name",
             .metavar = "NAME",
             .help = "name to send, where it is not --model"},
            &options.served_model_name);
  flags.add(
      {.name = "--tokenizer", .metavar = "MODEL", .help = "tokenizer, where it is not the model's"},
      &options.tokenizer);
  flags.add({.name = "--base-url",
             .metavar = "URL",
             .help = "http://HOST:PORT of the server",
             .default_text = "of --host and --port"},
            &options.base_url);
  flags.add({.name = "--host", .metavar = "HOST", .help = "server"}, &out.host);
  flags.add({.name = "--port", .metavar = "PORT", .help = "server", .min = 1, .max = 65535},
            &out.port);
  flags.add({.name = "--endpoint",
             .metavar = "PATH",
             .help = "route to post to",
             .default_text = "the backend's, /v1/completions for vllm"},
            &options.endpoint);
  flags.add(
      {.name = "--api-key", .metavar = "KEY", .help = "bearer token; also from OPENAI_API_KEY"},
      &options.api_key);
}

void add_dataset_flags(FlagSet& flags, ServingFlags& out) {
  DatasetOptions& data = out.options.dataset;
  flags.group("Dataset");
  flags.add({.name = "--dataset-name",
             .metavar = "NAME",
             .help = "what to ask",
             .choices = dataset_names()},
            &data.name);
  flags.add({.name = "--dataset-path",
             .metavar = "FILE",
             .help = "file of sharegpt (.json), burstgpt (.csv), sonnet (.txt) or hf (.json, "
                     ".jsonl with conversations)"},
            &data.path);
  flags.add({.name = "--num-prompts", .metavar = "N", .help = "requests", .min = 1, .max = 1e7},
            &data.num_prompts);
  flags.add({.name = "--random-input-len",
             .metavar = "TOKENS",
             .help = "random: longest prompt",
             .min = 1,
             .max = 1e7},
            &data.random_input_len);
  flags.add({.name = "--random-output-len",
             .metavar = "TOKENS",
             .help = "random: longest answer",
             .min = 1,
             .max = 1e7},
            &data.random_output_len);
  flags.add({.name = "--random-range-ratio",
             .metavar = "RATIO",
             .help = "random: lengths are uniform from RATIO times the longest; 1 = all equal",
             .min = 0,
             .max = 1},
            &data.random_range_ratio);
  flags.add({.name = "--random-prefix-len",
             .metavar = "TOKENS",
             .help = "random: beginning that all prompts share, before --random-input-len",
             .min = 0,
             .max = 1e7},
            &data.random_prefix_len);
  flags.add_switch(
      {.name = "--use-chat-template", .help = "random: prompts inside the model's chat template"},
      &data.use_chat_template);
  flags.add({.name = "--sharegpt-output-len",
             .metavar = "TOKENS",
             .help = "instead of the recorded answers' lengths",
             .default_text = "recorded",
             .min = 1,
             .max = 1e7},
            &data.sharegpt_output_len);
  flags.add({.name = "--hf-output-len",
             .metavar = "TOKENS",
             .help = "the same for hf",
             .default_text = "recorded",
             .min = 1,
             .max = 1e7},
            &data.hf_output_len);
  flags.add({.name = "--sonnet-input-len",
             .metavar = "TOKENS",
             .help = "length of a prompt",
             .min = 1,
             .max = 1e7},
            &data.sonnet_input_len);
  flags.add({.name = "--sonnet-output-len",
             .metavar = "TOKENS",
             .help = "length of an answer",
             .min = 1,
             .max = 1e7},
            &data.sonnet_output_len);
  flags.add({.name = "--sonnet-prefix-len",
             .metavar = "TOKENS",
             .help = "what all prompts begin with",
             .min = 1,
             .max = 1e7},
            &data.sonnet_prefix_len);
}

void add_load_flags(FlagSet& flags, ServingFlags& out) {
  ServingBenchmarkOptions& options = out.options;
  flags.group("Load");
  flags.add({.name = "--request-rate",
             .metavar = "RPS",
             .help = "requests a second; inf sends all at once"},
            &out.request_rate);
  flags.add({.name = "--burstiness",
             .metavar = "SHAPE",
             .help = "of the gaps: 1 Poisson, below burstier, above steadier"},
            &options.burstiness);
  flags.add({.name = "--max-concurrency",
             .metavar = "N",
             .help = "requests in flight",
             .default_text = "no bound",
             .min = 1,
             .max = 1e6},
            &options.max_concurrency);
  flags.add_switch({.name = "--ignore-eos", .help = "answers have exactly the wanted length"},
                   &options.ignore_eos);
  flags.add({.name = "--logprobs",
             .metavar = "K",
             .help = "ask for log-probabilities of K tokens",
             .min = 0,
             .max = 20},
            &options.logprobs);
  flags.add({.name = "--best-of", .metavar = "N", .help = "sent as it is; 1 only"},
            &options.best_of);
  flags.add({.name = "--num-warmups",
             .metavar = "N",
             .help = "requests before the measured ones; a failure ends the run",
             .min = 0,
             .max = 10000},
            &options.num_warmups);
  flags.add({.name = "--timeout",
             .metavar = "SECONDS",
             .help = "stop then and report what is done",
             .default_text = "none",
             .min = 0},
            &options.time_limit);
  flags.add_switch(
      {.name = "--profile", .help = "post /start_profile before and /stop_profile after"},
      &options.profile);
}

void add_result_flags(FlagSet& flags, ServingFlags& out) {
  ServingBenchmarkOptions& options = out.options;
  flags.group("Results");
  flags.add({.name = "--percentile-metrics",
             .metavar = "LIST",
             .help = "of ttft, tpot, itl, e2el: those shown and saved"},
            &out.percentile_metrics);
  flags.add({.name = "--metric-percentiles", .metavar = "LIST", .help = "such as 25,50,75,99"},
            &out.metric_percentiles);
  flags.add(
      {.name = "--goodput",
       .metavar = "KEY:MS",
       .help =
           "count requests within these bounds: \"ttft:100 tpot:50 e2el:2000\"; may be repeated"},
      &out.goodput);
  flags.add_switch({.name = "--save-result", .help = "write a JSON file"}, &options.save_result);
  flags.add_on_off({.name = "--save-detailed",
                    .help = "with one list per request: lengths, times, texts, errors"},
                   &options.save_detailed);
  flags.add({.name = "--result-dir",
             .metavar = "DIR",
             .help = "made when it is not there",
             .default_text = "."},
            &options.result_dir);
  flags.add({.name = "--result-filename",
             .metavar = "FILE",
             .help = "name in it",
             .default_text = "BACKEND-RATEqps[-concurrencyN]-MODEL-DATE.json"},
            &options.result_filename);
  flags.add(
      {.name = "--metadata", .metavar = "KEY=VALUE", .help = "kept in the result; may be repeated"},
      &out.metadata);
  flags.add_switch({.name = "--disable-tqdm", .help = "no progress bar"}, &out.disable_tqdm);
  flags.add_switch(
      {.name = "--trust-remote-code", .help = "accepted; code of a model is never run"},
      &out.ignored);
}

Status finish_serving_flags(const FlagSet& set, ServingFlags& flags) {
  ServingBenchmarkOptions& options = flags.options;
  if (options.model.empty()) return flag_error("--model", "needed");
  if (flags.request_rate != "inf") {
    ATOM_ASSIGN_OR_RETURN(options.request_rate, parse_number("--request-rate", flags.request_rate));
  }
  options.dataset.seed = static_cast<uint32_t>(flags.seed);
  if (options.base_url.empty())
    options.base_url = str_format("http://{}:{}", flags.host, flags.port);
  while (options.base_url.ends_with('/')) options.base_url.pop_back();
  if (environment_wants_pytorch_records()) options.pytorch_arguments = set.settings();
  if (options.api_key.empty()) options.api_key = openai_api_key_from_environment();
  for (const std::string& words : flags.metadata) {
    for (const std::string& pair : split_list(words, ' ')) {
      const size_t equals = pair.find('=');
      if (equals == std::string::npos || equals == 0)
        return flag_error("--metadata", shown(pair) + ": KEY=VALUE expected");
      options.metadata.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
    }
  }
  return finish_metrics(flags, options.metrics);
}

}  // namespace atom::cli
