#include "atom/entrypoints/cli/server_flags.h"

#include <algorithm>

#include "atom/entrypoints/parsers/parser_table.h"

namespace atom::cli {
namespace {

std::string names(const auto& formats) {
  std::string out;
  for (const auto& format : formats) {
    out += out.empty() ? "" : ", ";
    out += format.name;
  }
  return out;
}

void add_http_flags(FlagSet& flags, ServerConfig& config) {
  flags.group("HTTP");
  flags.add({.name = "--host", .metavar = "ADDRESS", .help = "address to listen on"}, &config.host);
  flags.add({.name = "--server-port", .metavar = "PORT", .help = "HTTP port; 0: any free one"},
            &config.port);
  flags.add({.name = "--served-model-name",
             .metavar = "NAME",
             .help = "name of the model in the API; may be repeated, the first is shown",
             .default_text = "as in --model"},
            &config.served_model_names);
  flags.add(
      {.name = "--api-key",
       .metavar = "KEY",
       .help = "clients must send it as a bearer token; also from ATOM_API_KEY, which other users "
               "of this machine cannot see",
       .default_text = "none"},
      &config.api_key);
  flags.add({.name = "--allowed-origins",
             .metavar = "ORIGINS",
             .help = "CORS: origins as a,b or [\"a\",\"b\"], * for any; may be repeated",
             .default_text = "CORS is off"},
            &config.allowed_origins);
  flags.add_on_off({.name = "--ui", .help = "the chat page at /"}, &config.ui);
  flags.group("Chat template");
  flags.add({.name = "--chat-template",
             .metavar = "FILE",
             .help = "file of a Jinja template, or the template itself",
             .default_text = "the model's own"},
            &config.chat_template);
  flags.add({.name = "--default-chat-template-kwargs",
             .metavar = "JSON",
             .help = "variables for every render; a request's chat_template_kwargs win",
             .default_text = "none"},
            &config.default_chat_template_kwargs);
  flags.group("Tool calls and reasoning");
  flags.add({.name = "--tool-call-parser",
             .metavar = "NAME",
             .help = "form of the model's tool calls: auto (by its chat template), none, " +
                     names(parsers::tool_formats())},
            &config.tool_call_parser);
  flags.add({.name = "--reasoning-parser",
             .metavar = "NAME",
             .help = "form of its reasoning: auto, none, " + names(parsers::reasoning_formats())},
            &config.reasoning_parser);
  flags.add_switch({.name = "--enable-auto-tool-choice",
                    .help = "accepted for vLLM's sake: tool calls need no switch"},
                   &config.enable_auto_tool_choice);
}

void add_limit_flags(FlagSet& flags, ServerConfig& config) {
  flags.group("Limits");
  flags.add({.name = "--max-queued-requests",
             .metavar = "N",
             .help = "waiting sequences before 503 with Retry-After"},
            &config.max_queued_requests);
  flags.add({.name = "--max-connections", .metavar = "N", .help = "open connections"},
            &config.max_connections);
  flags.add({.name = "--max-body-bytes", .metavar = "BYTES", .help = "size of one request body"},
            &config.max_body_bytes);
  flags.add({.name = "--max-total-body-bytes",
             .metavar = "BYTES",
             .help = "request bodies of all connections together"},
            &config.max_total_body_bytes);
  flags.add(
      {.name = "--max-header-bytes", .metavar = "BYTES", .help = "size of a request's header"},
      &config.max_header_bytes);
  flags.add({.name = "--max-header-fields", .metavar = "N", .help = "fields of a request's header"},
            &config.max_header_fields);
  flags.add({.name = "--max-stream-backlog",
             .metavar = "BYTES",
             .help = "unsent bytes of a stream whose reader stalls, before it is ended"},
            &config.max_stream_backlog);
  flags.add({.name = "--max-n", .metavar = "N", .help = "choices of one prompt (n)"},
            &config.max_n);
  flags.add({.name = "--max-logprobs", .metavar = "N", .help = "logprobs of one token"},
            &config.max_logprobs);
  flags.add({.name = "--max-stop", .metavar = "N", .help = "stop strings of one request"},
            &config.max_stop);
  flags.add({.name = "--max-sequences", .metavar = "N", .help = "prompts x n of one request"},
            &config.max_sequences);
  flags.add({.name = "--max-answer-bytes",
             .metavar = "BYTES",
             .help = "of one request: what is kept until it is sent"},
            &config.max_answer_bytes);
}

void add_time_flags(FlagSet& flags, ServerConfig& config) {
  flags.group("Time limits, in seconds");
  flags.add({.name = "--timeout-keep-alive", .metavar = "S", .help = "idle connection"},
            &config.timeout_keep_alive);
  flags.add({.name = "--header-timeout",
             .metavar = "S",
             .help = "first byte of a request to the end of its header"},
            &config.header_timeout);
  flags.add({.name = "--body-timeout",
             .metavar = "S",
             .help = "end of the header to the end of the body"},
            &config.body_timeout);
  flags.add({.name = "--write-timeout", .metavar = "S", .help = "a reader that takes nothing"},
            &config.write_timeout);
  flags.add({.name = "--shutdown-timeout",
             .metavar = "S",
             .help = "running requests after SIGTERM or Ctrl-C"},
            &config.shutdown_timeout);
}

void add_thread_flags(FlagSet& flags, ServerConfig& config) {
  flags.group("Server threads");
  flags.add({.name = "--io-threads",
             .metavar = "N",
             .help = "event loops",
             .default_text = "1 per 4 CPUs, at most 4"},
            &config.io_threads);
  flags.add({.name = "--pool-threads",
             .metavar = "N",
             .help = "threads for templates and tokenising",
             .default_text = "1 per 2 CPUs, at most 8"},
            &config.pool_threads);
}

// Items of a,b or ["a","b"]. Only outer brackets go: http://[::1]:3000 keeps its own.
void append_items(std::vector<std::string>& out, std::string_view text) {
  if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    std::string item(text.substr(0, comma));
    std::erase_if(item, [](char c) { return c == '"' || c == ' '; });
    if (!item.empty()) out.push_back(std::move(item));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
}

}  // namespace

void add_server_flags(FlagSet& flags, ServerConfig& config) {
  add_http_flags(flags, config);
  add_limit_flags(flags, config);
  add_time_flags(flags, config);
  add_thread_flags(flags, config);
}

Status finish_server_config(const FlagSet& flags, ServerConfig& config) {
  std::vector<std::string> origins;
  for (const std::string& text : config.allowed_origins) append_items(origins, text);
  config.allowed_origins = std::move(origins);
  if (!flags.given("--api-key")) config.api_key = api_key_from_environment();
  return check_server_config(config);
}

}  // namespace atom::cli
