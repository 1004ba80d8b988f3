// `atom bench sweep`: bench serve over a matrix.
#include "atom/benchmark/sweep.h"

#include <charconv>

#include "atom/entrypoints/cli/bench_command.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

struct SweepFlags {
  ServingFlags serving;
  SweepOptions sweep;
  std::vector<std::string> lengths;
  std::vector<int> concurrencies;
};

// "1024/8192"
Result<std::pair<int64_t, int64_t>> parse_lengths(const std::string& text) {
  std::pair<int64_t, int64_t> out;
  const size_t slash = text.find('/');
  const auto number = [&](std::string_view part, int64_t& value) {
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    return error == std::errc() && end == part.data() + part.size() && value >= 1 &&
           value <= 10'000'000;
  };
  if (slash == std::string::npos || !number(std::string_view(text).substr(0, slash), out.first) ||
      !number(std::string_view(text).substr(slash + 1), out.second)) {
    return flag_error("--lengths",
                      shown(text) + ": INPUT/OUTPUT in tokens expected, such as 1024/8192");
  }
  return out;
}

Status finish(const FlagSet& set, SweepFlags& flags) {
  ATOM_RETURN_IF_ERROR(finish_serving_flags(set, flags.serving));
  SweepOptions& sweep = flags.sweep;
  if (!flags.lengths.empty()) sweep.lengths.clear();
  for (const std::string& text : flags.lengths) {
    ATOM_ASSIGN_OR_RETURN(const auto lengths, parse_lengths(text));
    sweep.lengths.push_back(lengths);
  }
  if (!flags.concurrencies.empty())
    sweep.concurrencies.assign(flags.concurrencies.begin(), flags.concurrencies.end());
  for (const int64_t value : sweep.concurrencies) {
    if (value >= 1) continue;
    return flag_error("--concurrencies", "must be 1 or more");
  }
  sweep.base = flags.serving.options;
  return {};
}

void add_matrix_flags(FlagSet& flags, SweepFlags& out) {
  flags.group("Matrix");
  flags.add({.name = "--lengths",
             .metavar = "IN/OUT",
             .help = "tokens in and out; may be repeated",
             .default_text = "1024/1024, 1024/8192, 8192/1024"},
            &out.lengths);
  flags.add({.name = "--concurrencies",
             .metavar = "LIST",
             .help = "requests in flight",
             .default_text = "4,8,16,32,64,128"},
            &out.concurrencies);
  flags.add({.name = "--prompt-multiplier",
             .metavar = "N",
             .help = "a point sends concurrency times this many prompts",
             .min = 1,
             .max = 100000},
            &out.sweep.prompts_per_client);
  flags.add({.name = "--prefix",
             .metavar = "NAME",
             .help = "files are NAME_tpT_islI_oslO_concC.json in --result-dir"},
            &out.sweep.prefix);
  flags.add({.name = "--tensor-parallel-size",
             .alias = "-tp",
             .metavar = "N",
             .help = "of the server; goes into the files' names",
             .min = 1,
             .max = 1024},
            &out.sweep.tensor_parallel_size);
  flags.add({.name = "--point-timeout",
             .metavar = "SECONDS",
             .help = "a point is stopped then; its result is kept, marked partial",
             .min = 1},
            &out.sweep.point_time_limit);
}

}  // namespace

int bench_sweep_command(const Arguments& arguments) {
  SweepFlags out;
  FlagSet flags("atom bench sweep --model MODEL [FLAGS]",
                "Runs bench serve with random prompts over a matrix of lengths and concurrencies, "
                "one result file a point. Points that are there are skipped, so that a sweep that "
                "was stopped goes on.");
  out.serving.options.ignore_eos = true;
  out.serving.percentile_metrics = "ttft,tpot,itl,e2el";
  add_server_choice_flags(flags, out.serving);
  add_matrix_flags(flags, out);
  add_dataset_flags(flags, out.serving);
  add_load_flags(flags, out.serving);
  add_result_flags(flags, out.serving);
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  if (const Status finished = finish(flags, out); !finished) return report_error(finished.error());
  out.sweep.base.command_line = command_line("atom bench sweep", arguments);
  catch_interrupts();
  const auto summary = run_sweep(out.sweep, terminal_sink(!out.serving.disable_tqdm));
  if (!summary) return report_error(summary.error());
  if (!write_out(str_format("{} measured, {} skipped, {} partial, {} failed\n", summary->measured,
                            summary->skipped, summary->partial, summary->failed)))
    return kExitFailure;
  if (summary->interrupted) return kExitInterrupted;
  return summary->failed + summary->partial == 0 ? kExitOk : kExitFailure;
}

}  // namespace atom::cli
