#include "atom/model_engine/output_processor.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "atom/core/log.h"
#include "atom/core/with_memory.h"

namespace atom {
namespace {

Error output_error() {
  return {.code = ErrorCode::kInternal,
          .message = "the output of this request could not be built",
          .param = {}};
}

}  // namespace

OutputRequest::OutputRequest(RequestId id, const GenerationRequest& request, double arrival,
                             const std::shared_ptr<const Tokenizer>& tokenizer,
                             OutputCallback callback)
    : id_(id),
      callback_(std::move(callback)),
      include_stop_(request.sampling.include_stop_str_in_output),
      control_ids_(request.sampling.control_token_ids),
      wants_logprobs_(request.sampling.logprobs.has_value()),
      min_tokens_(request.sampling.min_tokens),
      choices_(static_cast<size_t>(request.sampling.n)),
      num_open_(request.sampling.n),
      num_prompt_tokens_(static_cast<int64_t>(request.prompt_token_ids.size())),
      max_tokens_(request.sampling.max_tokens),
      arrival_(arrival) {
  const SamplingParams& params = request.sampling;
  const auto strings = std::make_shared<const StopStrings>(params.stop_strings);
  for (int32_t i = 0; i < params.n; ++i) {
    Choice& choice = choices_[static_cast<size_t>(i)];
    choice.delta.index = i;
    if (tokenizer) {
      choice.detokenizer.emplace(tokenizer, params.skip_special_tokens,
                                 params.spaces_between_special_tokens);
    }
    if (!strings->empty()) {
      choice.matcher.emplace(strings);
    }
  }
  if (params.prompt_logprobs) {
    prompt_logprobs_.resize(request.prompt_token_ids.size());
  }
}

bool OutputRequest::apply(SequenceUpdate&& update, double now) {
  Choice& choice = choices_[static_cast<size_t>(update.choice)];
  if (choice.finished) {
    return false;  // what a step computed beyond the end
  }
  num_cached_tokens_ = update.num_cached_tokens;
  if (update.first_scheduled >= 0) {
    first_scheduled_ = update.first_scheduled;
    timing_.queued = update.first_scheduled - arrival_;
  }
  if (update.prompt_logprobs) {
    add_prompt_logprobs(std::move(*update.prompt_logprobs));
  }
  if (update.token &&
      add_token(choice, std::move(*update.token), !update.ended_by_token || include_stop_, now)) {
    return !update.finish_reason;
  }
  if (update.finish_reason) {
    if (update.error) {
      error_ = *update.error;
    }
    const bool whole_text = *update.finish_reason != FinishReason::kError;
    if (whole_text && choice.detokenizer && add_text(choice, choice.detokenizer->flush())) {
      close(choice, FinishReason::kStop, now);
      return false;
    }
    if (update.stop_token_id) {
      choice.delta.stop_reason = *update.stop_token_id;
    }
    close(choice, *update.finish_reason, now);
  }
  return false;
}

bool OutputRequest::add_token(Choice& choice, SampledToken&& token, bool is_text, double now) {
  if (!has_first_token_) {
    has_first_token_ = true;
    timing_.ttft = now - arrival_;
  }
  ++num_generated_tokens_;
  count_token(choice, now);
  ++choice.num_tokens;
  choice.delta.token_ids.push_back(token.token_id);
  if (wants_logprobs_) {
    choice.delta.logprobs.push_back(std::move(token.logprobs));
  }
  if (is_control(token.token_id)) {
    choice.controls.push_back({.offset = choice.text_read, .token_id = token.token_id});
    return false;
  }
  if (is_text && choice.detokenizer && add_text(choice, choice.detokenizer->push(token.token_id))) {
    close(choice, FinishReason::kStop, now);
    return true;
  }
  return false;
}

bool OutputRequest::is_control(int32_t token_id) const {
  return std::ranges::find(control_ids_, token_id) != control_ids_.end();
}

// Those that stand before or right behind the text of the delta; not what a stop string cut off.
void OutputRequest::give_controls(Choice& choice) {
  const size_t end = choice.text_given + choice.delta.text.size();
  size_t given = 0;
  for (; given < choice.controls.size() && choice.controls[given].offset <= end; ++given) {
    ControlToken token = choice.controls[given];
    token.offset -= choice.text_given;
    choice.delta.control_tokens.push_back(token);
  }
  choice.controls.erase(choice.controls.begin(),
                        choice.controls.begin() + static_cast<std::ptrdiff_t>(given));
  choice.text_given = end;
}

bool OutputRequest::add_text(Choice& choice, std::string&& text) {
  choice.text_read += text.size();
  // Below min_tokens nothing can stop the choice.
  if (!choice.matcher || choice.num_tokens <= min_tokens_) {
    choice.delta.text += text;
    return false;
  }
  if (!choice.matcher->append(text, include_stop_, choice.delta.text)) {
    return false;
  }
  choice.delta.stop_reason = choice.matcher->matched();
  return true;
}

void OutputRequest::close(Choice& choice, FinishReason reason, double now) {
  if (choice.matcher && reason != FinishReason::kError) {
    choice.matcher->flush(choice.delta.text);
  }
  choice.finished = true;
  choice.delta.finish_reason = reason;
  choice.detokenizer.reset();
  choice.matcher.reset();
  --num_open_;
  timing_.latency = now - arrival_;
  count_end(choice, reason, now);
}

void OutputRequest::count_token(Choice& choice, double now) {
  if (metrics_ != nullptr) {
    if (choice.num_tokens == 0) {
      metrics_->time_to_first_token.observe(now - arrival_);
    } else if (now > choice.last_token) {  // the tokens of one step arrive together
      metrics_->inter_token_latency.observe(now - choice.last_token);
    }
  }
  if (choice.num_tokens == 0) {
    choice.first_token = now;
  }
  choice.last_token = now;
}

// As vLLM: what did not end by itself is counted, but says nothing about latencies.
void OutputRequest::count_end(const Choice& choice, FinishReason reason, double now) {
  if (metrics_ == nullptr) {
    return;
  }
  EngineMetrics& metrics = *metrics_;
  metrics.finished_by(reason).add();
  if (reason == FinishReason::kStop || reason == FinishReason::kLength) {
    metrics.e2e_latency.observe(now - arrival_);
    metrics.queue_time.observe(first_scheduled_ - arrival_);
    metrics.prompt_tokens.observe(static_cast<double>(num_prompt_tokens_));
    metrics.prefill_computed_tokens.observe(
        static_cast<double>(num_prompt_tokens_ - num_cached_tokens_));
    metrics.generation_tokens.observe(static_cast<double>(choice.num_tokens));
    metrics.params_max_tokens.observe(static_cast<double>(max_tokens_));
    const double first = choice.num_tokens > 0 ? choice.first_token : now;
    const double decode = choice.num_tokens > 0 ? choice.last_token - first : 0;
    metrics.prefill_time.observe(first - first_scheduled_);
    metrics.decode_time.observe(decode);
    metrics.inference_time.observe(first - first_scheduled_ + decode);
    if (choice.num_tokens > 1) {
      metrics.time_per_output_token.observe(decode / static_cast<double>(choice.num_tokens - 1));
    }
  }
  if (num_open_ == 0) {
    const auto longest = std::ranges::max_element(choices_, {}, &Choice::num_tokens);
    metrics.max_generation_tokens.observe(static_cast<double>(longest->num_tokens));
    metrics.params_n.observe(static_cast<double>(choices_.size()));
  }
}

void OutputRequest::fail(const Error& error, double now) {
  error_ = error;
  for (Choice& choice : choices_) {
    if (!choice.finished) {
      close(choice, FinishReason::kError, now);
    }
  }
}

void OutputRequest::add_prompt_logprobs(PromptLogprobRows&& rows) {
  for (size_t i = 0; i < rows.logprobs.size(); ++i) {
    const size_t position = static_cast<size_t>(rows.first_position) + i;
    if (position < prompt_logprobs_.size()) {
      prompt_logprobs_[position] = std::move(rows.logprobs[i]);
    }
  }
}

void OutputRequest::emit() {
  RequestOutput output;
  with_memory([&] {  // from here on nothing of the deltas can be lost
    output.choices.reserve(choices_.size());
    output.error = error_;
    for (Choice& choice : choices_) {
      choice.delta.control_tokens.reserve(choice.delta.control_tokens.size() +
                                          choice.controls.size());
    }
  });
  for (Choice& choice : choices_) {
    ChoiceDelta& delta = choice.delta;
    // Token ids wait for the text they belong to.
    const bool has_text = choice.detokenizer ? !delta.text.empty() : !delta.token_ids.empty();
    if (has_text || delta.finish_reason) {
      give_controls(choice);
      const int32_t index = delta.index;
      output.choices.push_back(std::exchange(delta, ChoiceDelta{.index = index}));
    }
  }
  if (output.choices.empty()) {
    return;
  }
  output.request_id = id_;
  output.finished = finished();
  output.num_prompt_tokens = num_prompt_tokens_;
  output.num_cached_tokens = num_cached_tokens_;
  output.num_generated_tokens = num_generated_tokens_;
  output.prompt_logprobs = std::exchange(prompt_logprobs_, {});
  output.timing = timing_;
  callback_(std::move(output));
}

void OutputProcessor::process(std::vector<OutputBatch>& batches) {
  for (OutputBatch& batch : batches) {
    for (std::unique_ptr<OutputRequest>& request : batch.added) {
      const RequestId id = request->id();
      request->metrics_ = metrics_;
      with_memory([&] {
        if (touched_.capacity() <= requests_.size()) touched_.reserve(2 * requests_.size() + 16);
        requests_.try_emplace(id);
      });
      requests_[id] = std::move(request);
    }
    for (SequenceUpdate& update : batch.updates) {
      apply(std::move(update), batch.now);
    }
    if (batch.fatal) {
      for (const auto& [id, request] : requests_) {
        with_memory([&] { request->fail(*batch.fatal, batch.now); });
        touch(*request);
      }
    }
  }
  for (OutputRequest* request : touched_) {
    request->touched_ = false;
    emit(*request);
  }
  touched_.clear();
}

void OutputProcessor::apply(SequenceUpdate&& update, double now) {
  const auto found = requests_.find(update.request_id);
  if (found == requests_.end()) {
    return;  // it ended on a stop string, or its callback failed
  }
  OutputRequest& request = *found->second;
  touch(request);
  const int32_t choice = update.choice;
  try {
    if (request.apply(std::move(update), now)) {
      hooks_.stop_choice(request.id(), choice);
    }
  } catch (const std::exception& error) {
    // Out of memory, in practice: this request ends, the others go on.
    log_error("request {}: {}", request.id(), error.what());
    with_memory([&] { request.fail(output_error(), now); });
    hooks_.abort(request.id());
  }
}

void OutputProcessor::touch(OutputRequest& request) {
  if (!request.touched_) {
    request.touched_ = true;
    touched_.push_back(&request);
  }
}

void OutputProcessor::emit(OutputRequest& request) {
  const RequestId id = request.id();
  bool delivered = true;
  try {
    request.emit();
  } catch (const std::exception& error) {
    log_error("request {}: its callback failed: {}", id, error.what());
    delivered = false;
  }
  if (!delivered && !request.finished()) {
    hooks_.abort(id);
  }
  if (!delivered || request.finished()) {
    requests_.erase(id);
    hooks_.done(id);
  }
}

}  // namespace atom
