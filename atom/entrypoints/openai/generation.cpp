#include "atom/entrypoints/openai/generation.h"

#include <algorithm>
#include <ctime>

#include "atom/core/log.h"
#include "atom/core/with_memory.h"
#include "atom/entrypoints/openai/json_writer.h"
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::openai {
namespace {

constexpr size_t kMaxLoggedPrompt = 4096;  // bytes

ResponseFormat::Options format_options(const Call& call, const Generation::Input& input) {
  const ApiRequest& request = input.request;
  return {
      .endpoint = request.endpoint,
      .id = (request.endpoint == kChat ? "chatcmpl-" : "cmpl-") + call.request_id,
      .created = std::time(nullptr),
      .model = input.model,
      .logprobs = request.sampling.logprobs.has_value(),
      .num_top = request.sampling.logprobs.value_or(0),
      .return_token_ids = request.return_token_ids,
      .tokens_as_ids = request.return_tokens_as_token_ids,
      .skip_special_tokens = request.sampling.skip_special_tokens,
      .parsed = input.parsers.tools != nullptr || input.parsers.reasoning != nullptr,
      .named_choice = request.tool_choice && request.tool_choice->mode == ToolChoice::Mode::kNamed};
}

// Bytes that only grow while a whole answer is made.
size_t kept_size(const ChoiceState& choice) {
  size_t bytes = choice.text.size() + choice.reasoning.size() + choice.logprobs.size() +
                 choice.token_ids.size() * sizeof(int32_t);
  for (const parsers::ToolCallDelta& call : choice.calls)
    bytes += sizeof(call) + call.arguments.size();
  return bytes;
}

std::string make_call_id(const parsers::ToolFormat* format) {
  const size_t length = format == nullptr ? 0 : format->id_length;
  return length > 0 ? random_hex().substr(0, length) : "call_" + random_hex().substr(0, 24);
}

}  // namespace

std::unique_ptr<parsers::OutputParser> ParserPlan::make() const {
  if (tools == nullptr && reasoning == nullptr) return nullptr;
  auto parser = tools != nullptr ? tools->make(context) : parsers::make_plain_parser(context);
  return reasoning != nullptr ? reasoning->make(context, std::move(parser)) : std::move(parser);
}

Generation::Generation(EngineClient& engine, Call call, Input input)
    : engine_(engine),
      call_(std::move(call)),
      input_(std::move(input)),
      format_(format_options(call_, input_), *engine_.tokenizer()) {
  const auto n = static_cast<size_t>(input_.request.sampling.n);
  const size_t num_prompts = input_.prompt_ids.size();
  num_sequences_ = static_cast<int64_t>(n * num_prompts);
  choices_.resize(n * num_prompts);
  for (size_t i = 0; i < choices_.size(); ++i) {
    choices_[i].index = static_cast<int32_t>(i);
    choices_[i].in_reasoning = input_.parsers.context.in_reasoning;
  }
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (auto parser = input_.parsers.make()) parsers_.push_back(std::move(parser));
  }
  echoed_.resize(num_prompts, false);
  if (input_.request.prompt_logprobs) prompt_logprobs_.resize(num_prompts);
  prompts_.resize(num_prompts);
  unfinished_ = num_prompts;
  call_.metrics->in_flight.fetch_add(num_sequences_, std::memory_order_relaxed);
}

Generation::~Generation() {
  call_.metrics->in_flight.fetch_sub(num_sequences_, std::memory_order_relaxed);
}

void Generation::start() {
  call_.writer->on_disconnect([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->client_gone();
  });
  try {
    return submit_all();
  } catch (const std::exception& error) {
    log_error("request {}: {}", call_.request_id, error.what());
  }
  with_memory([this] {
    end_with_error({.status = 503, .message = "the server ran out of memory for this request"});
  });
}

void Generation::submit_all() {
  for (size_t i = 0; i < input_.prompt_ids.size(); ++i) {
    Result<RequestId> id = submit(i);
    if (!id && input_.parsers.loose_grammar && id.error().code == ErrorCode::kInvalidArgument &&
        id.error().param == input_.parsers.loose_grammar->param) {
      input_.request.sampling.grammar = input_.parsers.loose_grammar;
      input_.grammar = nullptr;  // the engine compiles it
      id = submit(i);
    }
    if (!id) {
      if (input_.prompt_ids.size() > 1 && id.error().param == "prompt")
        id.error().param = str_format("prompt[{}]", i);
      return end_with_error(to_api_error(id.error()));
    }
    bool left = false;
    {
      const std::lock_guard lock(mutex_);
      ids_.push_back(*id);
      left = done_;
    }
    if (left) {  // the client went away, or another prompt failed, while this one was handed over
      engine_.abort(*id);
      return;
    }
  }
}

Result<RequestId> Generation::submit(size_t prompt) {
  return engine_.add_request({.prompt_token_ids = input_.prompt_ids[prompt],
                              .sampling = input_.request.sampling,
                              .grammar = input_.grammar},
                             [self = shared_from_this(), prompt](RequestOutput&& output) {
                               self->receive(prompt, std::move(output));
                             });
}

// An answer that memory runs out for ends as an error, not in silence.
template <class Work>
void Generation::take_or_fail(Work work) {
  try {
    return work();
  } catch (const std::exception& error) {
    log_error("request {}: {}", call_.request_id, error.what());
  }
  with_memory([this] {
    end_with_error({.status = 503, .message = "the server ran out of memory for this request"});
  });
}

// The engine's callback.
void Generation::receive(size_t prompt, RequestOutput&& output) {
  take_or_fail([&] {
    if (const std::shared_ptr<WorkQueue> builder = input_.builder.lock()) {
      hand_to(*builder, prompt, std::move(output));
    } else {
      on_output(prompt, std::move(output));
    }
  });
}

void Generation::hand_to(WorkQueue& builder, size_t prompt, RequestOutput&& output) {
  const std::lock_guard lock(received_mutex_);
  if (received_.empty()) builder.push([self = shared_from_this()] { self->build(); });
  received_.emplace_back(prompt, std::move(output));
}

void Generation::build() {
  std::vector<std::pair<size_t, RequestOutput>> outputs;
  {
    const std::lock_guard lock(received_mutex_);
    outputs.swap(received_);
  }
  take_or_fail([&] {
    for (auto& [prompt, output] : outputs) on_output(prompt, std::move(output));
  });
}

void Generation::on_output(size_t prompt, RequestOutput&& output) {
  thread_local std::string out;  // reused by every event of the output thread
  out.clear();
  std::unique_lock lock(mutex_);
  if (done_) return;
  bool aborted = false;
  for (const ChoiceDelta& delta : output.choices)
    aborted = aborted || delta.finish_reason == FinishReason::kAbort ||
              delta.finish_reason == FinishReason::kError;
  if (output.error || aborted) {
    lock.unlock();
    return end_with_error(
        output.error ? to_api_error(*output.error)
                     : ApiError{.status = 503, .message = "the request was aborted by the server"});
  }
  if (first_token_ == Clock::time_point{}) first_token_ = Clock::now();
  prompts_[prompt] = {.cached_tokens = output.num_cached_tokens,
                      .generated_tokens = output.num_generated_tokens};
  if (echo_due(prompt)) add_echo(prompt, output);
  const std::optional<int32_t> scored = input_.request.prompt_logprobs;
  if (scored && prompt_logprobs_[prompt].empty()) {
    format_.append_prompt_logprobs(prompt_logprobs_[prompt], input_.prompt_ids[prompt],
                                   output.prompt_logprobs, *scored);
    kept_bytes_ += static_cast<int64_t>(prompt_logprobs_[prompt].size());
  }
  for (ChoiceDelta& delta : output.choices) take_delta(prompt, delta, output, out);
  if (kept_bytes_ > input_.max_answer_bytes) {
    lock.unlock();
    return end_with_error(
        {.status = 400,
         .message = str_format("the answer grew beyond {} bytes (--max-answer-bytes); ask for "
                               "fewer tokens, choices or logprobs, or stream it",
                               input_.max_answer_bytes)});
  }
  if (output.finished && --unfinished_ == 0) return finish_locked(out);
  if (out.empty()) return;
  if (!streaming_) {
    call_.begin_event_stream();
    streaming_ = true;
  }
  if (!call_.write(out)) {
    lock.unlock();
    client_gone();
  }
}

bool Generation::echo_due(size_t prompt) const { return input_.request.echo && !echoed_[prompt]; }

// Puts the prompt in front of each of its choices, once, with the first event.
void Generation::add_echo(size_t prompt, const RequestOutput& output) {
  echoed_[prompt] = true;
  const auto n = static_cast<size_t>(input_.request.sampling.n);
  const std::vector<int32_t>& ids = input_.prompt_ids[prompt];
  for (size_t i = prompt * n; i < (prompt + 1) * n; ++i) {
    choices_[i].text = input_.prompt_texts[prompt];
    if (!input_.request.stream) kept_bytes_ += static_cast<int64_t>(choices_[i].text.size());
    if (!input_.request.sampling.logprobs) continue;
    for (size_t t = 0; t < ids.size(); ++t) {
      const std::optional<TokenLogprobs> none;
      format_.add_logprobs(t < output.prompt_logprobs.size() ? output.prompt_logprobs[t] : none,
                           ids[t], choices_[i].logprobs, choices_[i].num_characters);
    }
    if (!input_.request.stream) kept_bytes_ += static_cast<int64_t>(choices_[i].logprobs.size());
  }
}

// The tokens between the tags of a reasoning block, where each tag is one token.
void Generation::count_reasoning(ChoiceState& choice, const std::vector<int32_t>& ids) {
  const ParserPlan& plan = input_.parsers;
  if (plan.close_id < 0 || choice.reasoning_done) return;
  for (const int32_t id : ids) {
    if (id == plan.close_id) {
      choice.reasoning_done = true;
      return;
    }
    if (id == plan.open_id) {
      choice.in_reasoning = true;
    } else if (choice.in_reasoning) {
      ++choice.reasoning_tokens;
    }
  }
}

// The text of a delta, as the parser reads it.
void Generation::add_text(size_t index, const ChoiceDelta& delta) {
  ChoiceState& choice = choices_[index];
  if (parsers_.empty()) {
    choice.text += delta.text;
    return;
  }
  parsed_.clear();
  parsers::OutputParser& parser = *parsers_[index];
  const std::string_view text = delta.text;
  size_t at = 0;
  for (const ControlToken& token : delta.control_tokens) {
    parser.push(text.substr(at, token.offset - at), parsed_);
    parser.push_control(engine_.tokenizer()->token_bytes(token.token_id), parsed_);
    at = token.offset;
  }
  parser.push(text.substr(at), parsed_);
  if (delta.finish_reason) parser.finish(parsed_);
  choice.text += parsed_.content;
  choice.reasoning_done |= !choice.in_reasoning && !parsed_.content.empty();
  if (input_.request.include_reasoning) choice.reasoning += parsed_.reasoning;
  for (parsers::ToolCallDelta& call : parsed_.calls) {
    if (call.index > 0 && !input_.request.parallel_tool_calls) continue;
    choice.called = true;
    if (call.first && call.id.empty()) call.id = make_call_id(input_.parsers.tools);
    if (!call.first && !choice.calls.empty() && choice.calls.back().index == call.index) {
      choice.calls.back().arguments += call.arguments;
    } else {
      choice.calls.push_back(std::move(call));
    }
  }
}

// Adds what is new to its choice; for a stream, writes it out as an event and forgets it.
void Generation::take_delta(size_t prompt, ChoiceDelta& delta, const RequestOutput& output,
                            std::string& out) {
  const ApiRequest& request = input_.request;
  const size_t index =
      prompt * static_cast<size_t>(request.sampling.n) + static_cast<size_t>(delta.index);
  ChoiceState& choice = choices_[index];
  const size_t before = kept_size(choice);
  count_reasoning(choice, delta.token_ids);
  add_text(index, delta);
  if (request.return_token_ids)
    choice.token_ids.insert(choice.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  for (size_t i = 0; i < delta.logprobs.size() && i < delta.token_ids.size(); ++i) {
    format_.add_logprobs(delta.logprobs[i], delta.token_ids[i], choice.logprobs,
                         choice.num_characters);
  }
  if (delta.finish_reason) {
    choice.finish_reason = delta.finish_reason;
    choice.stop_reason = std::move(delta.stop_reason);
  }
  if (!request.stream) {
    kept_bytes_ += static_cast<int64_t>(kept_size(choice) - before);
    return;
  }
  const bool news = !choice.text.empty() || !choice.reasoning.empty() || !choice.calls.empty() ||
                    choice.finish_reason || !choice.token_ids.empty() || !delta.logprobs.empty();
  if (!news) return;
  Usage continuous;
  if (request.continuous_usage) {
    continuous = usage(Clock::now());
    continuous.prompt_tokens = output.num_prompt_tokens;
    continuous.completion_tokens = output.num_generated_tokens;
  }
  const bool first = !choice.started;
  format_.chunk(out, choice, request.continuous_usage ? &continuous : nullptr,
                first && request.return_token_ids ? &input_.prompt_ids[prompt] : nullptr);
  choice.started = true;
  choice.text.clear();
  choice.reasoning.clear();
  choice.calls.clear();
  choice.token_ids.clear();
  choice.logprobs.clear();
}

void Generation::finish_locked(std::string& out) {
  const Usage total = usage(Clock::now());
  if (!input_.request.stream) {
    http::Response response{.body = format_.whole(choices_, total, input_.prompt_ids,
                                                  prompt_logprobs_, input_.request.sampling.n)};
    done_ = true;
    call_.send(std::move(response), summary({}));
    return;
  }
  if (!streaming_) call_.begin_event_stream();
  if (input_.request.include_usage) format_.usage_chunk(out, total);
  out += kSseDone;
  done_ = true;
  call_.write(out);
  call_.writer->end();
  call_.done(200, call_.bytes_sent, summary({}));
}

void Generation::end_with_error(const ApiError& error) {
  std::vector<RequestId> ids;
  {
    const std::lock_guard lock(mutex_);
    if (done_) return;
    ids = ids_;
    done_ = true;
    if (ids.empty()) call_.metrics->rejected_by(Rejection::kEngine).add();
    if (streaming_) {
      std::string out = "data: " + error_body(error) + "\n\n";
      out += kSseDone;
      call_.write(out);
      call_.writer->end();
      call_.done(error.status, call_.bytes_sent, summary("error"));
    } else {
      call_.fail(error, summary("error"));
    }
  }
  abort_all(ids);
}

void Generation::client_gone() {
  std::vector<RequestId> ids;
  {
    const std::lock_guard lock(mutex_);
    if (done_) return;
    done_ = true;
    ids = ids_;
    call_.done(499, call_.bytes_sent, summary("abort"));
  }
  abort_all(ids);
}

// Without the mutex: an engine may answer an abort at once.
void Generation::abort_all(const std::vector<RequestId>& ids) {
  for (const RequestId id : ids) engine_.abort(id);
}

// For the log line; without an ending, the choices have theirs.
CallSummary Generation::summary(std::string_view ending) const {
  const Usage total = usage(Clock::now());
  CallSummary out{.prompt_tokens = total.prompt_tokens,
                  .cached_tokens = total.cached_tokens,
                  .completion_tokens = total.completion_tokens,
                  .ttft = total.ttft > 0 ? total.ttft : -1,
                  .finish_reason = std::string(ending)};
  if (ending.empty()) {
    for (const ChoiceState& choice : choices_) {
      if (!out.finish_reason.empty()) out.finish_reason += ',';
      out.finish_reason += choice.finish_reason == FinishReason::kLength ? "length" : "stop";
    }
  }
  if (call_.log_prompts) {
    for (const std::vector<int32_t>& ids : input_.prompt_ids) {
      if (out.prompt.size() >= kMaxLoggedPrompt) break;
      out.prompt += engine_.tokenizer()->decode(ids, false);
    }
    if (out.prompt.size() > kMaxLoggedPrompt) {
      out.prompt.resize(kMaxLoggedPrompt);
      out.prompt += "...";
    }
  }
  return out;
}

Usage Generation::usage(Clock::time_point now) const {
  const auto seconds = [this](Clock::time_point to) {
    return std::chrono::duration<double>(to - call_.arrival).count();
  };
  Usage out{.ttft = first_token_ == Clock::time_point{} ? 0 : seconds(first_token_),
            .latency = seconds(now)};
  if (input_.parsers.close_id >= 0) {
    out.reasoning_tokens = 0;
    for (const ChoiceState& choice : choices_) *out.reasoning_tokens += choice.reasoning_tokens;
  }
  int64_t longest = 0;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    out.prompt_tokens += static_cast<int64_t>(input_.prompt_ids[i].size());
    out.completion_tokens += prompts_[i].generated_tokens;
    out.cached_tokens += prompts_[i].cached_tokens;
    longest = std::max(
        longest, prompts_[i].generated_tokens / std::max<int64_t>(1, input_.request.sampling.n));
  }
  if (longest > 1)
    out.tpot = std::max(0.0, out.latency - out.ttft) / static_cast<double>(longest - 1);
  return out;
}

}  // namespace atom::openai
