// Puts the server together: port first, then the model, then the routes; and takes it apart on a
// signal.
#include "atom/entrypoints/serve.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "atom/core/json.h"
#include "atom/core/log.h"
#include "atom/core/thread_pool.h"
#include "atom/entrypoints/http/http_server.h"
#include "atom/entrypoints/openai/api_server.h"
#include "atom/entrypoints/parsers/parser_table.h"

namespace atom {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int64_t kMaxTemplateBytes = 1 << 20;
// How often the engine is asked whether it has died, and how long /health then says so before the
// process ends: time for a load balancer to look, and for answers in progress to be written.
constexpr std::chrono::milliseconds kEngineCheck{500};
constexpr std::chrono::milliseconds kDeathNotice{5000};

// LLMEngine as the routes see it.
class LocalEngine final : public openai::EngineClient {
 public:
  explicit LocalEngine(LLMEngine& engine) : engine_(engine) {}
  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback) override {
    return engine_.add_request(std::move(request), std::move(callback));
  }
  void abort(RequestId id) override { engine_.abort(id); }
  bool compiles_grammars() const override { return true; }
  Result<std::shared_ptr<const CompiledGrammar>> compile_grammar(const GrammarSpec& spec,
                                                                 double* seconds_left) override {
    return engine_.compile_grammar(spec, seconds_left);
  }
  std::shared_ptr<const CompiledGrammar> find_grammar(const GrammarSpec& spec) override {
    return engine_.find_grammar(spec);
  }
  Status start_profile(const std::string& output_dir) override {
    return engine_.start_profile(output_dir);
  }
  Result<std::vector<std::string>> stop_profile() override { return engine_.stop_profile(); }
  EngineStats stats() const override { return engine_.stats(); }
  const EngineMetrics* metrics() const override { return &engine_.metrics(); }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override { return engine_.tokenizer(); }
  const ChatTemplate* chat_template() const override { return engine_.chat_template(); }
  std::string_view chat_template_source() const override { return engine_.chat_template_source(); }
  int64_t max_model_len() const override { return engine_.max_model_len(); }
  int64_t vocab_size() const override { return engine_.model_config().vocab_size; }

 private:
  LLMEngine& engine_;
};

// SIGTERM, SIGINT and SIGHUP on a thread of their own. Before the server listens, and the second
// time, a signal ends the process at once; the first one while serving wakes wait_for().
class SignalWatcher {
 public:
  SignalWatcher() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    struct sigaction hangup {};
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) sigaddset(&signals_, SIGHUP);  // else: nohup
    pthread_sigmask(SIG_BLOCK, &signals_, &previous_);  // inherited by every later thread
    signal_fd_ = signalfd(-1, &signals_, SFD_CLOEXEC);
    stop_fd_ = eventfd(0, EFD_CLOEXEC);
    stopped_fd_ = eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this] { watch(); });
  }
  ~SignalWatcher() {
    notify(stop_fd_);
    thread_.join();
    for (const int fd : {signal_fd_, stop_fd_, stopped_fd_}) ::close(fd);
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

  void serving() { serving_.store(true); }
  // Waits for the first signal, `time` at most; whether it has come.
  bool wait_for(std::chrono::milliseconds time) const {
    pollfd fd{stopped_fd_, POLLIN, 0};
    return poll(&fd, 1, static_cast<int>(time.count())) > 0;
  }

 private:
  static void notify(int fd) {
    const uint64_t one = 1;
    (void)!::write(fd, &one, sizeof(one));
  }
  void watch() {
    bool draining = false;
    while (true) {
      pollfd fds[] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) continue;
      if (fds[1].revents != 0) return;
      signalfd_siginfo info{};
      if (::read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
      if (draining || !serving_.load()) _exit(128 + static_cast<int>(info.ssi_signo));
      draining = true;
      log_info("signal {}: draining; a second one ends at once", info.ssi_signo);
      notify(stopped_fd_);
    }
  }

  sigset_t signals_{};
  sigset_t previous_{};
  int signal_fd_ = -1;
  int stop_fd_ = -1;
  int stopped_fd_ = -1;
  std::atomic<bool> serving_{false};
  std::thread thread_;
};

std::chrono::milliseconds to_ms(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

int fail(const Error& error) {
  std::fprintf(stderr, "atom: %s\n", error.message.c_str());
  return error.param.starts_with('-') ? kExitUsage : kExitFailure;
}

std::unexpected<Error> flag_error(const char* flag, std::string reason) {
  return std::unexpected(Error{.code = ErrorCode::kInvalidArgument,
                               .message = str_format("{}: {}", flag, reason),
                               .param = flag});
}

// --chat-template: the template itself when it looks like one, else a file.
Result<std::string> read_chat_template(const std::string& value) {
  if (value.find("{{") != std::string::npos || value.find("{%") != std::string::npos) return value;
  std::error_code ec;
  const auto size = std::filesystem::file_size(value, ec);
  if (ec || !std::filesystem::is_regular_file(value, ec))
    return flag_error("--chat-template", "no such file: " + value);
  if (static_cast<int64_t>(size) > kMaxTemplateBytes)
    return flag_error("--chat-template", "the file is larger than 1 MiB");
  std::ifstream file(value, std::ios::binary);
  std::string source(std::istreambuf_iterator<char>(file), {});
  if (!file) return flag_error("--chat-template", "cannot read " + value);
  return source;
}

Result<ChatTemplate> parse_chat_template(const std::string& source) {
  auto parsed = ChatTemplate::parse(source);
  if (parsed) return std::move(*parsed);
  return flag_error("--chat-template",
                    str_format("line {}: {}", parsed.error().line, parsed.error().message));
}

http::HttpOptions http_options(const ServerConfig& config) {
  const int cpus = available_cpus();
  return {.host = config.host,
          .port = config.port,
          .io_threads = config.io_threads > 0 ? config.io_threads : std::clamp(cpus / 4, 1, 4),
          .parser = {.max_header_bytes = config.max_header_bytes,
                     .max_header_fields = config.max_header_fields,
                     .max_body_bytes = config.max_body_bytes},
          .max_total_body_bytes = std::max(config.max_total_body_bytes, config.max_body_bytes),
          .max_connections = config.max_connections,
          .max_stream_backlog = config.max_stream_backlog,
          .keep_alive_timeout = to_ms(config.timeout_keep_alive),
          .header_timeout = to_ms(config.header_timeout),
          .body_timeout = to_ms(config.body_timeout),
          .write_timeout = to_ms(config.write_timeout)};
}

openai::ApiOptions api_options(const EngineConfig& engine_config, const ServerConfig& config,
                               boost::json::object kwargs) {
  openai::ApiOptions out;
  out.served_model_names = config.served_model_names;
  out.model = engine_config.model.model;
  if (out.served_model_names.empty()) out.served_model_names.push_back(out.model);
  out.api_key = config.api_key;
  out.allowed_origins = config.allowed_origins;
  out.default_chat_template_kwargs = std::move(kwargs);
  out.tool_call_parser = config.tool_call_parser;
  out.reasoning_parser = config.reasoning_parser;
  out.limits = {.max_n = config.max_n,
                .max_logprobs = config.max_logprobs,
                .max_stop = config.max_stop,
                .max_sequences = config.max_sequences,
                .max_answer_bytes = config.max_answer_bytes};
  out.max_in_flight = engine_config.scheduler.max_num_seqs + config.max_queued_requests;
  out.pool_threads =
      config.pool_threads > 0 ? config.pool_threads : std::clamp(available_cpus() / 2, 1, 8);
  out.access_log = config.access_log;
  out.log_prompts = config.log_prompts;
  out.ui = config.ui;
  out.max_num_seqs = engine_config.scheduler.max_num_seqs;
  out.cache_dtype = engine_config.cache.dtype == KvCacheType::kBF16 ? "bf16" : "fp8";
  out.enable_prefix_caching = engine_config.cache.enable_prefix_caching;
  return out;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

}  // namespace

Status check_server_config(const ServerConfig& config) {
  if (config.host.empty()) return flag_error("--host", "(empty): names no address");
  if (const auto found = parsers::find_tool_format(config.tool_call_parser, ""); !found)
    return flag_error("--tool-call-parser", found.error().message);
  if (const auto found = parsers::find_reasoning_format(config.reasoning_parser, ""); !found)
    return flag_error("--reasoning-parser", found.error().message);
  constexpr double kBytes = 1e12;
  constexpr double kCount = 1e9;
  constexpr double kSeconds = 1e6;
  const struct {
    const char* flag;
    double value;
    double min;
    double max;
  } limits[] = {
      {"--server-port", static_cast<double>(config.port), 0, 65535},
      {"--max-body-bytes", static_cast<double>(config.max_body_bytes), 1, kBytes},
      {"--max-total-body-bytes", static_cast<double>(config.max_total_body_bytes), 1, kBytes},
      {"--max-header-bytes", static_cast<double>(config.max_header_bytes), 256, kBytes},
      {"--max-header-fields", static_cast<double>(config.max_header_fields), 1, kCount},
      {"--max-connections", static_cast<double>(config.max_connections), 1, kCount},
      {"--max-queued-requests", static_cast<double>(config.max_queued_requests), 0, kCount},
      {"--max-stream-backlog", static_cast<double>(config.max_stream_backlog), 1, kBytes},
      {"--max-n", static_cast<double>(config.max_n), 1, kCount},
      {"--max-logprobs", static_cast<double>(config.max_logprobs), 0, kCount},
      {"--max-stop", static_cast<double>(config.max_stop), 0, kCount},
      {"--max-sequences", static_cast<double>(config.max_sequences), 1, kCount},
      {"--max-answer-bytes", static_cast<double>(config.max_answer_bytes), 1, kBytes},
      {"--timeout-keep-alive", config.timeout_keep_alive, 0.001, kSeconds},
      {"--header-timeout", config.header_timeout, 0.001, kSeconds},
      {"--body-timeout", config.body_timeout, 0.001, kSeconds},
      {"--write-timeout", config.write_timeout, 0.001, kSeconds},
      {"--shutdown-timeout", config.shutdown_timeout, 0, kSeconds},
      {"--io-threads", static_cast<double>(config.io_threads), 0, 256},
      {"--pool-threads", static_cast<double>(config.pool_threads), 0, 256},
  };
  for (const auto& limit : limits) {
    if (!(limit.value >= limit.min && limit.value <= limit.max)) {
      return flag_error(limit.flag, str_format("{}: out of range; allowed: {} to {}", limit.value,
                                               limit.min, limit.max));
    }
  }
  return {};
}

int run_server(const EngineConfig& engine_config, const ServerConfig& config) {
  return run_server(engine_config, config, &LLMEngine::create);
}

int run_server(const EngineConfig& engine_config, const ServerConfig& config,
               const EngineFactory& create_engine) {
  if (const Status checked = check_server_config(config); !checked) return fail(checked.error());
  boost::json::object kwargs;
  if (!config.default_chat_template_kwargs.empty()) {
    Result<boost::json::value> parsed = parse_json(config.default_chat_template_kwargs);
    if (!parsed || !parsed->is_object())
      return fail(flag_error("--default-chat-template-kwargs", "must be a JSON object").error());
    kwargs = std::move(parsed->get_object());
  }
  openai::ApiOptions options = api_options(engine_config, config, std::move(kwargs));
  std::optional<ChatTemplate> chat_template;
  if (config.chat_template) {
    Result<std::string> source = read_chat_template(*config.chat_template);
    if (!source) return fail(source.error());
    Result<ChatTemplate> parsed = parse_chat_template(*source);
    if (!parsed) return fail(parsed.error());
    chat_template.emplace(std::move(*parsed));
    options.chat_template_source = std::move(*source);
  }
  const LogWriter log_writer;  // from here on a reader of the log that stalls stalls nobody
  SignalWatcher signals;

  // Destroyed in reverse: the engine outlives the routes, and both outlive the sockets that call
  // them.
  std::unique_ptr<LLMEngine> engine;
  std::unique_ptr<LocalEngine> client;
  std::unique_ptr<openai::ApiServer> api;
  http::HttpServer server(
      http_options(config),
      [&api](http::Request&& request, std::shared_ptr<http::ResponseWriter> writer) {
        api->handle(std::move(request), std::move(writer));
      },
      [&api](int status, const std::string& message) {
        api->count_refusal();
        return openai::ApiServer::refuse(status, message);
      });
  options.http_stats = [&server] { return server.stats(); };
  if (const Status bound = server.bind(); !bound) return fail(bound.error());
  Result<std::unique_ptr<LLMEngine>> created = create_engine(engine_config);
  if (!created) return fail(created.error());
  if (config.api_key.empty() && !is_loopback(config.host)) {
    log_warning("serving on {} without --api-key: anyone who reaches this port can use the model",
                config.host);
  }
  engine = std::move(*created);
  client = std::make_unique<LocalEngine>(*engine);
  api = std::make_unique<openai::ApiServer>(*client, chat_template ? &*chat_template : nullptr,
                                            std::move(options));
  signals.serving();
  if (const Status listening = server.listen(); !listening) return fail(listening.error());
  log_info("ready: http://{}:{}/v1", config.host, server.port());

  bool died = false;
  while (!died && !signals.wait_for(kEngineCheck)) {
    died = engine->stats().condition == EngineCondition::kDead;
  }
  if (died) {
    const auto notice = std::min(kDeathNotice, to_ms(config.shutdown_timeout));
    log_error("the engine has died; the server ends in {} ms", notice.count());
    signals.wait_for(notice);
  }
  api->begin_drain();
  engine->drain(to_ms(config.shutdown_timeout));
  server.wait_until_quiet(std::chrono::milliseconds(2000));
  server.stop();
  log_info("drained");
  return died ? kExitFailure : 0;
}

}  // namespace atom
