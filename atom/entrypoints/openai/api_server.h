// ApiServer: the routes of the OpenAI-compatible server. It authenticates, answers CORS, finds the
// route in one table (routes in api_server.cpp) and runs its handler. To add an endpoint: a handler
// (request -> response) and a row. It owns the pool; it knows no socket.
#pragma once

#include <atomic>
#include <boost/json.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "atom/entrypoints/http/http_server.h"
#include "atom/entrypoints/openai/call.h"
#include "atom/entrypoints/openai/engine_client.h"
#include "atom/entrypoints/openai/generation.h"
#include "atom/entrypoints/openai/request_fields.h"
#include "atom/entrypoints/openai/work_queue.h"
#include "atom/entrypoints/serve.h"

namespace atom::openai {

struct ApiOptions {
  std::vector<std::string> served_model_names;  // not empty
  std::string model;  // as typed at the start: known to requests too, but not listed
  std::string api_key;
  std::vector<std::string> allowed_origins;
  boost::json::object default_chat_template_kwargs;
  std::string chat_template_source;  // of the overriding template; empty: the engine's is shown
  RequestLimits limits;              // vocab_size and max_model_len are filled in from the engine
  std::string tool_call_parser = "auto";  // checked names (parsers/parser_table.h)
  std::string reasoning_parser = "auto";
  int64_t max_in_flight = 4608;  // sequences, then 503
  int pool_threads = 1;
  bool access_log = false;
  bool log_prompts = false;
  bool ui = true;  // the page at /
  int64_t max_num_seqs = 0;
  std::string cache_dtype;
  bool enable_prefix_caching = true;
  std::function<http::HttpStats()> http_stats;  // may be empty
};

class ApiServer {
 public:
  // `chat_template` overrides the engine's; both may be null. Neither is owned.
  ApiServer(EngineClient& engine, const ChatTemplate* chat_template, ApiOptions options);

  // An http::Handler.
  void handle(http::Request&& request, std::shared_ptr<http::ResponseWriter> writer);
  // From now on new generations are refused, also those whose grammar is not compiled yet, and
  // /health says so.
  void begin_drain();
  const ApiMetrics& api_metrics() const { return *metrics_; }

  // An answer that does not come from a route (http::HttpServer::Refuse); count_refusal() counts
  // those that the HTTP layer gave.
  static http::Response refuse(int status, const std::string& message);
  void count_refusal() { metrics_->refused_connections.add(); }

  struct Route {
    std::string_view method;
    std::string_view path;
    // Gives the answer, or nothing when it has taken the call over.
    std::optional<http::Response> (ApiServer::*handler)(Call& call);
    bool is_prefix = false;  // the path goes on
    bool open = false;       // no API key needed
    bool on_pool = false;    // too slow for an I/O thread
    bool is_long = false;    // too slow for the pool: seconds
  };
  static std::span<const Route> routes();

 private:
  struct Compilation;

  std::optional<http::Response> chat_completions(Call& call);
  std::optional<http::Response> completions(Call& call);
  std::optional<http::Response> list_models(Call& call);
  std::optional<http::Response> show_model(Call& call);
  std::optional<http::Response> health(Call& call);
  std::optional<http::Response> version(Call& call);
  std::optional<http::Response> metrics(Call& call);
  std::optional<http::Response> tokenize(Call& call);
  std::optional<http::Response> detokenize(Call& call);
  std::optional<http::Response> tokenizer_info(Call& call);
  std::optional<http::Response> mtp_stats(Call& call);
  std::optional<http::Response> start_profile(Call& call);
  std::optional<http::Response> stop_profile(Call& call);
  std::optional<http::Response> page(Call& call);

  Call make_call(http::Request&& request, std::shared_ptr<http::ResponseWriter> writer) const;
  bool key_is_right(const http::Request& request) const;
  template <class Work>
  static void answering(const std::shared_ptr<http::ResponseWriter>& writer, Work work);
  void run(const Route& route, std::shared_ptr<Call> call);
  http::Response options_response(const Call& call, const std::string& allowed) const;

  std::optional<http::Response> generate(Endpoint endpoint, Call& call);
  std::optional<http::Response> compile_and_start(Call& call, Generation::Input&& input);
  void compile_next();
  void compile(Compilation& work);
  http::Response reject(Rejection reason, const ApiError& error);
  http::Response reject(const Error& error);
  Result<std::string> find_model(std::string_view name) const;
  Status check_model(const boost::json::object& body) const;
  Result<std::string> render(const ApiRequest& request) const;
  ParserPlan plan_parsers(const ApiRequest& request, std::string_view prompt) const;
  void set_grammar(ApiRequest& request, ParserPlan& plan) const;
  std::vector<int32_t> control_token_ids(const ParserPlan& plan) const;
  Status prepare_prompts(Generation::Input& input) const;
  Status check_bytes(const ApiRequest& request, std::string_view param) const;
  Status check_answer(Generation::Input& input) const;
  Status check_context(ApiRequest& request, int64_t prompt_tokens, std::string_view param) const;
  std::string model_object(const std::string& id) const;
  std::optional<ApiError> trouble() const;

  EngineClient& engine_;
  const ChatTemplate* chat_template_;
  ApiOptions options_;
  std::shared_ptr<ApiMetrics> metrics_;
  const parsers::ToolFormat* tool_format_ = nullptr;  // nullptr: the model has none
  const parsers::ReasoningFormat* reasoning_format_ = nullptr;
  bool template_knows_developer_ = false;
  bool template_knows_thinking_ = false;
  std::atomic<bool> draining_{false};
  int64_t created_ = 0;
  int64_t longest_token_ = 1;  // bytes
  std::mutex compile_mutex_;
  std::vector<std::shared_ptr<Compilation>> compilations_;  // oldest first, one a task of the pool
  std::string last_compiled_;                               // client whose turn was last
  WorkQueue compile_pool_;
  // Both give work to the one above, so they end first.
  WorkQueue pool_;
  std::shared_ptr<WorkQueue>
      large_work_;  // one thread, of large bodies and answers: only they wait
};

}  // namespace atom::openai
