#include "atom/model_engine/gpu_model_runner.h"

#include <algorithm>
#include <array>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "atom/core/thread_pool.h"
#include "atom/core/trace.h"
#include "atom/model_engine/device_handles.h"
#include "atom/model_engine/penalty_slots.h"
#include "atom/model_engine/prompt_scorer.h"
#include "atom/model_engine/step_annotation.h"
#include "atom/model_engine/step_buffers.h"
#include "atom/model_engine/step_graphs.h"
#include "atom/model_engine/step_staging.h"
#include "atom/model_engine/warm_up.h"
#include "atom/model_ops/device_weights.h"
#include "atom/model_ops/traced_ops.h"
#include "atom/models/causal_lm.h"

namespace atom {
namespace {

constexpr int kMaxInFlight = 2;
// More threads do not read faster (8 reach the bus on an H200).
constexpr int kMaxLoadThreads = 8;

// Tokens of a step that holds prompts and decodes: what the device computes in this time, in whole
// tiles of its products; not below what launching a step of a small model takes. 1280 for an 8B
// model on an H200. 64 clients there, 1024 tokens in, 256 out: 384 tokens a step gave 4501 to 4640
// tokens/s, 768 4775, 1024 4796, 1280 4885; running answers pause for 14, 23, 29 and 34 ms.
constexpr double kMixedStepSeconds = 0.034;
constexpr int64_t kMinMixedTokens = 256;
constexpr int64_t kRowTile = 128;  // of the device's products

constexpr int64_t kScoringBytes = 4 << 20;  // of prompt logprobs, beyond the logits of a step

StagingLimits limits_of(const EngineConfig& config, const MemoryPlan& plan) {
  const int64_t block_size = config.cache.block_size;
  return {.max_tokens = plan.step_tokens,
          .max_seqs = config.scheduler.max_num_seqs,
          .block_size = block_size,
          .table_stride = (plan.max_model_len + block_size - 1) / block_size,
          .vocab_size = plan.vocab_size};
}

class GpuModelRunner final : public Executor {
 public:
  GpuModelRunner(const EngineConfig& config, const GpuDevice& gpu, const MemoryPlan& plan)
      : backend_(*gpu.backend),
        runtime_(*gpu.backend->runtime),
        gpu_(gpu),
        plan_(plan),
        limits_(limits_of(config, plan)),
        staging_(limits_),
        penalties_(limits_.max_seqs),
        graphs_(runtime_) {
    if (config.level >= 2 && !config.enforce_eager) {
      for (const int size : config.capture_sizes) {
        if (size <= limits_.max_seqs && size <= limits_.max_tokens) {
          graphs_.add_size(size);
        }
      }
    }
    ctx_.ops = backend_.op_table(config.level);
    ctx_.arena = &arena_;
    ctx_.device = gpu.device;
    ctx_.runtime = &runtime_;
    ctx_.batch_invariant = config.deterministic;
    if (!config.profiler.dir.empty()) {
      attach_profiler();
    }
  }

  ~GpuModelRunner() override {
    if (compute_) {
      (void)runtime_.set_device(gpu_.device.index);
      (void)runtime_.synchronize(copy_.get());
      (void)runtime_.synchronize(compute_.get());
    }
    graphs_.clear();
    if (ctx_.backend != nullptr) {
      backend_.destroy_context(ctx_.backend);
    }
  }

  Status load(const EngineConfig& config, const std::shared_ptr<const Checkpoint>& checkpoint) {
    const ModelConfig& model = checkpoint->config();
    ATOM_ASSIGN_OR_RETURN(compute_, make_stream(runtime_));
    ATOM_ASSIGN_OR_RETURN(copy_, make_stream(runtime_));
    for (int i = 0; i < kMaxInFlight; ++i) {
      ATOM_ASSIGN_OR_RETURN(copied_[static_cast<size_t>(i)], make_event(runtime_));
      ATOM_ASSIGN_OR_RETURN(done_[static_cast<size_t>(i)], make_event(runtime_));
    }
    ctx_.stream = compute_.get();
    const GpuContextOptions options{
        .device = gpu_.device.index,
        .max_tokens = limits_.max_tokens,
        .max_seqs = limits_.max_seqs,
        .max_model_len = plan_.max_model_len,
        .block_size = limits_.block_size,
        .kv_dtype = kv_cache_dtype(config),
        .vocab_size = model.vocab_size,
        .hidden_size = model.hidden_size,
        .intermediate_size = model.intermediate_size,
        .num_heads = model.num_attention_heads,
        .num_kv_heads = model.num_key_value_heads,
        .head_dim = model.head_dim,
        .latent_attention = model.latent.kv_lora_rank > 0,
        .fp8_weights =
            config.model.quantization == Quantization::kFP8 || has_fp8_rows(model.quantization),
        .packed_weights = has_packed(model.quantization),
        .deterministic = config.deterministic};
    ATOM_RETURN_IF_ERROR(
        device_status(backend_.create_context(options, &ctx_.backend), gpu_.properties.name));
    ATOM_RETURN_IF_ERROR(load_weights(config, checkpoint));
    ATOM_ASSIGN_OR_RETURN(Buffer workspace, Buffer::allocate_device(runtime_, plan_.workspace));
    arena_ = Arena(std::move(workspace));
    ATOM_ASSIGN_OR_RETURN(buffers_, StepBuffers::allocate(backend_, limits_, staging_.area_bytes(),
                                                          model.vocab_size));
    ATOM_RETURN_IF_ERROR(clear_device_state());
    ATOM_RETURN_IF_ERROR(measure_workspace(kv_cache_dtype(config)));
    ATOM_RETURN_IF_ERROR(fit_kv_cache(config));
    ATOM_RETURN_IF_ERROR(allocate_kv_cache(kv_cache_dtype(config), plan_.num_blocks));
    return warm_up();
  }

  const MemoryPlan& plan() const { return plan_; }

  ExecutorCapacity capacity() const override {
    return {.num_blocks = plan_.num_blocks,
            .block_size = limits_.block_size,
            .max_in_flight = kMaxInFlight,
            .max_step_tokens = limits_.max_tokens,
            .max_mixed_tokens = mixed_tokens(),
            .row_tile = kRowTile};
  }

  Status submit(const ScheduledBatch& batch) override {
    if (flights_.size() >= kMaxInFlight) {
      return make_error(ErrorCode::kInternal, "more than {} steps in flight", kMaxInFlight);
    }
    const trace::Zone zone([&] { return step_annotation(batch); });
    ATOM_RETURN_IF_ERROR(bind_thread());
    if (is_broken_) {
      ATOM_RETURN_IF_ERROR(recover());
    }
    is_broken_ = true;  // until everything is on its way
    StepOutput prompts{.step = batch.step, .rows = {}, .prompt_logprobs = {}};
    ATOM_ASSIGN_OR_RETURN(StagedStep step, run(batch, prompts));
    is_broken_ = false;
    flights_.push_back(
        {.number = num_steps_++, .staged = std::move(step), .output = std::move(prompts)});
    return {};
  }

  Result<StepOutput> collect() override {
    if (flights_.empty()) {
      return make_error(ErrorCode::kInternal, "collect() without a submitted step");
    }
    Flight flight = std::move(flights_.front());
    flights_.pop_front();
    if (const DeviceStatus failed =
            runtime_.synchronize_event(done_[flight.number % kMaxInFlight].get())) {
      is_broken_ = true;
      return make_error(ErrorCode::kInternal, "the device failed: {}", failed);
    }
    read_results(flight);
    return std::move(flight.output);
  }

  const DeviceTracer* device_tracer() const override { return tracer_; }

 private:
  struct Flight {
    uint64_t number = 0;
    StagedStep staged;
    StepOutput output;
  };

  int64_t mixed_tokens() const {
    const int64_t tokens = tokens_in(kMixedStepSeconds, plan_, gpu_);
    return std::max(kMinMixedTokens, (tokens + kRowTile - 1) / kRowTile * kRowTile);
  }

  Status bind_thread() {
    if (bound_thread_ != std::this_thread::get_id()) {
      ATOM_RETURN_IF_ERROR(device_status(runtime_.set_device(gpu_.device.index), "set device"));
      bound_thread_ = std::this_thread::get_id();
    }
    return {};
  }

  // Before the first graph is captured: only then is its work traced later.
  void attach_profiler() {
    traced_ops_ = make_traced_ops(*ctx_.ops);
    ctx_.ops = &traced_ops_;
    if (backend_.tracer == nullptr) {
      log_warning("traces will lack the device: this backend cannot trace it");
    } else if (const DeviceStatus refused = backend_.tracer->prepare()) {
      log_warning("traces will lack the device: {}", refused);
    } else {
      tracer_ = backend_.tracer;
    }
  }

  // --- loading ---

  Status load_weights(const EngineConfig& config,
                      const std::shared_ptr<const Checkpoint>& checkpoint) {
    int64_t before = 0, after = 0, total = 0;
    ATOM_RETURN_IF_ERROR(device_status(runtime_.memory_info(&before, &total), "memory info"));
    ThreadPool pool(std::min(config.num_threads, kMaxLoadThreads));
    ctx_.parallel = pool.parallel_for();
    ATOM_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceUploader> uploader,
                          DeviceUploader::create(runtime_, gpu_.device.index, ctx_.parallel));
    ctx_.uploader = uploader.get();
    auto model = load_model(ctx_, checkpoint,
                            {.compute = config.model.dtype,
                             .dummy = config.model.load_dummy,
                             .quantization = config.model.quantization});
    ctx_.uploader = nullptr;
    ctx_.parallel = {};
    if (!model) {
      return std::unexpected(std::move(model.error()));
    }
    model_ = std::move(*model);
    ATOM_RETURN_IF_ERROR(device_status(runtime_.memory_info(&after, &total), "memory info"));
    plan_.weights = before - after;
    return {};
  }

  // Zeroes what kernels count in.
  Status clear_device_state() {
    const DeviceStream stream = compute_.get();
    ATOM_RETURN_IF_ERROR(device_status(
        runtime_.fill_async(buffers_.device.data(), 0, buffers_.device.size(), stream), "clear"));
    for (const Buffer* buffer : {&buffers_.sampler_workspace, &buffers_.token_counts}) {
      ATOM_RETURN_IF_ERROR(
          device_status(runtime_.fill_async(buffer->data(), 0, buffer->size(), stream), "clear"));
    }
    return device_status(runtime_.synchronize(stream), "clear");
  }

  // What is left once weights and workspace are there, now that both are known.
  Status fit_kv_cache(const EngineConfig& config) {
    int64_t free_bytes = 0, total = 0;
    ATOM_RETURN_IF_ERROR(device_status(runtime_.memory_info(&free_bytes, &total), "memory info"));
    plan_.workspace = plan_.device_free - free_bytes - plan_.weights;
    return plan_kv_cache(config, plan_);
  }

  // Runs the largest step there can be, with a cache of one block, and gives the arena what it
  // used.
  Status measure_workspace(DType kv_dtype) {
    ATOM_RETURN_IF_ERROR(allocate_kv_cache(kv_dtype, 1));
    const int64_t num_seqs = std::min(limits_.max_seqs, limits_.max_tokens);
    const int64_t num_tokens = std::min(limits_.max_tokens, num_seqs * plan_.max_model_len);
    ATOM_RETURN_IF_ERROR(run_alone(num_seqs, num_tokens));
    if (backend_.tune != nullptr) {
      ATOM_RETURN_IF_ERROR(device_status(
          backend_.tune(ctx_.backend, arena_.data(), arena_.capacity(), compute_.get()),
          "choosing algorithms"));
    }
    const int64_t needed = arena_.peak() + kScoringBytes;
    arena_ = Arena();
    ATOM_ASSIGN_OR_RETURN(Buffer workspace, Buffer::allocate_device(runtime_, needed));
    arena_ = Arena(std::move(workspace));
    kv_caches_.clear();
    kv_ = Buffer();
    return {};
  }

  // Every captured size: once eagerly, once captured.
  Status warm_up() {
    for (const int64_t size : graphs_.sizes()) {
      for (int i = 0; i < 2; ++i) {
        ATOM_RETURN_IF_ERROR(run_alone(size, size));
      }
    }
    return {};
  }

  Status run_alone(int64_t num_seqs, int64_t num_tokens) {
    const WarmUpBatch made_up(num_seqs, num_tokens, limits_.block_size);
    ATOM_RETURN_IF_ERROR(submit(made_up.batch()));
    const Result<StepOutput> output = collect();
    return output ? Status() : std::unexpected(output.error());
  }

  Status allocate_kv_cache(DType dtype, int64_t num_blocks) {
    const KvCacheSpec spec = model_->kv_cache_spec();
    const int64_t half =
        dtype_bytes(dtype, num_blocks * spec.num_kv_heads * limits_.block_size * spec.head_dim);
    const int64_t layer_bytes = spec.has_values ? 2 * half : half;
    ATOM_ASSIGN_OR_RETURN(kv_, Buffer::allocate_device(runtime_, layer_bytes * spec.num_layers));
    auto* next = static_cast<char*>(kv_.data());
    for (int64_t layer = 0; layer < spec.num_layers; ++layer, next += layer_bytes) {
      kv_caches_.push_back({.k = next,
                            .v = spec.has_values ? next + half : nullptr,
                            .dtype = dtype,
                            .num_blocks = num_blocks,
                            .num_kv_heads = spec.num_kv_heads,
                            .block_size = limits_.block_size,
                            .head_dim = spec.head_dim});
    }
    return {};
  }

  // --- a step ---

  // A failed step leaves unknown what the device has done: wait for it, and start counting anew.
  Status recover() {
    ATOM_RETURN_IF_ERROR(device_status(runtime_.synchronize(copy_.get()), "recovering"));
    ATOM_RETURN_IF_ERROR(device_status(runtime_.synchronize(compute_.get()), "recovering"));
    ATOM_RETURN_IF_ERROR(clear_device_state());
    flights_.clear();
    staging_.forget_tables();
    penalties_.forget_all();
    num_steps_ = 0;
    return {};
  }

  Result<StagedStep> run(const ScheduledBatch& batch, StepOutput& prompts) {
    StepGraphs::Graph* graph = graphs_.find(batch);
    ATOM_RETURN_IF_ERROR(choose_count_slots(batch));
    const uint64_t number = num_steps_;
    ATOM_ASSIGN_OR_RETURN(StagedStep step,
                          staging_.write(batch, graph != nullptr ? graph->size : 0, count_slots_,
                                         buffers_.host_area(number)));
    const DeviceEvent copied = copied_[number % kMaxInFlight].get();
    ATOM_RETURN_IF_ERROR(
        device_status(runtime_.copy_async(buffers_.device_area(number), buffers_.host_area(number),
                                          step.bytes, copy_.get()),
                      "copying inputs"));
    ATOM_RETURN_IF_ERROR(device_status(runtime_.record_event(copied, copy_.get()), "inputs"));
    ATOM_RETURN_IF_ERROR(device_status(runtime_.wait_event(compute_.get(), copied), "inputs"));
    if (graph != nullptr) {
      step.max_context_len = plan_.max_model_len;  // of any replay
      step.mean_context_len = graph->is_long ? StepGraphs::kLongContext : 0;
      ATOM_RETURN_IF_ERROR(
          graphs_.run(*graph, compute_.get(), [&] { return enqueue(step, nullptr, nullptr); }));
    } else {
      ATOM_RETURN_IF_ERROR(enqueue(step, &batch, &prompts));
    }
    ATOM_RETURN_IF_ERROR(device_status(runtime_.last_launch_error(), "launching a step"));
    ATOM_RETURN_IF_ERROR(device_status(
        runtime_.record_event(done_[number % kMaxInFlight].get(), compute_.get()), "step"));
    return step;
  }

  void set_attention(const StagedStep& step) {
    attention_ = {.num_tokens = step.num_tokens,
                  .num_seqs = step.num_seqs,
                  .max_query_len = step.max_query_len,
                  .max_context_len = step.max_context_len,
                  .mean_context_len = step.mean_context_len,
                  .block_size = limits_.block_size,
                  .block_table_stride = limits_.table_stride,
                  .query_start = buffers_.inputs.query_start,
                  .context_lens = buffers_.inputs.context_lens,
                  .block_tables = buffers_.inputs.block_tables,
                  .positions = buffers_.inputs.positions,
                  .slot_mapping = buffers_.inputs.slot_mapping};
    ctx_.attention = &attention_;
  }

  // Everything a step does on the compute stream. `batch` and `prompts`: for prompt logprobs, where
  // any are asked for; never in a captured step.
  Status enqueue(const StagedStep& step, const ScheduledBatch* batch, StepOutput* prompts) {
    backend_.prepare_step(buffers_.prepare_args(), compute_.get());
    set_attention(step);
    arena_.reset();
    if (ctx_.ops->begin_step != nullptr) {
      ctx_.ops->begin_step(ctx_);
    }
    const Tensor ids(buffers_.inputs.token_ids, DType::kI32, {step.num_tokens}, ctx_.device);
    const Tensor hidden = model_->forward(ctx_, ids, kv_caches_);
    if (step.num_sample_rows > 0) {
      const int64_t scratch = arena_.mark();
      const Tensor logits = logits_of(hidden, step);
      backend_.sample_tokens(buffers_.sample_args(logits), buffers_.max_rows, compute_.get());
      arena_.rewind(scratch);
    }
    if (batch != nullptr) {
      ATOM_RETURN_IF_ERROR(score_prompts({.backend = backend_,
                                          .ctx = ctx_,
                                          .model = *model_,
                                          .buffers = buffers_,
                                          .stream = compute_.get()},
                                         *batch, hidden, *prompts));
    }
    backend_.publish_step(buffers_.publish_args(), compute_.get());
    return {};
  }

  Tensor logits_of(const Tensor& hidden, const StagedStep& step) {
    const int64_t num_rows = step.num_sample_rows;
    if (num_rows == step.num_tokens) {
      return model_->compute_logits(ctx_, hidden);  // every row is sampled, in order
    }
    Tensor picked = arena_.allocate(ctx_.ops->activation_dtype, {num_rows, hidden.dim(1)});
    ctx_.ops->gather_rows(ctx_, hidden,
                          Tensor(buffers_.inputs.sample_rows, DType::kI32, {num_rows}, ctx_.device),
                          picked);
    return model_->compute_logits(ctx_, picked);
  }

  // Sets the counts of sequences that are new to the device; rare, so the copy is waited for.
  Status choose_count_slots(const ScheduledBatch& batch) {
    count_slots_.clear();
    for (const ScheduledSequence& sequence : batch.sequences) {
      const PenaltySlots::Choice choice = penalties_.choose(sequence, num_steps_ + 1);
      count_slots_.push_back(choice.slot);
      if (choice.is_stale) {
        ATOM_RETURN_IF_ERROR(set_counts(sequence, choice.slot));
      }
    }
    return {};
  }

  Status set_counts(const ScheduledSequence& sequence, int32_t slot) {
    const auto num_tokens = static_cast<int64_t>(sequence.token_ids.size());
    ATOM_ASSIGN_OR_RETURN(const Buffer history, Buffer::allocate_device(runtime_, num_tokens * 4));
    ATOM_RETURN_IF_ERROR(
        device_status(runtime_.copy_async(history.data(), sequence.token_ids.data(), num_tokens * 4,
                                          compute_.get()),
                      "token counts"));
    const auto* tokens = static_cast<const int32_t*>(history.data());
    backend_.set_token_counts(
        {.token_counts = {.counts = static_cast<uint16_t*>(buffers_.token_counts.data()),
                          .num_slots = buffers_.max_rows},
         .vocab_size = buffers_.vocab_size,
         .slot = slot,
         .prompt_token_ids = tokens,
         .num_prompt_tokens = sequence.num_prompt_tokens,
         .output_token_ids = tokens + sequence.num_prompt_tokens,
         .num_output_tokens = num_tokens - sequence.num_prompt_tokens},
        compute_.get());
    return device_status(runtime_.synchronize(compute_.get()), "token counts");
  }

  void read_results(Flight& flight) const {
    const StagedStep& step = flight.staged;
    for (size_t row = 0; row < step.sample_ids.size(); ++row) {
      flight.output.rows.push_back(
          {.id = step.sample_ids[row],
           .token = buffers_.sampled_token(flight.number, row, step.num_logprobs[row])});
    }
  }

  const GpuBackend& backend_;
  const DeviceRuntime& runtime_;
  GpuDevice gpu_;
  MemoryPlan plan_;
  StagingLimits limits_;
  StepStaging staging_;
  PenaltySlots penalties_;
  std::vector<int32_t> count_slots_;

  OwnedStream compute_, copy_;
  std::array<OwnedEvent, kMaxInFlight> copied_, done_;
  StepGraphs graphs_;
  StepBuffers buffers_;
  Arena arena_;
  TracedOps traced_ops_;  // of an engine that can be profiled
  const DeviceTracer* tracer_ = nullptr;
  ExecContext ctx_;
  AttentionMetadata attention_;
  std::unique_ptr<CausalLM> model_;
  Buffer kv_;
  std::vector<PagedKvCache> kv_caches_;

  std::deque<Flight> flights_;
  uint64_t num_steps_ = 0;  // submitted since the device state was cleared; StepState::step follows
  bool is_broken_ = false;
  std::thread::id bound_thread_;
};

}  // namespace

Result<std::unique_ptr<Executor>> make_gpu_model_runner(
    const EngineConfig& config, const GpuDevice& gpu, std::shared_ptr<const Checkpoint> checkpoint,
    MemoryPlan& plan) {
  if (config.speculative.method != DraftMethod::kNone) {
    return std::unexpected(Error{.code = ErrorCode::kUnsupported,
                                 .message = "--method: speculative decoding on a GPU is not "
                                            "supported yet; leave it out, or use --device cpu",
                                 .param = "--method"});
  }
  std::string missing;
  for (const std::string& op : missing_ops(*gpu.backend)) {
    missing += (missing.empty() ? "" : ", ") + op;
  }
  if (!missing.empty()) {
    return make_error(ErrorCode::kUnsupported, "the backend of {} lacks: {}", gpu.properties.name,
                      missing);
  }
  ATOM_ASSIGN_OR_RETURN(plan, plan_device_memory(config, *checkpoint, gpu));
  auto runner = std::make_unique<GpuModelRunner>(config, gpu, plan);
  ATOM_RETURN_IF_ERROR(runner->load(config, checkpoint));
  plan = runner->plan();
  return runner;
}

}  // namespace atom
