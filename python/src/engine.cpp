#include "python/src/engine.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <condition_variable>
#include <csignal>
#include <optional>
#include <thread>

#include "atom/config.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/openai/chat_messages.h"
#include "python/src/conversions.h"

namespace atom::python {
namespace {

constexpr std::chrono::milliseconds kSignalPoll{50};
constexpr std::chrono::seconds kCallGrace{2};

std::atomic<int> num_left_behind = 0;

// With the lock: runs Python's signal handlers; throws what they raise (KeyboardInterrupt).
void check_signals() {
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// Threads that start from here leave a signal meant for the program to Python's own thread.
void block_program_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGCHLD,
                           SIGWINCH, SIGTSTP, SIGCONT})
    sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

// An engine being made on a thread of its own, so that Ctrl-C ends a long load or download.
struct Loading {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<Result<std::unique_ptr<LLMEngine>>> result;
  bool abandoned = false;
};

void load(const std::shared_ptr<Loading>& loading, const EngineConfig& config) {
  block_program_signals();
  Result<std::unique_ptr<LLMEngine>> result = LLMEngine::create(config);
  const std::lock_guard lock(loading->mutex);
  if (loading->abandoned) {
    result = {};
    --num_left_behind;
    return;
  }
  loading->result = std::move(result);
  loading->done.notify_all();
}

std::shared_ptr<LLMEngine> load_interruptibly(const EngineConfig& config) {
  const auto loading = std::make_shared<Loading>();
  std::thread([loading, config] { load(loading, config); }).detach();
  while (true) {
    {
      const nb::gil_scoped_release release;
      std::unique_lock lock(loading->mutex);
      loading->done.wait_for(lock, kSignalPoll, [&] { return loading->result.has_value(); });
    }
    if (loading->result) return value_or_raise(std::move(*loading->result));
    if (PyErr_CheckSignals() == 0) continue;
    const std::lock_guard lock(loading->mutex);
    if (!loading->result) {
      loading->abandoned = true;
      ++num_left_behind;
    }
    throw nb::python_error();
  }
}

void fit_to_context(SamplingParams& params, const LLMEngine& engine, size_t num_prompt_tokens) {
  const int64_t room = engine.max_model_len() - static_cast<int64_t>(num_prompt_tokens);
  params.max_tokens = std::min(params.max_tokens, std::max<int64_t>(room, 1));
  params.min_tokens = std::min(params.min_tokens, params.max_tokens);
}

}  // namespace

Engine::Engine(const std::vector<std::string>& flags) : process_(getpid()) {
  EngineArgs args;
  cli::FlagSet known("", "");
  cli::add_engine_flags(known, args);
  if (const Status parsed = known.parse(flags); !parsed) raise(parsed.error());
  engine_ = load_interruptibly(value_or_raise(make_engine_config(args)));
}

Engine::~Engine() {
  if (forked()) {  // its threads are not here: nothing could be joined
    new std::shared_ptr<LLMEngine>(std::move(engine_));
    return;
  }
  const nb::gil_scoped_release release;
  engine_.reset();
}

bool Engine::forked() const { return getpid() != process_; }

std::shared_ptr<LLMEngine> Engine::engine() const {
  if (forked()) {
    throw EngineFailure(str_format(
        "this engine lives in process {} and its threads are not in the forked process {}: create "
        "the engine in the child, or use multiprocessing's \"spawn\"",
        process_, getpid()));
  }
  const std::lock_guard lock(mutex_);
  if (!engine_) throw EngineFailure("the engine is closed");
  return engine_;
}

void Engine::close() {
  if (forked()) return;
  const nb::gil_scoped_release release;
  std::shared_ptr<LLMEngine> engine;
  {
    const std::lock_guard lock(mutex_);
    engine = std::move(engine_);
  }
  if (!engine) return;
  engine->drain(std::chrono::milliseconds(0));
  // A call that waits in another thread gets its answers now. It has to be back in Python before
  // the interpreter ends, which would unwind the thread through C++.
  const auto deadline = std::chrono::steady_clock::now() + kCallGrace;
  while (engine.use_count() > 1 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

std::vector<int32_t> Engine::prompt_ids(const LLMEngine& engine, Prompt&& prompt) const {
  if (auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) return std::move(*ids);
  return engine.tokenizer()->encode(std::get<std::string>(prompt), true);
}

nb::list Engine::generate(const nb::list& prompts, const nb::list& params) {
  const std::shared_ptr<LLMEngine> engine = this->engine();
  std::vector<Prompt> inputs;
  std::vector<SamplingParams> sampling;
  for (const nb::handle prompt : prompts) inputs.push_back(to_prompt(prompt, inputs.size()));
  // As many as prompts, or one for all, whose max_tokens depends on the prompt.
  for (const nb::handle fields : params)
    sampling.push_back(to_sampling_params(nb::borrow<nb::dict>(fields), *engine));
  if (sampling.size() == 1) sampling.resize(inputs.size(), sampling[0]);
  Result<std::vector<GenerationResult>> results;
  bool interrupted = false;
  {
    const nb::gil_scoped_release release;
    std::vector<std::vector<int32_t>> ids;
    for (size_t i = 0; i < inputs.size(); ++i) {
      ids.push_back(prompt_ids(*engine, std::move(inputs[i])));
      fit_to_context(sampling[i], *engine, ids[i].size());
    }
    results = engine->generate(ids, sampling, [&interrupted] {
      const nb::gil_scoped_acquire acquire;
      interrupted = PyErr_CheckSignals() != 0;
      return interrupted;
    });
  }
  if (interrupted) throw nb::python_error();
  nb::list out;
  for (const GenerationResult& result : value_or_raise(std::move(results)))
    out.append(to_python(result, engine->tokenizer().get()));
  return out;
}

RequestId Engine::add_request(nb::handle prompt, nb::dict params,
                              std::shared_ptr<EventQueue> queue) {
  const std::shared_ptr<LLMEngine> engine = this->engine();
  Prompt input = to_prompt(prompt, 0);
  GenerationRequest request;
  request.sampling = to_sampling_params(params, *engine);
  Result<RequestId> id;
  {
    const nb::gil_scoped_release release;
    request.prompt_token_ids = prompt_ids(*engine, std::move(input));
    fit_to_context(request.sampling, *engine, request.prompt_token_ids.size());
    id = engine->add_request(std::move(request),
                             [queue](RequestOutput&& output) { queue->push(std::move(output)); });
  }
  return value_or_raise(std::move(id));
}

void Engine::compile_grammar(nb::dict params) {
  const std::shared_ptr<LLMEngine> engine = this->engine();
  const SamplingParams sampling = to_sampling_params(params, *engine);
  if (!sampling.grammar) return;
  Result<std::shared_ptr<const CompiledGrammar>> compiled;
  {
    const nb::gil_scoped_release release;
    compiled = engine->compile_grammar(*sampling.grammar);
  }
  value_or_raise(std::move(compiled));
}

void Engine::abort(RequestId id) { engine()->abort(id); }

nb::list Engine::take_events(EventQueue& queue, double seconds) {
  const std::shared_ptr<LLMEngine> engine = this->engine();
  const auto begin = std::chrono::steady_clock::now();
  std::vector<RequestOutput> outputs;
  while (outputs.empty()) {
    check_signals();
    auto wait = kSignalPoll;
    if (seconds >= 0) {
      const std::chrono::duration<double> gone = std::chrono::steady_clock::now() - begin;
      const auto left = static_cast<int64_t>((seconds - gone.count()) * 1000);
      wait = std::min(wait, std::chrono::milliseconds(std::max<int64_t>(left, 0)));
    }
    const nb::gil_scoped_release release;
    outputs = queue.take(wait);
    if (wait.count() == 0) break;
  }
  nb::list events;
  for (RequestOutput& output : outputs)
    append_events(events, std::move(output), engine->tokenizer().get());
  return events;
}

std::vector<int32_t> Engine::encode(const std::string& text, bool add_special_tokens) const {
  const auto engine = this->engine();
  const nb::gil_scoped_release release;
  return engine->tokenizer()->encode(text, add_special_tokens);
}

std::string Engine::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  const auto engine = this->engine();
  const nb::gil_scoped_release release;
  return engine->tokenizer()->decode(ids, skip_special_tokens);
}

std::string Engine::apply_chat_template(nb::list messages, nb::handle tools,
                                        bool add_generation_prompt, bool continue_final_message,
                                        nb::dict kwargs) const {
  const auto engine = this->engine();
  if (engine->chat_template() == nullptr) {
    throw nb::value_error("the model has no chat template");
  }
  const boost::json::value list = to_json(messages, "messages");
  const boost::json::value tool_list = to_json(tools, "tools");
  const boost::json::value extra = to_json(kwargs, "chat template variables");
  const boost::json::value checked =
      value_or_raise(openai::normalize_messages(list.get_array(), "messages"));
  const Tokenizer& tokenizer = *engine->tokenizer();
  const nb::gil_scoped_release release;
  auto text = engine->chat_template()->render_chat(
      {.messages = &checked,
       .tools = tool_list.is_array() && !tool_list.get_array().empty() ? &tool_list : nullptr,
       .chat_template_kwargs = &extra.get_object(),
       .add_generation_prompt = add_generation_prompt,
       .continue_final_message = continue_final_message,
       .bos_token = tokenizer.bos_token(),
       .eos_token = tokenizer.eos_token()});
  if (text) return std::move(*text);
  throw nb::value_error(
      ("the chat template refused the messages: " + text.error().message).c_str());
}

void Engine::start_profile(const std::string& output_dir) const {
  const auto engine = this->engine();
  if (const Status started = engine->start_profile(output_dir); !started) raise(started.error());
}

std::vector<std::string> Engine::stop_profile() const {
  const auto engine = this->engine();
  Result<std::vector<std::string>> traces;
  {
    const nb::gil_scoped_release release;
    traces = engine->stop_profile();
  }
  return value_or_raise(std::move(traces));
}

nb::dict Engine::stats() const {
  const EngineStats from = engine()->stats();
  nb::dict out;
  out["num_running"] = from.num_running;
  out["num_waiting"] = from.num_waiting;
  out["num_blocks"] = from.num_blocks;
  out["num_free_blocks"] = from.num_free_blocks;
  out["block_size"] = from.block_size;
  out["prompt_tokens"] = from.prompt_tokens;
  out["cached_prompt_tokens"] = from.cached_prompt_tokens;
  out["generation_tokens"] = from.generation_tokens;
  out["num_preemptions"] = from.num_preemptions;
  out["num_steps"] = from.num_steps;
  out["speculative"] = from.draft_method != DraftMethod::kNone;
  out["total_draft_tokens"] = from.drafts.num_draft_tokens;
  out["total_accepted_tokens"] = from.drafts.num_accepted_tokens;
  out["acceptance_rate"] = from.drafts.acceptance_rate();
  out["tokens_per_forward"] = from.drafts.tokens_per_forward();
  return out;
}

nb::dict Engine::tokenizer_info() const {
  const auto engine = this->engine();
  const Tokenizer& tokenizer = *engine->tokenizer();
  nb::dict out;
  out["bos_token"] = std::string(tokenizer.bos_token());
  out["eos_token"] = std::string(tokenizer.eos_token());
  out["vocab_size"] = tokenizer.vocab_size();
  out["has_chat_template"] = engine->chat_template() != nullptr;
  return out;
}

bool loader_left_behind() { return num_left_behind > 0; }

}  // namespace atom::python
