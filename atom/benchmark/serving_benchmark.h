// The serving benchmark as a whole: dataset, test request, profiler, load, table and result file.
// `bench serve` is its flags, `bench sweep` runs it for a matrix. Prints to a sink, so that neither
// terminal nor files are known here except the result file.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "atom/benchmark/load_generator.h"
#include "atom/benchmark/metrics.h"

namespace atom {

struct ServingBenchmarkOptions {
  DatasetOptions dataset = {};
  std::string backend = "vllm";
  std::string base_url = {};  // "http://HOST:PORT"
  std::string endpoint = {};  // empty: the backend's own
  std::string model = {};
  std::string served_model_name = {};  // sent to the server; empty: `model`
  std::string tokenizer = {};          // empty: `model`
  std::string api_key = {};
  double request_rate = std::numeric_limits<double>::infinity();
  double burstiness = 1.0;
  int64_t max_concurrency = 0;
  int64_t best_of = 1;
  std::optional<int64_t> logprobs = {};
  bool ignore_eos = false;
  int64_t num_warmups = 1;
  bool profile = false;
  double time_limit = 0;  // seconds
  MetricsOptions metrics = {};
  std::vector<std::pair<std::string, std::string>> metadata = {};
  std::string command_line = {};  // kept in the result
  bool save_result = false;
  bool save_detailed = true;  // per-request lists in the result file
  std::string result_dir = {};
  std::string result_filename = {};  // empty: made of backend, rate, model and date
  // The command's flags as a JSON object; not empty: PyTorch's records are written too.
  std::string pytorch_arguments = {};
};

struct BenchmarkSink {
  std::function<void(const std::string&)> print = {};  // whole lines for stdout
  LoadHooks hooks = {};
};

struct ServingBenchmarkResult {
  BenchmarkMetrics metrics = {};
  std::string stopped = {};      // why the run ended early
  std::string result_path = {};  // empty: not saved
};

Result<ServingBenchmarkResult> run_serving_benchmark(const ServingBenchmarkOptions& options,
                                                     const BenchmarkSink& sink);

}  // namespace atom
