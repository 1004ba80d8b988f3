// The commands of the program `atom`: one table (main.cpp), one function each (NAME_command.cpp).
// A command gets the arguments after its name and returns the exit status of the process.
#pragma once

#include <string>
#include <vector>

#include "atom/core/error.h"
#include "atom/entrypoints/cli/flag_set.h"

namespace atom::cli {

enum ExitStatus : int {
  kExitOk = 0,
  kExitFailure = 1,        // the model, a file, the network or the engine failed
  kExitUsage = 2,          // a flag or its value is wrong; nothing was loaded
  kExitInterrupted = 130,  // Ctrl-C
};

using Arguments = std::vector<std::string>;

int serve_command(const Arguments& arguments);
int generate_command(const Arguments& arguments);
int chat_command(const Arguments& arguments);
int tokenize_command(const Arguments& arguments);
int render_command(const Arguments& arguments);
int inspect_command(const Arguments& arguments);
int bench_command(const Arguments& arguments);
int profile_command(const Arguments& arguments);
int trace_command(const Arguments& arguments);

// Runs the program: argv[1] names the command.
int run_program(const Arguments& arguments);

// Prints `atom: MESSAGE` on stderr; a wrong flag (param starts with `-`) gives kExitUsage.
int report_error(const Error& error);
// After a failed write to std::cout: says why on stderr, unless the reader has gone away. Returns
// kExitFailure.
int report_unwritten();
// Parses; on --help prints it. Returns true when the command should go on, else sets `status`.
bool parse_or_exit(FlagSet& flags, const Arguments& arguments, int& status);

// The frame of a command that samples: its flags, then `run`, told whether --seed was given.
template <class Options>
int run_with_flags(const Arguments& arguments, FlagSet (*make_flags)(Options&),
                   Result<int> (*run)(const Options&, bool seed_given)) {
  Options options;
  FlagSet flags = make_flags(options);
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  const Result<int> result = run(options, flags.given("--seed"));
  return result ? *result : report_error(result.error());
}

}  // namespace atom::cli
