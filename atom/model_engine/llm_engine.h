// LLMEngine: the public engine. Owns tokenizer, chat template, scheduler thread, output thread and
// executor. add_request, abort and the accessors are thread-safe; results arrive on the output
// thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "atom/chat_template/chat_template.h"
#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/model_engine/draft_stats.h"
#include "atom/model_engine/engine_metrics.h"
#include "atom/model_engine/executor.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/model_config.h"
#include "atom/request_output.h"
#include "atom/structured_output/grammar_compiler.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

// kStalled: there is work, and no step has ended for longer than steps take.
// kDead: the device was given up after repeated failures; nothing is served any more.
enum class EngineCondition { kOk, kStalled, kDead };

// A consistent snapshot for /metrics, logs and /health.
struct EngineStats {
  EngineCondition condition = EngineCondition::kOk;
  double seconds_since_progress = 0;  // 0 when there is nothing to do
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_blocks = 0;
  int64_t num_free_blocks = 0;  // free or evictable
  int64_t block_size = 0;       // tokens
  int64_t prompt_tokens = 0;    // totals since start
  int64_t cached_prompt_tokens = 0;
  int64_t generation_tokens = 0;
  int64_t prefix_cache_queries = 0;  // tokens
  int64_t prefix_cache_hits = 0;
  int64_t num_preemptions = 0;
  int64_t num_steps = 0;
  DraftMethod draft_method = DraftMethod::kNone;
  int max_draft_tokens = 0;  // of one draft
  DraftStats drafts;
};

// One completed choice of generate(); keys as in the Python API (spec section 4).
struct GenerationResult {
  std::string text;
  std::vector<int32_t> token_ids;
  FinishReason finish_reason = FinishReason::kStop;
  int64_t num_tokens_input = 0;
  int64_t num_tokens_output = 0;
  double latency = 0;  // seconds
  double ttft = 0;
  double tpot = 0;
  std::vector<TokenLogprobs> logprobs;  // one per token id when asked
  // Of the request, with its first choice, when asked: entry 0 is empty.
  std::vector<std::optional<TokenLogprobs>> prompt_logprobs;
};

// What an engine is made of, when it does not come from a checkpoint: any Executor, such as the
// scripted one of tests/support.
struct EngineParts {
  std::unique_ptr<Executor> executor;
  std::shared_ptr<const Tokenizer> tokenizer;         // nullptr: outputs carry token ids, no text
  std::shared_ptr<const ChatTemplate> chat_template;  // nullptr: the model has none
  std::string chat_template_source;                   // as the checkpoint has it; empty: none
  ModelConfig model;  // vocab_size, eos_token_ids and max_position_embeddings are used
  GenerationDefaults generation_defaults;
  SchedulerConfig scheduler;
  SpeculativeConfig speculative;
  ProfilerConfig profiler;
  bool enable_prefix_caching = true;
  uint64_t seed = 0;
};

class LLMEngine {
 public:
  // Resolves and loads the model, plans memory, starts the threads; logs phase times and the memory
  // plan.
  static Result<std::unique_ptr<LLMEngine>> create(const EngineConfig& config);
  static Result<std::unique_ptr<LLMEngine>> create_with(EngineParts parts);
  ~LLMEngine();  // aborts what is left
  LLMEngine(const LLMEngine&) = delete;
  LLMEngine& operator=(const LLMEngine&) = delete;

  // Refuses (kInvalidArgument) a prompt that can never fit the context or the cache and ids outside
  // the vocabulary, and (kUnavailable) anything after drain() began.
  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback);
  // What add_request() does with sampling.grammar: may take seconds, and one runs at a time. A
  // caller who must not wait that long asks find_grammar() first, which knows only what is
  // compiled.
  Result<std::shared_ptr<const CompiledGrammar>> compile_grammar(const GrammarSpec& spec,
                                                                 double* seconds_left = nullptr);
  std::shared_ptr<const CompiledGrammar> find_grammar(const GrammarSpec& spec);
  // Idempotent, legal in any state. The request ends with kAbort.
  void abort(RequestId id);

  // Blocks until every prompt is done; results in the order of the prompts (n choices each). One
  // entry of `params` is for all prompts. `interrupted` is asked every 50 ms: true aborts
  // everything and gives kUnavailable.
  Result<std::vector<GenerationResult>> generate(const std::vector<std::vector<int32_t>>& prompts,
                                                 const std::vector<SamplingParams>& params,
                                                 const std::function<bool()>& interrupted = {});

  // A trace of everything until stop_profile(), into a folder below ProfilerConfig::dir. Refused
  // (kInvalidArgument) without such a folder, and while one is taken.
  Status start_profile(const std::string& output_dir = {});
  // Returns when the traces are written: their paths.
  Result<std::vector<std::string>> stop_profile();

  // No new requests; waits for the running ones up to `deadline`, then aborts them.
  void drain(std::chrono::milliseconds deadline);

  const std::shared_ptr<const Tokenizer>& tokenizer() const;
  const ChatTemplate* chat_template() const;        // nullptr: the model has none
  const std::string& chat_template_source() const;  // empty: the model has none
  const ModelConfig& model_config() const;
  const GenerationDefaults& generation_defaults() const;
  int64_t max_model_len() const;
  EngineStats stats() const;
  const EngineMetrics& metrics() const;

 private:
  struct Impl;
  explicit LLMEngine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atom
