// `bench sweep`: the serving benchmark over a matrix of lengths and concurrencies, one result file
// a point. A point whose file is there is skipped and said so; a point that runs out of time leaves
// what it has, marked `partial`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "atom/benchmark/serving_benchmark.h"

namespace atom {

struct SweepPoint {
  int64_t input_len = 0;  // tokens
  int64_t output_len = 0;
  int64_t concurrency = 0;
};

struct SweepOptions {
  ServingBenchmarkOptions base = {};  // all that the points share
  std::vector<std::pair<int64_t, int64_t>> lengths = {{1024, 1024}, {1024, 8192}, {8192, 1024}};
  std::vector<int64_t> concurrencies = {4, 8, 16, 32, 64, 128};
  int64_t prompts_per_client = 10;  // a point sends concurrency times this many
  std::string prefix = "result";
  int64_t tensor_parallel_size = 1;  // for the file's name only
  double point_time_limit = 7200;    // seconds
};

struct SweepSummary {
  int64_t measured = 0;
  int64_t skipped = 0;
  int64_t partial = 0;
  int64_t failed = 0;
  bool interrupted = false;
};

// "{prefix}_tp{tp}_isl{isl}_osl{osl}_conc{conc}.json"
std::string sweep_file_name(const SweepOptions& options, const SweepPoint& point);
Result<SweepSummary> run_sweep(const SweepOptions& options, const BenchmarkSink& sink);

}  // namespace atom
