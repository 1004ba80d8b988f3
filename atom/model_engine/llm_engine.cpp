// LLMEngine over given parts, and generate(). Building the parts from a checkpoint is
// llm_engine_load.cpp.
#include "atom/model_engine/llm_engine.h"

#include <algorithm>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <optional>
#include <random>
#include <utility>

#include "atom/core/log.h"
#include "atom/model_engine/engine_core.h"
#include "atom/profiler/profiler.h"

namespace atom {
namespace {

// Prompts that generate() keeps in the engine at a time.
constexpr size_t kGenerateWindow = 4096;
constexpr std::chrono::milliseconds kInterruptPoll{50};

uint64_t random_salt() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// The results of one generate() call, filled on the output thread.
struct Collector {
  std::mutex mutex;
  std::condition_variable changed;
  size_t num_open = 0;
  std::optional<Error> error;
  std::vector<GenerationResult> results;

  void take(size_t first, RequestOutput&& output) {
    const std::lock_guard lock(mutex);
    for (ChoiceDelta& delta : output.choices) {
      GenerationResult& result = results[first + static_cast<size_t>(delta.index)];
      result.text += delta.text;
      result.token_ids.insert(result.token_ids.end(), delta.token_ids.begin(),
                              delta.token_ids.end());
      std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(result.logprobs));
      result.num_tokens_input = output.num_prompt_tokens;
      result.num_tokens_output = static_cast<int64_t>(result.token_ids.size());
      result.ttft = output.timing.ttft;
      if (delta.finish_reason) {
        result.finish_reason = *delta.finish_reason;
        result.latency = output.timing.latency;
        const auto intervals =
            static_cast<double>(std::max<int64_t>(1, result.num_tokens_output - 1));
        result.tpot = (result.latency - result.ttft) / intervals;
      }
    }
    if (!output.prompt_logprobs.empty()) {
      results[first].prompt_logprobs = std::move(output.prompt_logprobs);
    }
    if (output.error && !error) {
      error = std::move(output.error);
    }
    if (output.finished) {
      --num_open;
      changed.notify_all();
    }
  }

  // False: `interrupted` said so first.
  bool wait_below(size_t limit, const std::function<bool()>& interrupted) {
    std::unique_lock lock(mutex);
    const auto below = [&] { return num_open < limit; };
    if (!interrupted) {
      changed.wait(lock, below);
      return true;
    }
    while (!changed.wait_for(lock, kInterruptPoll, below)) {
      lock.unlock();
      if (interrupted()) {
        return false;
      }
      lock.lock();
    }
    return true;
  }
};

}  // namespace

struct LLMEngine::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;
  std::string chat_template_source;
  ModelConfig model;
  GenerationDefaults generation_defaults;
  int64_t max_model_len = 0;
  std::unique_ptr<GrammarCompiler> grammars;  // nullptr: there is no tokenizer
  std::unique_ptr<EngineCore> core;
  std::unique_ptr<Profiler> profiler;  // before the device that it traces goes
};

LLMEngine::LLMEngine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

LLMEngine::~LLMEngine() = default;

Result<std::unique_ptr<LLMEngine>> LLMEngine::create_with(EngineParts parts) {
  const ExecutorCapacity capacity = parts.executor->capacity();
  const int64_t cache_tokens = capacity.num_blocks * capacity.block_size;
  const int64_t wanted =
      parts.scheduler.max_model_len.value_or(parts.model.max_position_embeddings);
  if (cache_tokens <= 0 || wanted <= 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a context of {} tokens with {} KV blocks of {} tokens", wanted,
                      capacity.num_blocks, capacity.block_size);
  }
  if (wanted > cache_tokens) {
    log_warning("the KV cache holds {} tokens: the context length is {} instead of {}",
                cache_tokens, cache_tokens, wanted);
  }
  auto impl = std::make_unique<Impl>();
  impl->tokenizer = parts.tokenizer;
  if (parts.tokenizer) {
    impl->grammars = std::make_unique<GrammarCompiler>(parts.tokenizer, parts.model.vocab_size,
                                                       parts.model.eos_token_ids);
  }
  impl->chat_template = std::move(parts.chat_template);
  impl->chat_template_source = std::move(parts.chat_template_source);
  impl->model = std::move(parts.model);
  impl->generation_defaults = parts.generation_defaults;
  impl->max_model_len = std::min(wanted, cache_tokens);
  int64_t step_tokens = parts.scheduler.max_num_batched_tokens;
  if (capacity.max_step_tokens > 0) {
    step_tokens = std::min(step_tokens, capacity.max_step_tokens);
  }
  impl->profiler = std::make_unique<Profiler>(parts.profiler, parts.executor->device_tracer());
  impl->core = std::make_unique<EngineCore>(
      std::move(parts.executor), std::move(parts.tokenizer),
      EngineCoreOptions{.scheduler = {.max_num_batched_tokens = step_tokens,
                                      .max_mixed_tokens = capacity.max_mixed_tokens,
                                      .row_tile = capacity.row_tile,
                                      .max_num_seqs = parts.scheduler.max_num_seqs,
                                      .max_model_len = impl->max_model_len,
                                      .delay_factor = parts.scheduler.delay_factor,
                                      .num_blocks = capacity.num_blocks,
                                      .block_size = capacity.block_size,
                                      .enable_prefix_caching = parts.enable_prefix_caching,
                                      .cache_salt = random_salt(),
                                      .vocab_size = impl->model.vocab_size,
                                      .eos_token_ids = impl->model.eos_token_ids,
                                      .speculative = parts.speculative},
                        .seed = parts.seed});
  return std::unique_ptr<LLMEngine>(new LLMEngine(std::move(impl)));
}

Result<RequestId> LLMEngine::add_request(GenerationRequest request, OutputCallback callback) {
  if (request.sampling.grammar && !request.grammar) {
    ATOM_ASSIGN_OR_RETURN(request.grammar, compile_grammar(*request.sampling.grammar));
  }
  return impl_->core->add_request(std::move(request), std::move(callback));
}

Result<std::shared_ptr<const CompiledGrammar>> LLMEngine::compile_grammar(const GrammarSpec& spec,
                                                                          double* seconds_left) {
  if (!impl_->grammars) {
    return std::unexpected(Error{.code = ErrorCode::kUnsupported,
                                 .message = "structured outputs need a tokenizer",
                                 .param = spec.param});
  }
  return impl_->grammars->compile(spec, seconds_left);
}

std::shared_ptr<const CompiledGrammar> LLMEngine::find_grammar(const GrammarSpec& spec) {
  return impl_->grammars ? impl_->grammars->find(spec) : nullptr;
}

void LLMEngine::abort(RequestId id) { impl_->core->abort(id); }

Result<std::vector<GenerationResult>> LLMEngine::generate(
    const std::vector<std::vector<int32_t>>& prompts, const std::vector<SamplingParams>& params,
    const std::function<bool()>& interrupted) {
  if (params.size() != prompts.size() && params.size() != 1) {
    return make_error(ErrorCode::kInvalidArgument, "{} prompts but {} sampling parameters",
                      prompts.size(), params.size());
  }
  const auto collector = std::make_shared<Collector>();
  std::vector<RequestId> ids;
  const auto abort_all = [&] {
    for (const RequestId open : ids) {
      abort(open);
    }
  };
  std::optional<EngineCore::Hold> hold(std::in_place, *impl_->core);
  size_t first = 0;
  bool going = true;
  for (size_t i = 0; i < prompts.size() && going; ++i) {
    const SamplingParams& sampling = params[params.size() == 1 ? 0 : i];
    {
      const std::lock_guard lock(collector->mutex);
      collector->results.resize(first + static_cast<size_t>(std::max(sampling.n, 0)));
      ++collector->num_open;
    }
    Result<RequestId> id = add_request(
        {.prompt_token_ids = prompts[i], .sampling = sampling},
        [collector, first](RequestOutput&& output) { collector->take(first, std::move(output)); });
    if (!id) {
      abort_all();
      id.error().message = str_format("prompt {}: {}", i, id.error().message);
      return std::unexpected(std::move(id.error()));
    }
    ids.push_back(*id);
    first += static_cast<size_t>(sampling.n);
    if (ids.size() >= kGenerateWindow) {
      hold.reset();
    }
    going = collector->wait_below(kGenerateWindow, interrupted);
  }
  hold.reset();
  if (!going || !collector->wait_below(1, interrupted)) {
    abort_all();
    return make_error(ErrorCode::kUnavailable, "interrupted");
  }
  const std::lock_guard lock(collector->mutex);
  if (collector->error) {
    return std::unexpected(*collector->error);
  }
  return std::move(collector->results);
}

Status LLMEngine::start_profile(const std::string& output_dir) {
  return impl_->profiler->start(output_dir);
}

Result<std::vector<std::string>> LLMEngine::stop_profile() { return impl_->profiler->stop(); }

void LLMEngine::drain(std::chrono::milliseconds deadline) { impl_->core->drain(deadline); }

const std::shared_ptr<const Tokenizer>& LLMEngine::tokenizer() const { return impl_->tokenizer; }

const ChatTemplate* LLMEngine::chat_template() const { return impl_->chat_template.get(); }

const std::string& LLMEngine::chat_template_source() const { return impl_->chat_template_source; }

const ModelConfig& LLMEngine::model_config() const { return impl_->model; }

const GenerationDefaults& LLMEngine::generation_defaults() const {
  return impl_->generation_defaults;
}

int64_t LLMEngine::max_model_len() const { return impl_->max_model_len; }

EngineStats LLMEngine::stats() const { return impl_->core->stats(); }

const EngineMetrics& LLMEngine::metrics() const { return impl_->core->metrics(); }

}  // namespace atom
