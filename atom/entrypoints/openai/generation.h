// Generation: one request of /v1/chat/completions or /v1/completions from submission to its last
// byte. It fans out over prompts and choices, turns engine events into an SSE stream or a whole
// answer, and owns the way out: finish, error, or a client that left all end in one place. Shared
// by the pool thread that submits, the engine's output thread (for a large answer, the thread of
// large work) and the I/O thread that reports a disconnect.
#pragma once

#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "atom/entrypoints/openai/api_request.h"
#include "atom/entrypoints/openai/call.h"
#include "atom/entrypoints/openai/engine_client.h"
#include "atom/entrypoints/openai/response_format.h"
#include "atom/entrypoints/openai/work_queue.h"
#include "atom/entrypoints/parsers/parser_table.h"

namespace atom::openai {

// How the text of a chat answer is read.
struct ParserPlan {
  const parsers::ToolFormat* tools = nullptr;  // nullptr: calls are text
  const parsers::ReasoningFormat* reasoning = nullptr;
  int32_t open_id = -1;  // the tags of reasoning, where they are single tokens
  int32_t close_id = -1;
  parsers::ReasoningStart start = parsers::ReasoningStart::kNone;
  // Instead of the request's grammar, when a schema of a tool that is not strict cannot be
  // enforced.
  std::optional<GrammarSpec> loose_grammar;
  parsers::ParserContext context;

  std::unique_ptr<parsers::OutputParser> make() const;  // nullptr: all text is content
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  struct Input {
    ApiRequest request;  // checked
    std::vector<std::vector<int32_t>> prompt_ids;
    std::vector<std::string> prompt_texts;           // for echo, else empty
    std::shared_ptr<const CompiledGrammar> grammar;  // of request.sampling.grammar
    std::string model;                               // as shown in the answer
    ParserPlan parsers;
    int64_t max_answer_bytes = std::numeric_limits<int64_t>::max();
    // Where a large answer is made, so that no stream waits for it: one thread. Else unset.
    std::weak_ptr<WorkQueue> builder;
  };

  // The call carries the metrics.
  Generation(EngineClient& engine, Call call, Input input);
  ~Generation();
  // Hands all prompts to the engine; from here on it keeps itself alive.
  void start();

 private:
  using Clock = std::chrono::steady_clock;

  void submit_all();
  Result<RequestId> submit(size_t prompt);
  void receive(size_t prompt, RequestOutput&& output);
  void hand_to(WorkQueue& builder, size_t prompt, RequestOutput&& output);
  void build();
  template <class Work>
  void take_or_fail(Work work);
  void on_output(size_t prompt, RequestOutput&& output);
  void take_delta(size_t prompt, ChoiceDelta& delta, const RequestOutput& output, std::string& out);
  void count_reasoning(ChoiceState& choice, const std::vector<int32_t>& ids);
  void add_text(size_t choice, const ChoiceDelta& delta);
  void add_echo(size_t prompt, const RequestOutput& output);
  bool echo_due(size_t prompt) const;
  void finish_locked(std::string& out);
  void end_with_error(const ApiError& error);
  void client_gone();
  void abort_all(const std::vector<RequestId>& ids);
  Usage usage(Clock::time_point now) const;
  CallSummary summary(std::string_view ending) const;

  EngineClient& engine_;
  Call call_;
  Input input_;
  ResponseFormat format_;
  int64_t num_sequences_ = 0;

  std::mutex mutex_;
  std::vector<RequestId> ids_;
  std::vector<ChoiceState> choices_;
  std::vector<std::unique_ptr<parsers::OutputParser>> parsers_;  // per choice; empty: none
  parsers::ParsedText parsed_;                                   // reused
  std::vector<std::string> prompt_logprobs_;                     // per prompt; empty: not asked for
  std::vector<bool> echoed_;  // per prompt: echo of its choices has been added
  struct PromptState {
    int64_t cached_tokens = 0;
    int64_t generated_tokens = 0;
  };
  std::vector<PromptState> prompts_;
  int64_t kept_bytes_ = 0;  // in choices_ and prompt_logprobs_, of an answer that is not streamed
  size_t unfinished_ = 0;
  bool streaming_ = false;  // the head of the stream is out
  bool done_ = false;
  Clock::time_point first_token_{};

  std::mutex received_mutex_;
  std::vector<std::pair<size_t, RequestOutput>> received_;  // by prompt, for the builder
};

}  // namespace atom::openai
