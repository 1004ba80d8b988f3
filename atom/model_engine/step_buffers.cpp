#include "atom/model_engine/step_buffers.h"

namespace atom {
namespace {

constexpr int64_t kAlignment = 256;

// Gives out aligned pieces of a block, or measures them when there is none yet.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<uint8_t*>(base)) {}
  template <class T>
  void take(T*& out, int64_t count) {
    out = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

int64_t carve(StepBuffers& b, const StagingLimits& limits, void* base) {
  Carver carver(base);
  const int64_t rows = limits.max_seqs;
  carver.take(b.state, 1);
  carver.take(b.inputs.token_ids, limits.max_tokens);
  carver.take(b.inputs.positions, limits.max_tokens);
  carver.take(b.inputs.slot_mapping, limits.max_tokens);
  carver.take(b.inputs.query_start, rows + 1);
  carver.take(b.inputs.context_lens, rows);
  carver.take(b.inputs.sample_rows, rows);
  carver.take(b.inputs.block_tables, rows * limits.table_stride);
  carver.take(b.inputs.sampling, b.area_bytes);
  carver.take(b.sampled, rows);
  carver.take(b.logprobs, rows);
  carver.take(b.top_logprobs, rows * gpu::kMaxTopLogprobs);
  b.inputs.block_table_stride = limits.table_stride;
  return carver.used();
}

}  // namespace

Result<StepBuffers> StepBuffers::allocate(const GpuBackend& backend, const StagingLimits& limits,
                                          int64_t area_bytes, int64_t vocab_size) {
  const DeviceRuntime& runtime = *backend.runtime;
  StepBuffers b;
  b.area_bytes = area_bytes;
  b.max_rows = static_cast<int32_t>(limits.max_seqs);
  b.vocab_size = static_cast<int32_t>(vocab_size);
  ATOM_ASSIGN_OR_RETURN(b.staging_host, Buffer::allocate_pinned(runtime, 2 * area_bytes));
  ATOM_ASSIGN_OR_RETURN(b.staging_device, Buffer::allocate_device(runtime, 2 * area_bytes));
  ATOM_ASSIGN_OR_RETURN(b.results,
                        Buffer::allocate_pinned(runtime, 2 * gpu::result_bytes(b.max_rows)));
  ATOM_ASSIGN_OR_RETURN(b.device, Buffer::allocate_device(runtime, carve(b, limits, nullptr)));
  carve(b, limits, b.device.data());
  ATOM_ASSIGN_OR_RETURN(
      b.sampler_workspace,
      Buffer::allocate_device(runtime, backend.sampler_workspace_bytes(b.max_rows, b.vocab_size)));
  ATOM_ASSIGN_OR_RETURN(b.token_counts,
                        Buffer::allocate_device(runtime, limits.max_seqs * vocab_size * 2));
  return b;
}

StepBuffers::Results StepBuffers::results_of(uint64_t step) const {
  const auto* area = static_cast<const uint8_t*>(results.data()) +
                     (step & 1) * static_cast<size_t>(gpu::result_bytes(max_rows));
  const auto* token_ids = reinterpret_cast<const int32_t*>(area);
  const auto* rows = reinterpret_cast<const gpu::SamplerLogprob*>(token_ids + max_rows);
  return {.token_ids = token_ids,
          .logprobs = rows,
          .top_logprobs = reinterpret_cast<const gpu::SamplerTopToken*>(rows + max_rows)};
}

gpu::PrepareStepArgs StepBuffers::prepare_args() const {
  return {.state = state,
          .staging = static_cast<const uint8_t*>(staging_device.data()),
          .staging_bytes = area_bytes,
          .sampled = sampled,
          .inputs = inputs};
}

gpu::PublishStepArgs StepBuffers::publish_args() const {
  return {.state = state,
          .staging = static_cast<const uint8_t*>(staging_device.data()),
          .staging_bytes = area_bytes,
          .token_ids = sampled,
          .logprobs = logprobs,
          .top_logprobs = top_logprobs,
          .results = static_cast<uint8_t*>(results.data()),
          .max_rows = max_rows};
}

gpu::SampleTokensArgs StepBuffers::sample_args(const Tensor& logits) const {
  return {.logits = logits.data_as<const float>(),
          .logit_stride = logits.dim(1),
          .vocab_size = vocab_size,
          .num_rows = static_cast<int32_t>(logits.dim(0)),
          .blob = inputs.sampling,
          .token_counts = {.counts = static_cast<uint16_t*>(token_counts.data()),
                           .num_slots = max_rows},
          .workspace = sampler_workspace.data(),
          .token_ids = sampled,
          .logprobs = logprobs,
          .top_logprobs = top_logprobs};
}

SampledToken StepBuffers::sampled_token(uint64_t step, size_t row, int32_t num_logprobs) const {
  const Results results = results_of(step);
  SampledToken token{.token_id = results.token_ids[row], .logprobs = {}};
  if (num_logprobs < 0) {
    return token;
  }
  token.logprobs = {
      .logprob = results.logprobs[row].logprob, .rank = results.logprobs[row].rank, .top = {}};
  const gpu::SamplerTopToken* top =
      results.top_logprobs + row * static_cast<size_t>(gpu::kMaxTopLogprobs);
  for (int32_t i = 0; i < num_logprobs && top[i].token_id >= 0; ++i) {
    token.logprobs.top.emplace_back(top[i].token_id, top[i].logprob);
  }
  return token;
}

}  // namespace atom
