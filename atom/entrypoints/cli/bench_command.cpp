// The subcommands of `atom bench`, and how a benchmark shows its progress.
#include "atom/entrypoints/cli/bench_command.h"

#include <unistd.h>

#include <cstdio>
#include <memory>

#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

struct Subcommand {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&);
};

constexpr Subcommand kSubcommands[] = {
    {"serve", "load on a running server: throughput and latencies (benchmark_serving)",
     bench_serve_command},
    {"sweep", "bench serve over a matrix of lengths and concurrencies; can be resumed",
     bench_sweep_command},
    {"throughput", "tokens a second of all prompts at once, without a server",
     bench_throughput_command},
    {"latency", "seconds of one batch, without a server", bench_latency_command},
    {"compare", "two sets of results as a table and an HTML page", bench_compare_command},
};

std::string bench_help() {
  std::string out = "Usage: atom bench COMMAND [FLAGS]\n\nCommands:\n";
  for (const Subcommand& command : kSubcommands)
    out += str_format("  {:<11} {}\n", command.name, command.summary);
  return out + "\n  atom bench COMMAND --help   its flags, with defaults and units\n";
}

// "[=====>    ] 42/80, 8 running, 1 failed, 1234 tok/s, 12 s" over the line before it.
void draw_progress(const LoadProgress& progress) {
  constexpr int kWidth = 30;
  const int64_t done = progress.done + progress.failed;
  const auto filled = static_cast<size_t>(progress.total > 0 ? done * kWidth / progress.total : 0);
  const std::string failed = progress.failed > 0 ? str_format(", {} failed", progress.failed) : "";
  const std::string line = str_format(
      "\r[{}{}] {}/{}, {} running{}, {:.0f} tok/s, {:.0f} s\x1b[K", std::string(filled, '='),
      std::string(kWidth - filled, ' '), done, progress.total, progress.running, failed,
      progress.seconds > 0 ? static_cast<double>(progress.tokens) / progress.seconds : 0.0,
      progress.seconds);
  std::fputs(line.c_str(), stderr);
}

}  // namespace

BenchmarkSink terminal_sink(bool progress_bar) {
  BenchmarkSink sink;
  const bool drawn = progress_bar && is_terminal(STDERR_FILENO);
  const auto bar_shown = std::make_shared<bool>(false);
  sink.print = [bar_shown](const std::string& text) {
    if (*bar_shown) std::fputs("\n", stderr);
    *bar_shown = false;
    (void)write_out(text);
  };
  if (drawn) {
    sink.hooks.progress = [bar_shown](const LoadProgress& progress) {
      *bar_shown = true;
      draw_progress(progress);
    };
  }
  sink.hooks.interrupted = [] { return interrupted(); };
  return sink;
}

int bench_command(const Arguments& arguments) {
  if (arguments.empty()) {
    std::fputs(bench_help().c_str(), stderr);
    return kExitUsage;
  }
  const std::string& name = arguments[0];
  if (name == "--help" || name == "-h") return write_out(bench_help()) ? kExitOk : kExitFailure;
  std::vector<std::string> names;
  for (const Subcommand& command : kSubcommands) {
    if (name == command.name) return command.run(Arguments(arguments.begin() + 1, arguments.end()));
    names.emplace_back(command.name);
  }
  std::string list;
  for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
  return report_error({.code = ErrorCode::kInvalidArgument,
                       .message = str_format("bench {}: unknown; allowed: {}", shown(name), list),
                       .param = "-"});
}

}  // namespace atom::cli
