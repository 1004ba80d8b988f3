#include "atom/model_engine/model_runner.h"

#include <algorithm>
#include <ctime>
#include <deque>
#include <utility>
#include <vector>

#include "atom/core/log.h"
#include "atom/core/thread_pool.h"
#include "atom/core/trace.h"
#include "atom/model_engine/drafter.h"
#include "atom/model_engine/gpu_model_runner.h"
#include "atom/model_engine/input_builder.h"
#include "atom/model_engine/step_annotation.h"
#include "atom/model_ops/gpu_backend.h"
#include "atom/model_ops/traced_ops.h"
#include "atom/models/causal_lm.h"

namespace atom {
namespace {

// Of all threads: what a step costs, whoever else has the processors.
double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Runs on the CPU backend: a step is computed in submit(), its output waits for collect().
class CpuModelRunner final : public Executor {
 public:
  CpuModelRunner(const EngineConfig& config, const MemoryPlan& plan)
      : plan_(plan),
        block_size_(config.cache.block_size),
        max_step_tokens_(max_step_tokens(config)),
        pool_(config.num_threads) {
    ctx_.ops = &cpu_op_table(config.level);
    if (!config.profiler.dir.empty()) {
      traced_ops_ = make_traced_ops(*ctx_.ops);
    }
    ctx_.parallel = pool_.parallel_for();
    ctx_.arena = &arena_;
  }

  Status load(const EngineConfig& config, std::shared_ptr<const Checkpoint> checkpoint) {
    ATOM_ASSIGN_OR_RETURN(Buffer workspace, Buffer::allocate(plan_.workspace));
    arena_ = Arena(std::move(workspace));
    ATOM_ASSIGN_OR_RETURN(model_,
                          load_model(ctx_, std::move(checkpoint),
                                     {.compute = config.model.dtype,
                                      .dummy = config.model.load_dummy,
                                      .draft_layer = config.speculative.method == DraftMethod::kMtp,
                                      .quantize_drafts = true}));
    if (traced_ops_.base != nullptr) {
      ctx_.ops = &traced_ops_;
    }
    return allocate_kv_cache(kv_cache_dtype(config));
  }

  ExecutorCapacity capacity() const override {
    return {.num_blocks = plan_.num_blocks,
            .block_size = block_size_,
            .max_in_flight = 1,
            .max_step_tokens = max_step_tokens_};
  }

  Status submit(const ScheduledBatch& batch) override {
    const trace::Zone zone([&] { return step_annotation(batch); });
    inputs_.build(batch, block_size_);
    ctx_.attention = &inputs_.attention();
    arena_.reset();
    const std::span<const int32_t> ids = inputs_.token_ids();
    const Tensor token_ids(const_cast<int32_t*>(ids.data()), DType::kI32,
                           {static_cast<int64_t>(ids.size())});
    const Tensor hidden = model_->forward(ctx_, token_ids, kv_caches_);

    StepOutput output{.step = batch.step, .rows = {}, .draft_token_ids = {}, .prompt_logprobs = {}};
    sample_rows(batch, hidden, output);
    score_prompts(batch, hidden, output);
    if (batch.drafting) {
      const double before = processor_seconds();
      drafter_.run(ctx_, *model_, kv_caches_, batch, inputs_, hidden, output);
      output.draft_seconds = processor_seconds() - before;
    }
    const double spent = processor_seconds();
    output.seconds = spent - std::exchange(spent_before_, spent);
    outputs_.push_back(std::move(output));
    return {};
  }

  Result<StepOutput> collect() override {
    if (outputs_.empty()) {
      return make_error(ErrorCode::kInternal, "collect() without a submitted step");
    }
    StepOutput output = std::move(outputs_.front());
    outputs_.pop_front();
    return output;
  }

 private:
  Status allocate_kv_cache(DType dtype) {
    const KvCacheSpec spec = model_->kv_cache_spec();
    const int64_t half =
        dtype_bytes(dtype, plan_.num_blocks * spec.num_kv_heads * block_size_ * spec.head_dim);
    for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
      ATOM_ASSIGN_OR_RETURN(Buffer k, Buffer::allocate(half));
      ATOM_ASSIGN_OR_RETURN(Buffer v, Buffer::allocate(spec.has_values ? half : 0));
      kv_caches_.push_back({.k = k.data(),
                            .v = v.data(),
                            .dtype = dtype,
                            .num_blocks = plan_.num_blocks,
                            .num_kv_heads = spec.num_kv_heads,
                            .block_size = block_size_,
                            .head_dim = spec.head_dim});
      kv_buffers_.push_back(std::move(k));
      kv_buffers_.push_back(std::move(v));
    }
    return {};
  }

  // Logits of hidden rows [begin, begin + rows.size()) picked by `rows`; lives in the arena until
  // rewound.
  Tensor logits_of(const Tensor& hidden, std::span<const int32_t> rows) {
    Tensor picked =
        arena_.allocate(DType::kF32, {static_cast<int64_t>(rows.size()), hidden.dim(1)});
    const Tensor row_ids(const_cast<int32_t*>(rows.data()), DType::kI32, {picked.dim(0)});
    ctx_.ops->gather_rows(ctx_, hidden, row_ids, picked);
    return model_->compute_logits(ctx_, picked);
  }

  void sample_rows(const ScheduledBatch& batch, const Tensor& hidden, StepOutput& output) {
    const std::span<const int32_t> rows = inputs_.sample_rows();
    std::vector<SampledToken> tokens(rows.size());
    for (size_t begin = 0; begin < rows.size(); begin += kLogitRows) {
      const size_t count = std::min<size_t>(kLogitRows, rows.size() - begin);
      const int64_t scratch = arena_.mark();
      const Tensor logits = logits_of(hidden, rows.subspan(begin, count));
      ctx_.ops->sample(ctx_, logits, inputs_.sampling().subspan(begin, count),
                       std::span(tokens).subspan(begin, count));
      arena_.rewind(scratch);
    }
    for (const SampledSequence& sampled : inputs_.sampled()) {
      const ScheduledSequence& sequence = batch.sequences[static_cast<size_t>(sampled.sequence)];
      accept_rows(sequence, std::span(tokens).subspan(static_cast<size_t>(sampled.first)), output);
    }
  }

  // Drafts are accepted as long as they are what was sampled; `tokens` begin with the sequence's.
  static void accept_rows(const ScheduledSequence& sequence, std::span<SampledToken> tokens,
                          StepOutput& output) {
    const std::span<const int32_t> drafts = sequence.draft_token_ids;
    for (size_t i = 0; i <= drafts.size(); ++i) {
      const int32_t token = tokens[i].token_id;
      output.rows.push_back({.id = sequence.id, .token = std::move(tokens[i])});
      if (i == drafts.size() || token != drafts[i]) {
        return;
      }
    }
  }

  void score_prompts(const ScheduledBatch& batch, const Tensor& hidden, StepOutput& output) {
    const std::span<const PromptLogprobTarget> targets = inputs_.prompt_targets();
    for (size_t begin = 0; begin < targets.size();) {
      // One chunk stays within one sequence, whose num_top applies to all its rows.
      size_t end = begin + 1;
      while (end < targets.size() && end - begin < static_cast<size_t>(kLogitRows) &&
             targets[end].sequence == targets[begin].sequence) {
        ++end;
      }
      score_chunk(batch, hidden, targets.subspan(begin, end - begin), output);
      begin = end;
    }
  }

  void score_chunk(const ScheduledBatch& batch, const Tensor& hidden,
                   std::span<const PromptLogprobTarget> targets, StepOutput& output) {
    const ScheduledSequence& sequence = batch.sequences[static_cast<size_t>(targets[0].sequence)];
    std::vector<int32_t> rows, ids;
    for (const PromptLogprobTarget& target : targets) {
      rows.push_back(target.row);
      ids.push_back(target.token_id);
    }
    std::vector<SampledToken> scored(targets.size());
    const int64_t scratch = arena_.mark();
    const Tensor logits = logits_of(hidden, rows);
    ctx_.ops->token_logprobs(ctx_, logits, ids, *sequence.sampling->prompt_logprobs, scored);
    arena_.rewind(scratch);

    PromptLogprobRows result{
        .id = sequence.id, .first_position = targets[0].position, .logprobs = {}};
    for (SampledToken& token : scored) {
      result.logprobs.push_back(std::move(token.logprobs));
    }
    output.prompt_logprobs.push_back(std::move(result));
  }

  MemoryPlan plan_;
  int64_t block_size_;
  int64_t max_step_tokens_;
  ThreadPool pool_;
  TracedOps traced_ops_;  // of an engine that can be profiled
  Arena arena_;
  ExecContext ctx_;
  std::unique_ptr<CausalLM> model_;
  std::vector<Buffer> kv_buffers_;
  std::vector<PagedKvCache> kv_caches_;
  double spent_before_ = 0;  // processor_seconds() of the step before
  InputBuilder inputs_;
  Drafter drafter_;
  std::deque<StepOutput> outputs_;
};

}  // namespace

Result<std::unique_ptr<Executor>> make_model_runner(const EngineConfig& config,
                                                    std::shared_ptr<const Checkpoint> checkpoint,
                                                    MemoryPlan& plan) {
  if (config.device != DeviceType::kCpu || config.auto_device) {
    const DeviceType type = config.auto_device ? DeviceType::kCuda : config.device;
    Result<GpuDevice> gpu = open_gpu(type, 0);
    if (gpu) {
      return make_gpu_model_runner(config, *gpu, std::move(checkpoint), plan);
    }
    if (!config.auto_device) {
      return std::unexpected(std::move(gpu.error()));
    }
    if (gpu.error().code != ErrorCode::kNotFound) {  // a build for the CPU alone has nothing to say
      log_info("running on the CPU ({})", gpu.error().message);
    }
  }
  ATOM_ASSIGN_OR_RETURN(plan, plan_memory(config, *checkpoint));
  auto runner = std::make_unique<CpuModelRunner>(config, plan);
  ATOM_RETURN_IF_ERROR(runner->load(config, std::move(checkpoint)));
  return runner;
}

}  // namespace atom
