// The server as one call: run_server binds, loads the model, listens and serves until a signal ends
// it. ServerConfig holds every knob of the server; flags fill it (entrypoints/cli), nothing else
// reads them. To add a knob: a field here, a row in the flag table, a line in docs/limits.md when
// it bounds something.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "atom/config.h"
#include "atom/core/error.h"

namespace atom {

class LLMEngine;

struct ServerConfig {
  std::string host = "0.0.0.0";
  int port = 8000;                              // --server-port; 0 = any free port (tests)
  std::vector<std::string> served_model_names;  // first one is shown; default: the model as typed
  std::string api_key;                          // empty = no key; --api-key or ATOM_API_KEY
  std::optional<std::string>
      chat_template;  // a file, or the template itself; overrides the model's
  std::string default_chat_template_kwargs;  // a JSON object, or empty
  std::string tool_call_parser = "auto";     // or a name of parsers/parser_table, or "none"
  std::string reasoning_parser = "auto";
  bool enable_auto_tool_choice = true;       // nothing reads it
  std::vector<std::string> allowed_origins;  // CORS; empty = off, "*" = any
  bool access_log = true;
  bool log_prompts = false;  // the access log quotes prompts
  bool ui = true;            // the page at /

  // Limits; every one refuses with a message that names it.
  int64_t max_body_bytes = 33554432;
  int64_t max_total_body_bytes = 536870912;  // request bodies of all connections together
  int64_t max_header_bytes = 16384;
  int64_t max_header_fields = 100;
  int64_t max_connections = 10000;
  int64_t max_queued_requests =
      4096;  // waiting sequences beyond --max-num-seqs, then 503 + Retry-After
  int64_t max_stream_backlog = 4194304;  // unsent bytes of one blocked stream before it is aborted
  int64_t max_n = 128;
  int64_t max_logprobs = 20;
  int64_t max_stop = 16;
  int64_t max_sequences = 1024;          // prompts x n of one request
  int64_t max_answer_bytes = 268435456;  // of one request, kept until it is sent

  // Absolute deadlines in seconds.
  double timeout_keep_alive = 75;
  double header_timeout = 10;  // from the first byte of a request
  double body_timeout = 30;    // from the end of its header
  double write_timeout = 30;   // a reader that takes nothing for so long is dropped
  double shutdown_timeout = 30;

  int io_threads = 0;    // 0 = 1 per 4 CPUs, at most 4
  int pool_threads = 0;  // templates and tokenising; 0 = 1 per 2 CPUs, at most 8
};

// Checks values and conflicts; an error's `param` is the flag.
Status check_server_config(const ServerConfig& config);

// Serves until SIGTERM or SIGINT, then drains. Returns the exit status of the process: 0 after a
// drain, 1 when the address or the model cannot be had (said in one line on stderr), 2 for a wrong
// flag value.
// `create_engine` makes the engine once the port is taken; a benchmark gives one without a model.
using EngineFactory = std::function<Result<std::unique_ptr<LLMEngine>>(const EngineConfig&)>;
int run_server(const EngineConfig& engine_config, const ServerConfig& config,
               const EngineFactory& create_engine);
int run_server(const EngineConfig& engine_config, const ServerConfig& config);

}  // namespace atom
