// `atom serve`: flags to EngineConfig and ServerConfig; everything else is run_server.
#include "atom/core/log.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/cli/server_flags.h"

namespace atom::cli {
namespace {

LogLevel log_level_of(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  return name == "error" ? LogLevel::kError : LogLevel::kInfo;
}

}  // namespace

int serve_command(const Arguments& arguments) {
  EngineArgs engine;
  ServerConfig server;
  std::string log_level = "info";
  std::string log_format = "text";
  FlagSet flags(
      "atom serve [MODEL] [FLAGS]",
      "Serves a model over HTTP with the API of OpenAI: /v1/chat/completions, /v1/completions, "
      "/v1/models, /tokenize, /detokenize, /health, /version, /metrics, and a chat page at /. "
      "SIGTERM and Ctrl-C let running "
      "requests finish, a second one ends at once.");
  add_server_flags(flags, server);
  flags.group("Log");
  flags.add({.name = "--log-level",
             .metavar = "LEVEL",
             .help = "least severe lines on stderr",
             .choices = {"debug", "info", "warning", "error"}},
            &log_level);
  flags.add({.name = "--log-format",
             .metavar = "FORMAT",
             .help = "log lines as text or as JSON objects",
             .choices = {"text", "json"}},
            &log_format);
  flags.add_on_off({.name = "--access-log", .help = "one log line for every request"},
                   &server.access_log);
  flags.add_on_off({.name = "--log-prompts", .help = "quote prompts in the access log"},
                   &server.log_prompts);
  add_engine_flags(flags, engine);
  flags.positional("--model");
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  set_log_level(log_level_of(log_level));
  set_log_format(log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  const auto engine_config = make_engine_config(engine);
  if (!engine_config) return report_error(engine_config.error());
  if (const Status checked = finish_server_config(flags, server); !checked) {
    return report_error(checked.error());
  }
  if (flags.given("--port") && !flags.given("--server-port")) {
    log_warning("--port {} is the rendezvous of ranks; the HTTP port is --server-port, now {}",
                engine.port, server.port);
  }
  return run_server(*engine_config, server);
}

}  // namespace atom::cli
