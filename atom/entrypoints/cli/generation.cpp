#include "atom/entrypoints/cli/generation.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "atom/core/log.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

// Events cross from the output thread to the command's thread. The callback keeps it alive.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<RequestOutput> events;
};

constexpr std::chrono::milliseconds kInterruptPoll{50};

void add_choice(Answer& answer, ChoiceDelta& delta) {
  answer.text += delta.text;
  answer.token_ids.insert(answer.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(answer.logprobs));
  if (delta.finish_reason) answer.finish_reason = *delta.finish_reason;
}

// Waits for the next event; aborts the request when Ctrl-C was pressed.
RequestOutput next_event(Mailbox& mailbox, LLMEngine& engine, RequestId id, bool& stopped) {
  std::unique_lock lock(mailbox.mutex);
  while (mailbox.events.empty()) {
    if (!stopped && interrupted()) {
      stopped = true;
      lock.unlock();
      engine.abort(id);
      lock.lock();
      continue;
    }
    mailbox.arrived.wait_for(lock, kInterruptPoll);
  }
  RequestOutput event = std::move(mailbox.events.front());
  mailbox.events.pop_front();
  return event;
}

}  // namespace

Result<std::unique_ptr<LLMEngine>> start_engine(const EngineConfig& config, bool verbose) {
  if (!verbose) set_log_level(LogLevel::kWarning);
  return LLMEngine::create(config);
}

Result<Generation> run_generation(LLMEngine& engine, GenerationRequest request,
                                  const TextSink& sink) {
  const auto num_prompt_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  const int64_t room = engine.max_model_len() - num_prompt_tokens;
  request.sampling.max_tokens = std::max<int64_t>(1, std::min(request.sampling.max_tokens, room));
  request.sampling.min_tokens = std::min(request.sampling.min_tokens, request.sampling.max_tokens);

  Generation result;
  result.answers.resize(static_cast<size_t>(request.sampling.n));
  const auto mailbox = std::make_shared<Mailbox>();
  ATOM_ASSIGN_OR_RETURN(const RequestId id,
                        engine.add_request(std::move(request), [mailbox](RequestOutput&& event) {
                          const std::lock_guard lock(mailbox->mutex);
                          mailbox->events.push_back(std::move(event));
                          mailbox->arrived.notify_one();
                        }));
  while (true) {
    RequestOutput event = next_event(*mailbox, engine, id, result.stopped);
    for (ChoiceDelta& delta : event.choices) {
      add_choice(result.answers.at(static_cast<size_t>(delta.index)), delta);
      const bool wanted =
          result.stopped || delta.index != 0 || delta.text.empty() || sink(delta.text);
      if (!wanted) {
        result.stopped = true;
        engine.abort(id);
      }
    }
    if (!event.finished) continue;
    if (event.error) return std::unexpected(std::move(*event.error));
    result.timing = event.timing;
    result.num_prompt_tokens = event.num_prompt_tokens;
    result.num_cached_tokens = event.num_cached_tokens;
    result.num_generated_tokens = event.num_generated_tokens;
    return result;
  }
}

std::string describe_speed(const Generation& generation) {
  const double prefill = generation.timing.ttft - generation.timing.queued;
  const double decode = generation.timing.latency - generation.timing.ttft;
  const int64_t computed = generation.num_prompt_tokens - generation.num_cached_tokens;
  const auto choices = static_cast<int64_t>(generation.answers.size());
  const auto rate = [](int64_t tokens, double seconds) {
    return seconds > 0 && tokens > 0
               ? str_format("{:.1f} tokens/s", static_cast<double>(tokens) / seconds)
               : std::string("- tokens/s");
  };
  return str_format(
      "prompt {} tokens{}, {}; answer {} tokens, {}; first token after {:.3f} s",
      generation.num_prompt_tokens,
      generation.num_cached_tokens > 0 ? str_format(" ({} cached)", generation.num_cached_tokens)
                                       : std::string(),
      rate(computed, prefill), generation.num_generated_tokens,
      rate(generation.num_generated_tokens - choices, decode), generation.timing.ttft);
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

}  // namespace atom::cli
