// `atom bench serve`: the guide's benchmark_serving.
#include "atom/entrypoints/cli/bench_command.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {

int bench_serve_command(const Arguments& arguments) {
  ServingFlags serving;
  FlagSet flags(
      "atom bench serve --model MODEL [FLAGS]",
      "Sends requests to a running server as fast, or at the rate, you ask for, and reports "
      "throughput, time to first token (TTFT), time per output token (TPOT), inter-token latency "
      "(ITL) and end-to-end latency (E2EL).");
  add_server_choice_flags(flags, serving);
  add_dataset_flags(flags, serving);
  add_load_flags(flags, serving);
  add_result_flags(flags, serving);
  flags.add({.name = "--seed",
             .metavar = "N",
             .help = "of prompts, lengths and arrival times",
             .min = 0,
             .max = 4294967295.0},
            &serving.seed);
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  if (const Status finished = finish_serving_flags(flags, serving); !finished)
    return report_error(finished.error());
  serving.options.command_line = command_line("atom bench serve", arguments);
  catch_interrupts();
  const auto result = run_serving_benchmark(serving.options, terminal_sink(!serving.disable_tqdm));
  if (!result) return report_error(result.error());
  if (!result->result_path.empty() && !write_out("Result: " + result->result_path + "\n"))
    return kExitFailure;
  if (interrupted()) return kExitInterrupted;
  const BenchmarkMetrics& metrics = result->metrics;
  const bool whole = metrics.completed > 0 && metrics.failed == 0 && result->stopped.empty();
  return whole ? kExitOk : kExitFailure;
}

}  // namespace atom::cli
