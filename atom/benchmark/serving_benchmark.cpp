#include "atom/benchmark/serving_benchmark.h"

#include <unistd.h>

#include <boost/json.hpp>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

#include "atom/benchmark/http_load_client.h"
#include "atom/benchmark/model_text.h"
#include "atom/benchmark/pytorch_records.h"
#include "atom/benchmark/result_file.h"
#include "atom/core/json.h"
#include "atom/core/json_text.h"
#include "atom/core/printable.h"

namespace atom {
namespace {

namespace json = boost::json;

std::string rate_text(double rate) { return std::isinf(rate) ? "inf" : str_format("{}", rate); }

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof(text), "%Y%m%d-%H%M%S", &local);
  return text;
}

Result<std::string> endpoint_of(const ServingBenchmarkOptions& options, const Backend& backend) {
  const std::string endpoint =
      options.endpoint.empty() ? std::string(backend.default_endpoint) : options.endpoint;
  if (!endpoint.starts_with('/')) return flag_error("--endpoint", "must begin with /");
  if (!endpoint.ends_with(backend.path_suffix)) {
    return flag_error("--endpoint", str_format("must end with {} for --backend {}",
                                               backend.path_suffix, backend.name));
  }
  return endpoint;
}

Status check_options(const ServingBenchmarkOptions& options, const Backend* backend) {
  if (backend == nullptr)
    return flag_error("--backend", printable(options.backend) + " is unknown");
  ATOM_RETURN_IF_ERROR(HttpLoadClient::check_url(options.base_url));
  if (options.best_of != 1)
    return flag_error("--best-of", "only 1 is measured: servers do not offer more");
  if (!(options.burstiness > 0)) return flag_error("--burstiness", "must be above 0");
  if (!(options.request_rate > 0)) return flag_error("--request-rate", "must be above 0, or inf");
  for (const auto& [name, limit] : options.metrics.goodput) {
    if (name != "ttft" && name != "tpot" && name != "e2el")
      return flag_error("--goodput", printable(name) + ": allowed are ttft, tpot, e2el");
    if (!(limit > 0)) return flag_error("--goodput", name + ": must be above 0 ms");
  }
  return {};
}

LoadOptions load_options(const ServingBenchmarkOptions& options, const Backend& backend,
                         std::string endpoint) {
  return {.backend = &backend,
          .base_url = options.base_url,
          .endpoint = std::move(endpoint),
          .model = options.served_model_name.empty() ? options.model : options.served_model_name,
          .api_key = options.api_key,
          .best_of = options.best_of,
          .logprobs = options.logprobs,
          .ignore_eos = options.ignore_eos,
          .request_rate = options.request_rate,
          .burstiness = options.burstiness,
          .max_concurrency = options.max_concurrency,
          .time_limit = options.time_limit};
}

// The first requests are not measured: they find errors early and warm the server.
Status warm_up(const ServingBenchmarkOptions& options, const LoadOptions& load,
               const SampleRequest& sample, const BenchmarkSink& sink) {
  if (options.num_warmups == 0) return {};
  sink.print("Starting initial single prompt test run...\n");
  LoadOptions quick = load;
  quick.request_rate = std::numeric_limits<double>::infinity();
  quick.time_limit = 0;
  NumpyRandom unused(0);
  const std::vector<SampleRequest> samples(static_cast<size_t>(options.num_warmups), sample);
  ATOM_ASSIGN_OR_RETURN(
      const LoadResult result,
      generate_load(quick, samples, unused, {.interrupted = sink.hooks.interrupted}));
  for (const RequestResult& request : result.requests) {
    if (request.success) continue;
    if (!result.stopped.empty())
      return make_error(ErrorCode::kUnavailable, "stopped in the test run: {}", result.stopped);
    return make_error(ErrorCode::kUnavailable, "the test request failed: {} ({}{})", request.error,
                      load.base_url, load.endpoint);
  }
  sink.print("Initial test run completed. Starting main benchmark run...\n");
  return {};
}

Status profiler(const ServingBenchmarkOptions& options, const std::string& path,
                const BenchmarkSink& sink) {
  if (!options.profile) return {};
  ATOM_ASSIGN_OR_RETURN(const HttpAnswer answer,
                        fetch(options.base_url, "POST", path, "{}", options.api_key));
  if (answer.status != 200) {
    return make_error(ErrorCode::kUnavailable, "{}: HTTP {}: {}", path, answer.status,
                      printable(answer.body, 300));
  }
  sink.print(path == "/start_profile" ? "Profiler started\n" : "Profiler stopped\n");
  return {};
}

// What the server says of itself; null where it says nothing.
json::value ask_server(const ServingBenchmarkOptions& options, const std::string& path) {
  const auto answer = fetch(options.base_url, "GET", path, "", options.api_key);
  if (!answer || answer->status != 200) return nullptr;
  auto parsed = parse_json(answer->body);
  return parsed ? *std::move(parsed) : json::value(nullptr);
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name"))
      return line.substr(std::min(line.find(':') + 2, line.size()));
  }
  return "unknown";
}

json::object client_description(const ServingBenchmarkOptions& options) {
  return {{"program", "atom " ATOM_VERSION},
          {"cpu", cpu_model()},
          {"cpus", std::thread::hardware_concurrency()},
          {"command", options.command_line}};
}

std::string result_name(const ServingBenchmarkOptions& options, const std::string& date) {
  if (!options.result_filename.empty()) return options.result_filename;
  std::string model = options.model;
  while (model.ends_with('/')) model.pop_back();
  model = model.substr(model.rfind('/') + 1);
  const std::string concurrency =
      options.max_concurrency > 0 ? str_format("-concurrency{}", options.max_concurrency) : "";
  return str_format("{}-{}qps{}-{}-{}.json", options.backend, rate_text(options.request_rate),
                    concurrency, model, date);
}

json::object result_json(const ServingBenchmarkOptions& options, const LoadResult& load,
                         const BenchmarkMetrics& metrics, const std::string& date) {
  json::object out;
  out["date"] = date;
  out["backend"] = options.backend;
  out["model_id"] = options.model;
  out["tokenizer_id"] = options.tokenizer.empty() ? options.model : options.tokenizer;
  out["best_of"] = options.best_of;
  out["num_prompts"] = options.dataset.num_prompts;
  for (const auto& [key, value] : options.metadata) out[key] = value;
  out["request_rate"] =
      std::isinf(options.request_rate) ? json::value("inf") : json::value(options.request_rate);
  out["burstiness"] = options.burstiness;
  out["max_concurrency"] =
      options.max_concurrency > 0 ? json::value(options.max_concurrency) : json::value(nullptr);
  append_metrics(metrics, load, options.metrics, options.save_detailed, out);
  out["client_cpu_s"] = load.client_cpu;
  out["client"] = client_description(options);
  out["server"] = ask_server(options, "/server_info");
  if (out["server"].is_null()) out["server"] = ask_server(options, "/version");
  return out;
}

// Returns the file's path.
Result<std::string> save_result(const ServingBenchmarkOptions& options, const LoadResult& load,
                                const BenchmarkMetrics& metrics) {
  const std::string date = date_now();
  const std::filesystem::path path =
      std::filesystem::path(options.result_dir) / result_name(options, date);
  const json::object result = result_json(options, load, metrics, date);
  ATOM_RETURN_IF_ERROR(write_result_file(path, json_text(result)));
  if (!options.pytorch_arguments.empty()) {
    ATOM_RETURN_IF_ERROR(write_serving_pytorch_records(
        path, {.model = options.model, .arguments = options.pytorch_arguments}, result));
  }
  return path.string();
}

std::string traffic_lines(const ServingBenchmarkOptions& options) {
  std::string law = "Poisson process";
  if (options.burstiness != 1.0) law = "Gamma distribution";
  return str_format(
      "Traffic request rate: {}\nBurstiness factor: {} ({})\nMaximum request concurrency: {}\n",
      rate_text(options.request_rate), options.burstiness, law,
      options.max_concurrency > 0 ? std::to_string(options.max_concurrency) : "None");
}

void print_result(const ServingBenchmarkOptions& options, const LoadResult& load,
                  const BenchmarkMetrics& metrics, const BenchmarkSink& sink) {
  if (!load.stopped.empty()) sink.print("PARTIAL RESULT: " + load.stopped + "\n");
  sink.print(metrics_table(metrics, load, options.metrics));
  for (const std::string& reason : failure_reasons(load, 5)) sink.print("failed: " + reason + "\n");
  if (load.client_cpu > 0.8 * load.duration && load.duration > 1) {
    sink.print(
        str_format("WARNING: this client used {:.0f} % of a core; its latencies may be its own\n",
                   100 * load.client_cpu / load.duration));
  }
}

}  // namespace

Result<ServingBenchmarkResult> run_serving_benchmark(const ServingBenchmarkOptions& options,
                                                     const BenchmarkSink& sink) {
  const Backend* backend = find_backend(options.backend);
  ATOM_RETURN_IF_ERROR(check_options(options, backend));
  ATOM_ASSIGN_OR_RETURN(std::string endpoint, endpoint_of(options, *backend));
  if (options.save_result && !options.result_dir.empty()) {
    std::error_code error;
    std::filesystem::create_directories(options.result_dir, error);
    if (error) return flag_error("--result-dir", options.result_dir + ": " + error.message());
  }
  ATOM_ASSIGN_OR_RETURN(
      const ModelText text,
      load_model_text(options.tokenizer.empty() ? options.model : options.tokenizer));
  NumpyRandom random(options.dataset.seed);
  DatasetOptions dataset = options.dataset;
  dataset.chat_backend = backend->chat;
  ATOM_ASSIGN_OR_RETURN(
      const std::vector<SampleRequest> samples,
      sample_dataset(dataset, {.tokenizer = text.tokenizer.get(),
                               .render = [&](std::string_view user) { return text.render(user); },
                               .random = &random}));
  const LoadOptions load = load_options(options, *backend, std::move(endpoint));
  if (!options.ignore_eos && options.dataset.name == "random")
    sink.print("WARNING: without --ignore-eos the lengths of the answers vary from run to run\n");
  ATOM_RETURN_IF_ERROR(warm_up(options, load, samples[0], sink));
  ATOM_RETURN_IF_ERROR(profiler(options, "/start_profile", sink));
  sink.print(traffic_lines(options));
  const auto drafted_before = read_speculation(ask_server(options, "/debug/mtp_stats"));
  ATOM_ASSIGN_OR_RETURN(const LoadResult result, generate_load(load, samples, random, sink.hooks));
  const Status profiled = profiler(options, "/stop_profile", sink);
  ServingBenchmarkResult out{
      .metrics = compute_metrics(result, options.metrics, text.tokenizer.get()),
      .stopped = result.stopped};
  if (drafted_before) {
    if (const auto after = read_speculation(ask_server(options, "/debug/mtp_stats")))
      out.metrics.speculation = speculation_between(*drafted_before, *after);
  }
  print_result(options, result, out.metrics, sink);
  if (options.save_result) {
    ATOM_ASSIGN_OR_RETURN(out.result_path, save_result(options, result, out.metrics));
  }
  ATOM_RETURN_IF_ERROR(profiled);
  return out;
}

}  // namespace atom
