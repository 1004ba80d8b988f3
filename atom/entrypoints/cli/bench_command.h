// `atom bench …`: one function per subcommand (bench_*.cpp), the table is in bench_command.cpp.
#pragma once

#include "atom/benchmark/serving_benchmark.h"
#include "atom/entrypoints/cli/command.h"

namespace atom::cli {

int bench_serve_command(const Arguments& arguments);
int bench_sweep_command(const Arguments& arguments);
int bench_compare_command(const Arguments& arguments);
int bench_throughput_command(const Arguments& arguments);
int bench_latency_command(const Arguments& arguments);

// The parts of "a,b,c"; empty ones are left out.
std::vector<std::string> split_list(const std::string& text, char separator);

// As it was typed, but without the value of --api-key: it is kept in results.
std::string command_line(const std::string& command, const Arguments& arguments);

// Values of flags that ServingBenchmarkOptions keeps in another form.
struct ServingFlags {
  ServingBenchmarkOptions options;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string request_rate = "inf";
  int64_t seed = 0;
  std::string percentile_metrics = "ttft,tpot,itl";
  std::string metric_percentiles = "99";
  std::vector<std::string> goodput;
  std::vector<std::string> metadata;
  bool disable_tqdm = false;
  bool ignored = false;  // flags that are taken for scripts' sake and do nothing
};

void add_server_choice_flags(FlagSet& flags, ServingFlags& out);  // where and what to send
void add_dataset_flags(FlagSet& flags, ServingFlags& out);
void add_load_flags(FlagSet& flags, ServingFlags& out);
void add_result_flags(FlagSet& flags, ServingFlags& out);
// After parsing: fills `options` from the text values. `set` are the flags that were parsed.
Status finish_serving_flags(const FlagSet& set, ServingFlags& flags);

// Prints to stdout, draws the progress bar on a terminal's stderr, stops on Ctrl-C.
BenchmarkSink terminal_sink(bool progress_bar);

}  // namespace atom::cli
