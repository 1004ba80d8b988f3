// The command table, the program's own help, and how errors become exit statuses.
#include "atom/entrypoints/cli/command.h"

#include <cerrno>
#include <cstdio>

#include "atom/core/format.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&);
};

constexpr Command kCommands[] = {
    {"serve", "OpenAI-compatible HTTP server", serve_command},
    {"generate", "complete one prompt and print the text as it comes", generate_command},
    {"chat", "talk to a model in the terminal or through a pipe", chat_command},
    {"tokenize", "text lines to token ids, or back with --decode", tokenize_command},
    {"render", "render chat templates: JSON lines in, JSON lines out", render_command},
    {"inspect", "architecture, formats, sizes and memory plan of a checkpoint", inspect_command},
    {"bench", "measure a server or an engine: serve, sweep, throughput, latency, compare", bench_command},
    {"profile", "generate under the profiler: a trace and its summary", profile_command},
    {"trace", "summarize traces, also those of PyTorch: trace summary DIR", trace_command},
};

std::string program_help() {
  std::string out =
      "Usage: atom COMMAND [FLAGS]\n\nATOM " ATOM_VERSION
      ": a small, fast LLM inference engine and OpenAI-compatible server.\n\nCommands:\n";
  for (const Command& command : kCommands) {
    out += str_format("  {:<10} {}\n", command.name, command.summary);
  }
  out +=
      "\n  atom COMMAND --help   its flags, with defaults and units\n"
      "  atom --version        the version\n"
      "\nExit status: 0 done; 1 the model, a file or the engine failed; 2 a wrong flag or value;\n"
      "130 interrupted.\n";
  return out;
}

int print(const std::string& text) { return write_out(text) ? kExitOk : kExitFailure; }

// `atom help bench sweep` is `atom bench sweep --help`.
Arguments as_help_flag(const Arguments& arguments) {
  Arguments asked(arguments.begin() + 1, arguments.end());
  asked.emplace_back("--help");
  return asked;
}

int unknown_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    names.emplace_back(command.name);
  }
  const std::string near = nearest_name(name, names);
  std::string list;
  for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
  return report_error(
      {.code = ErrorCode::kInvalidArgument,
       .message = near.empty()
                      ? str_format("{}: unknown command; allowed: {}", shown(name), list)
                      : str_format("{}: unknown command; did you mean {}?", shown(name), near),
       .param = "-"});
}

}  // namespace

int report_error(const Error& error) {
  std::string line = "atom: " + error.message;
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  line += '\n';
  std::fputs(line.c_str(), stderr);
  return error.param.starts_with('-') ? kExitUsage : kExitFailure;
}

int report_unwritten() {
  if (errno == EPIPE) return kExitFailure;
  return report_error(
      {.code = ErrorCode::kUnavailable, .message = "stdout: cannot be written", .param = {}});
}

bool parse_or_exit(FlagSet& flags, const Arguments& arguments, int& status) {
  if (const Status parsed = flags.parse(arguments); !parsed) {
    status = report_error(parsed.error());
    return false;
  }
  if (!flags.help_requested()) return true;
  status = print(flags.help());
  return false;
}

int run_program(const Arguments& arguments) {
  if (arguments.empty()) {
    std::fputs(program_help().c_str(), stderr);
    return kExitUsage;
  }
  const std::string& name = arguments[0];
  if (name == "help" && arguments.size() > 1) return run_program(as_help_flag(arguments));
  if (name == "--help" || name == "-h" || name == "help") return print(program_help());
  if (name == "--version" || name == "-V" || name == "version")
    return print("atom " ATOM_VERSION "\n");
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(Arguments(arguments.begin() + 1, arguments.end()));
  }
  return unknown_command(name);
}

}  // namespace atom::cli
