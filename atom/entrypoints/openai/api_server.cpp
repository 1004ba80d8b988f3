// The route table and the way to a handler: API key, CORS, methods, media types.
#include "atom/entrypoints/openai/api_server.h"

#include <algorithm>
#include <ctime>

#include "atom/core/check.h"
#include "atom/core/log.h"
#include "atom/core/with_memory.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace {

constexpr size_t kMaxRequestId = 128;
constexpr size_t kLargeBody = 262144;   // some tens of milliseconds to tokenize
constexpr size_t kMaxCompiling = 32;    // requests that wait for their grammar
constexpr int kMaxCompilingOfOne = 16;  // of them, from one address

using Api = ApiServer;

bool is_token_text(std::string_view text) {
  return !text.empty() && text.size() <= kMaxRequestId &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

// The time does not depend on where the two differ, nor on the key's length.
bool equal_in_constant_time(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    difference |=
        static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(key[i % key.size()]);
  }
  return difference == 0;
}

bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), text.begin(),
                                                    [](char a, char b) { return a == (b | 0x20); });
}

bool matches(const Api::Route& route, std::string_view path) {
  return route.is_prefix ? path.starts_with(route.path) && path.size() > route.path.size()
                         : path == route.path;
}

}  // namespace

std::span<const ApiServer::Route> ApiServer::routes() {
  static constexpr Route kRoutes[] = {
      {.method = "POST",
       .path = "/v1/chat/completions",
       .handler = &Api::chat_completions,
       .on_pool = true},
      {.method = "POST", .path = "/v1/completions", .handler = &Api::completions, .on_pool = true},
      {.method = "GET", .path = "/v1/models", .handler = &Api::list_models},
      {.method = "GET", .path = "/v1/models/", .handler = &Api::show_model, .is_prefix = true},
      {.method = "GET", .path = "/health", .handler = &Api::health, .open = true},
      {.method = "GET", .path = "/version", .handler = &Api::version, .open = true},
      {.method = "GET", .path = "/metrics", .handler = &Api::metrics, .open = true},
      {.method = "POST", .path = "/tokenize", .handler = &Api::tokenize, .on_pool = true},
      {.method = "POST", .path = "/detokenize", .handler = &Api::detokenize, .on_pool = true},
      {.method = "GET", .path = "/tokenizer_info", .handler = &Api::tokenizer_info},
      {.method = "GET", .path = "/debug/mtp_stats", .handler = &Api::mtp_stats},
      {.method = "POST", .path = "/start_profile", .handler = &Api::start_profile, .on_pool = true},
      {.method = "POST",
       .path = "/stop_profile",
       .handler = &Api::stop_profile,
       .on_pool = true,
       .is_long = true},
      {.method = "GET", .path = "/", .handler = &Api::page, .open = true},
  };
  return kRoutes;
}

ApiServer::ApiServer(EngineClient& engine, const ChatTemplate* chat_template, ApiOptions options)
    : engine_(engine),
      chat_template_(chat_template != nullptr ? chat_template : engine.chat_template()),
      options_(std::move(options)),
      metrics_(std::make_shared<ApiMetrics>(routes().size())),
      created_(std::time(nullptr)),
      compile_pool_(1),
      pool_(options_.pool_threads),
      large_work_(std::make_shared<WorkQueue>(1)) {
  options_.limits.vocab_size = engine_.vocab_size();
  options_.limits.max_model_len = engine_.max_model_len();
  const Tokenizer& tokenizer = *engine_.tokenizer();
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const size_t bytes = tokenizer.token_bytes(static_cast<int32_t>(id)).size();
    longest_token_ = std::max(longest_token_, static_cast<int64_t>(bytes));
  }
  const std::string_view source = options_.chat_template_source.empty()
                                      ? engine_.chat_template_source()
                                      : std::string_view(options_.chat_template_source);
  const auto tools = parsers::find_tool_format(options_.tool_call_parser, source);
  const auto reasoning = parsers::find_reasoning_format(options_.reasoning_parser, source);
  ATOM_CHECK(tools && reasoning) << "parser names are checked with the flags";
  tool_format_ = *tools;
  reasoning_format_ = *reasoning;
  template_knows_developer_ = source.find("developer") != std::string_view::npos;
  template_knows_thinking_ = source.find("message.thinking") != std::string_view::npos;
}

http::Response ApiServer::refuse(int status, const std::string& message) {
  return error_response({.status = status, .message = message});
}

Call ApiServer::make_call(http::Request&& request,
                          std::shared_ptr<http::ResponseWriter> writer) const {
  Call call{.request = std::move(request),
            .writer = std::move(writer),
            .request_id = {},
            .headers = {},
            .arrival = std::chrono::steady_clock::now(),
            .metrics = metrics_,
            .access_log = options_.access_log,
            .log_prompts = options_.log_prompts};
  const std::string_view given = call.request.header("x-request-id");
  call.request_id = is_token_text(given) ? std::string(given) : random_hex();
  call.headers.emplace_back("x-request-id", call.request_id);
  const std::string_view origin = call.request.header("origin");
  const auto& allowed = options_.allowed_origins;
  const bool any = std::find(allowed.begin(), allowed.end(), "*") != allowed.end();
  // Also without the header: a cache must not hand an answer made for one origin to another.
  if (!allowed.empty() && !any) call.headers.emplace_back("Vary", "Origin");
  if (!allowed.empty() && !origin.empty()) {
    if (any || std::find(allowed.begin(), allowed.end(), origin) != allowed.end()) {
      call.headers.emplace_back("Access-Control-Allow-Origin", any ? "*" : std::string(origin));
      call.headers.emplace_back("Access-Control-Expose-Headers", "x-request-id");
    }
  }
  return call;
}

bool ApiServer::key_is_right(const http::Request& request) const {
  if (options_.api_key.empty()) return true;
  std::string_view given;
  int count = 0;
  for (const auto& [name, value] : request.headers) {
    if (name == "authorization") ++count, given = value;
  }
  if (count != 1 || !starts_with_ignoring_case(given, "bearer ")) return false;
  return equal_in_constant_time(given.substr(7), options_.api_key);
}

http::Response ApiServer::options_response(const Call& call, const std::string& allowed) const {
  http::Response response{.status = 204, .headers = {{"Allow", allowed}}};
  const bool cors = std::any_of(call.headers.begin(), call.headers.end(), [](const auto& header) {
    return header.first == "Access-Control-Allow-Origin";
  });
  if (cors) {
    response.headers.emplace_back("Access-Control-Allow-Methods", allowed);
    // What the browser asks for: OpenAI's JavaScript client sends fields of its own
    // (x-stainless-*).
    const std::string_view wanted = call.request.header("access-control-request-headers");
    response.headers.emplace_back(
        "Access-Control-Allow-Headers",
        wanted.empty() ? "authorization, content-type, x-request-id" : std::string(wanted));
    response.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return response;
}

// Runs work that answers, and answers in its place when it cannot.
template <class Work>
void ApiServer::answering(const std::shared_ptr<http::ResponseWriter>& writer, Work work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    with_memory([&] { writer->send(refuse(503, "out of memory for this request")); });
  } catch (const std::exception& e) {
    log_error("a request handler failed: {}", e.what());
    writer->send(refuse(500, "internal error"));
  }
}

void ApiServer::handle(http::Request&& request, std::shared_ptr<http::ResponseWriter> writer) {
  const auto call = std::make_shared<Call>(make_call(std::move(request), std::move(writer)));
  const http::Request& req = call->request;
  const Route* found = nullptr;
  std::string allowed;
  bool open = false;
  for (const Route& route : routes()) {
    if (!matches(route, req.path)) continue;
    allowed += allowed.empty() ? "" : ", ";
    allowed += route.method == "GET" ? "GET, HEAD" : std::string(route.method);
    open = open || route.open;
    call->route = static_cast<size_t>(&route - routes().data());
    if (req.method == route.method || (req.method == "HEAD" && route.method == "GET"))
      found = &route;
  }
  if (req.method == "OPTIONS" && (!allowed.empty() || req.path == "*")) {
    return call->send(options_response(
        *call, allowed.empty() ? "GET, HEAD, POST, OPTIONS" : allowed + ", OPTIONS"));
  }
  if (!open && !key_is_right(req)) {
    return call->fail(
        {.status = 401, .message = "the API key is missing or wrong", .code = "invalid_api_key"});
  }
  if (allowed.empty()) {
    return call->fail({.status = 404, .message = "no such path: " + clipped(req.path)});
  }
  if (found == nullptr) {
    http::Response response =
        error_response({.status = 405,
                        .message = str_format("{} is not allowed here; allowed: {}",
                                              clipped(req.method), allowed)});
    response.headers.emplace_back("Allow", allowed + ", OPTIONS");
    return call->send(std::move(response));
  }
  if (const std::string_view type = req.header("content-type");
      starts_with_ignoring_case(type, "multipart/")) {
    return call->fail({.status = 415, .message = "the body must be JSON, not multipart"});
  }
  if (const std::string_view coding = req.header("content-encoding");
      !coding.empty() && coding != "identity") {
    return call->fail({.status = 415, .message = "compressed request bodies are not accepted"});
  }
  if (!found->on_pool) return run(*found, call);
  WorkQueue& pool = found->is_long || req.body.size() > kLargeBody ? *large_work_ : pool_;
  pool.push([this, found, call] {
    if (!call->writer->has_client()) return call->done(499, 0);  // it left while it waited
    run(*found, call);
  });
}

void ApiServer::run(const Route& route, std::shared_ptr<Call> call) {
  // A handler that takes the call over moves out of it.
  const std::shared_ptr<http::ResponseWriter> writer = call->writer;
  answering(writer, [&] {
    if (std::optional<http::Response> response = (this->*route.handler)(*call))
      call->send(std::move(*response));
  });
}

std::optional<http::Response> ApiServer::chat_completions(Call& call) {
  return generate(kChat, call);
}
std::optional<http::Response> ApiServer::completions(Call& call) {
  return generate(kCompletions, call);
}

std::optional<http::Response> ApiServer::generate(Endpoint endpoint, Call& call) {
  if (const std::optional<ApiError> error = trouble()) {
    const bool leaving = draining_.load();
    http::Response response = reject(leaving ? Rejection::kDraining : Rejection::kEngine, *error);
    response.close = leaving;
    return response;
  }
  Result<ApiRequest> request = parse_request(endpoint, call.request.body, options_.limits);
  if (!request) return reject(request.error());
  Result<std::string> model = find_model(request->model);
  if (!model) return reject(Rejection::kUnknownModel, to_api_error(model.error()));
  const int64_t sequences =
      std::max<int64_t>(1, static_cast<int64_t>(request->prompts.size())) * request->sampling.n;
  if (sequences > options_.max_in_flight) {  // waiting would not help
    return reject(Error{.code = ErrorCode::kInvalidArgument,
                        .message = str_format("prompts x n = {} sequences; this server takes at "
                                              "most {} at a time",
                                              sequences, options_.max_in_flight),
                        .param = request->sampling.n > 1 ? "n" : "prompt"});
  }
  if (metrics_->in_flight.load(std::memory_order_relaxed) + sequences > options_.max_in_flight) {
    return reject(Rejection::kQueueFull,
                  {.status = 503,
                   .message = "too many requests are waiting; try again later",
                   .code = "queue_full"});
  }
  Generation::Input input{.request = std::move(*request), .model = std::move(*model)};
  if (const Status ready = prepare_prompts(input); !ready) return reject(ready.error());
  call.request.body = {};
  call.request.body_lease.reset();
  if (const std::optional<GrammarSpec>& grammar = input.request.sampling.grammar) {
    input.grammar = engine_.find_grammar(*grammar);
    if (!input.grammar && engine_.compiles_grammars())
      return compile_and_start(call, std::move(input));
  }
  std::make_shared<Generation>(engine_, std::move(call), std::move(input))->start();
  return std::nullopt;
}

// A request that waits for its grammar, or whose grammar is being compiled. Whoever sets `answered`
// first, the compiling thread or begin_drain(), has the call; `input` is the compiling thread's.
struct ApiServer::Compilation {
  Call call;
  Generation::Input input;
  std::string client;
  GrammarSpec grammar;
  bool first = true;  // no request before it waits for the same grammar
  std::atomic<bool> answered{false};
};

void ApiServer::begin_drain() {
  std::vector<std::shared_ptr<Compilation>> compilations;
  {
    const std::lock_guard lock(compile_mutex_);
    draining_.store(true);
    compilations = compilations_;
  }
  for (const auto& work : compilations) {
    if (work->answered.exchange(true)) continue;
    answering(work->call.writer, [&] {
      metrics_->rejected_by(Rejection::kDraining).add();
      work->call.fail({.status = 503, .message = "the server is shutting down"});
    });
  }
}

// A grammar nobody asked for lately takes up to seconds to compile: on a thread of its own, so that
// only requests with new grammars wait for each other.
std::optional<http::Response> ApiServer::compile_and_start(Call& call, Generation::Input&& input) {
  {
    const std::lock_guard lock(compile_mutex_);
    // Those that wait for one grammar count once: it is compiled for all of them.
    const GrammarSpec& wanted = *input.request.sampling.grammar;
    const bool awaited = std::ranges::any_of(
        compilations_, [&](const auto& work) { return work->first && work->grammar == wanted; });
    const int64_t firsts =
        std::ranges::count_if(compilations_, [](const auto& work) { return work->first; });
    const int64_t of_client = std::ranges::count_if(compilations_, [&](const auto& work) {
      return work->first && work->client == call.request.client;
    });
    const bool room =
        awaited ? std::ssize(compilations_) < options_.max_in_flight
                : firsts < int64_t{kMaxCompiling} && of_client < int64_t{kMaxCompilingOfOne};
    if (!draining_.load() && room) {
      auto work = std::make_shared<Compilation>();
      if (compilations_.size() == compilations_.capacity())
        compilations_.reserve(2 * compilations_.size() + kMaxCompiling);
      work->first = !awaited;
      work->grammar = wanted;
      compile_pool_.push([this] { compile_next(); });
      work->client = call.request.client;
      work->call = std::move(call);
      work->input = std::move(input);
      compilations_.push_back(std::move(work));
      return std::nullopt;
    }
  }
  if (draining_.load())
    return reject(Rejection::kDraining, {.status = 503, .message = "the server is shutting down"});
  return reject(Rejection::kQueueFull,
                {.status = 503,
                 .message = "too many grammars are waiting to be compiled; try again later",
                 .code = "queue_full"});
}

// The oldest request of another client than the last one, if there is one: nobody's many new
// grammars hold up the one of somebody else for longer than one compilation.
void ApiServer::compile_next() {
  std::shared_ptr<Compilation> work;
  {
    const std::lock_guard lock(compile_mutex_);
    for (const auto& candidate : compilations_) {
      if (!work || (work->client == last_compiled_ && candidate->client != last_compiled_))
        work = candidate;
    }
    if (!work) return;
    last_compiled_ = work->client;
  }
  const std::shared_ptr<void> leave(nullptr, [&](void*) {
    const std::lock_guard lock(compile_mutex_);
    std::erase(compilations_, work);
  });
  if (work->answered.load()) return;
  const std::shared_ptr<http::ResponseWriter> writer = work->call.writer;
  if (!writer->has_client()) {
    if (!work->answered.exchange(true)) work->call.done(499, 0);
    return;
  }
  answering(writer, [&] { compile(*work); });
}

void ApiServer::compile(Compilation& work) {
  Generation::Input& input = work.input;
  double seconds = GrammarLimits{}.compile_seconds;  // for both tries
  Result<std::shared_ptr<const CompiledGrammar>> grammar =
      engine_.compile_grammar(*input.request.sampling.grammar, &seconds);
  const std::optional<GrammarSpec>& loose = input.parsers.loose_grammar;
  if (!grammar && loose && grammar.error().code == ErrorCode::kInvalidArgument &&
      !work.answered.load()) {
    input.request.sampling.grammar = loose;
    grammar = engine_.compile_grammar(*loose, &seconds);
  }
  if (work.answered.exchange(true)) return;  // begin_drain() was first
  if (!grammar) {
    metrics_->rejected_by(Rejection::kInvalid).add();
    return work.call.fail(to_api_error(grammar.error()));
  }
  input.grammar = std::move(*grammar);
  std::make_shared<Generation>(engine_, std::move(work.call), std::move(input))->start();
}

http::Response ApiServer::reject(Rejection reason, const ApiError& error) {
  metrics_->rejected_by(reason).add();
  return error_response(error);
}

http::Response ApiServer::reject(const Error& error) {
  const ApiError api_error = to_api_error(error);
  const bool length = api_error.code == "context_length_exceeded";
  return reject(length ? Rejection::kContextLength : Rejection::kInvalid, api_error);
}

// The name to answer with: no name means the first served one, and a slash at the end does not
// count.
Result<std::string> ApiServer::find_model(std::string_view name) const {
  const auto bare = [](std::string_view text) {
    while (text.size() > 1 && text.ends_with('/')) text.remove_suffix(1);
    return text;
  };
  if (name.empty()) return options_.served_model_names[0];
  for (const std::string& served : options_.served_model_names) {
    if (bare(served) == bare(name)) return served;
  }
  if (!options_.model.empty() && bare(options_.model) == bare(name)) return options_.model;
  return field_error("model", str_format("The model `{}` does not exist.", clipped(name)),
                     ErrorCode::kNotFound);
}

}  // namespace atom::openai
