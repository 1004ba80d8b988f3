// Statistics of a load run, the console table and the result file of benchmark_serving, its keys
// and layout included (reference of both: docs/benchmark_client.md). Pure functions.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "atom/benchmark/load_generator.h"
#include "atom/benchmark/speculation.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

// Milliseconds.
struct LatencySummary {
  double mean = 0;
  double median = 0;
  double std = 0;
  std::vector<double> percentiles = {};  // in the order of MetricsOptions::percentiles
};

struct MetricsOptions {
  std::vector<std::string> metrics = {"ttft", "tpot", "itl"};  // shown with their percentiles
  std::vector<double> percentiles = {99};
  std::map<std::string, double> goodput = {};  // ttft, tpot, e2el: allowed milliseconds
};

struct BenchmarkMetrics {
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t unfinished = 0;
  int64_t total_input = 0;  // tokens, of completed requests
  int64_t total_output = 0;
  double request_throughput = 0;  // a second
  double request_goodput = 0;
  double output_throughput = 0;
  double total_token_throughput = 0;
  std::map<std::string, LatencySummary> latency = {};  // ttft, tpot, itl, e2el
  std::vector<int64_t> output_lens = {};               // 0 for a failed request
  std::optional<SpeculationStats> speculation = {};    // of the server, where it tells
};

// `tokenizer` counts the tokens of answers whose length the server did not tell; may be nullptr.
BenchmarkMetrics compute_metrics(const LoadResult& load, const MetricsOptions& options,
                                 const Tokenizer* tokenizer);

std::string metrics_table(const BenchmarkMetrics& metrics, const LoadResult& load,
                          const MetricsOptions& options);
// Appends the measured keys, `duration` to `p99_e2el_ms`, and with `detailed` one list per request.
void append_metrics(const BenchmarkMetrics& metrics, const LoadResult& load,
                    const MetricsOptions& options, bool detailed, boost::json::object& out);
// The most frequent errors of failed requests, "12 x …" a line; at most `limit`.
std::vector<std::string> failure_reasons(const LoadResult& load, size_t limit);

// "99" or "99.9", as the keys of percentiles are written.
std::string percentile_name(double percentile);
// numpy.percentile with linear interpolation; values need not be sorted.
double percentile_of(std::vector<double> values, double percentile);

}  // namespace atom
