// `atom trace summary`: what a trace says, without a browser.
#include <cstdio>

#include "atom/entrypoints/cli/command.h"
#include "atom/entrypoints/cli/terminal.h"
#include "atom/profiler/trace_summary.h"

namespace atom::cli {
namespace {

struct Options {
  std::string path;
  int top = 20;
};

FlagSet make_flags(Options& options) {
  FlagSet flags(
      "atom trace summary DIR|FILE [FLAGS]",
      "Time for each kind of step, the kernels (on a CPU: ops) that take longest, and how "
      "long the device is idle before and inside steps. Reads the traces of ATOM and of "
      "PyTorch's profiler, *.json and *.json.gz, in DIR and the folders below it.");
  flags.add({.name = "--path", .metavar = "PATH", .help = "the same as the first argument"},
            &options.path);
  flags.add({.name = "--top", .metavar = "N", .help = "rows of kernels", .min = 1, .max = 100000},
            &options.top);
  flags.positional("--path");
  return flags;
}

Result<int> summarize(const Options& options) {
  if (options.path.empty()) {
    return std::unexpected(Error{.code = ErrorCode::kInvalidArgument,
                                 .message = "trace summary: which DIR or FILE?",
                                 .param = "-"});
  }
  ATOM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, find_traces(options.path));
  for (const std::string& path : paths) {
    ATOM_ASSIGN_OR_RETURN(TraceEvents events, read_trace(path));
    if (!write_out(str_format("{}{}\n{}", &path == paths.data() ? "" : "\n", path,
                              summarize_trace(std::move(events), options.top))))
      return kExitFailure;
  }
  return kExitOk;
}

}  // namespace

int trace_command(const Arguments& arguments) {
  const bool is_summary = !arguments.empty() && arguments[0] == "summary";
  const bool wants_help = !arguments.empty() && (arguments[0] == "--help" || arguments[0] == "-h");
  if (!is_summary && !wants_help) {
    return report_error({.code = ErrorCode::kInvalidArgument,
                         .message = "trace: what? allowed: summary",
                         .param = "-"});
  }
  Options options;
  FlagSet flags = make_flags(options);
  int status = kExitOk;
  const Arguments rest(arguments.begin() + (is_summary ? 1 : 0), arguments.end());
  if (!parse_or_exit(flags, rest, status)) return status;
  const Result<int> result = summarize(options);
  return result ? *result : report_error(result.error());
}

}  // namespace atom::cli
