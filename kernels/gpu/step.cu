#include "kernels/gpu/step.h"

#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;
// Blocks of prepare_step: enough to move a prefill's arrays, few enough to start at once.
constexpr int kPrepareBlocks = 32;

template <class T>
__device__ const T* array_at(const uint8_t* area, int32_t offset) {
  return reinterpret_cast<const T*>(area + offset);
}

__global__ void __launch_bounds__(kThreads) prepare_kernel(PrepareStepArgs args) {
  allow_next();
  wait_previous();
  const uint8_t* area = args.staging + (args.state->step & 1) * args.staging_bytes;
  const StagingHeader& head = *reinterpret_cast<const StagingHeader*>(area);
  const StepInputs& in = args.inputs;
  const int first = blockIdx.x * kThreads + threadIdx.x;
  const int stride = gridDim.x * kThreads;

  for (int i = first; i < head.num_tokens; i += stride) {
    const int32_t token = array_at<int32_t>(area, head.token_ids)[i];
    in.token_ids[i] = token >= 0 ? token : max(args.sampled[~token], 0);
    in.positions[i] = array_at<int32_t>(area, head.positions)[i];
    in.slot_mapping[i] = array_at<int64_t>(area, head.slot_mapping)[i];
  }
  for (int i = first; i <= head.num_seqs; i += stride) {
    in.query_start[i] = array_at<int32_t>(area, head.query_start)[i];
    if (i < head.num_seqs) {
      in.context_lens[i] = array_at<int32_t>(area, head.context_lens)[i];
    }
  }
  for (int i = first; i < head.num_sample_rows; i += stride) {
    in.sample_rows[i] = array_at<int32_t>(area, head.sample_rows)[i];
  }
  const int4* from = array_at<int4>(area, head.sampling);
  for (int i = first; i < head.sampling_bytes / 16; i += stride) {
    reinterpret_cast<int4*>(in.sampling)[i] = from[i];
  }
  // One warp per run of table entries.
  const int warp = first / warpSize;
  const int lane = threadIdx.x % warpSize;
  for (int u = warp; u < head.num_table_updates; u += stride / warpSize) {
    const TableUpdate update = array_at<TableUpdate>(area, head.table_updates)[u];
    const int32_t* values = array_at<int32_t>(area, head.table_values) + update.source;
    int32_t* row = in.block_tables + update.row * in.block_table_stride + update.begin;
    for (int i = lane; i < update.count; i += warpSize) {
      row[i] = values[i];
    }
  }
}

__global__ void __launch_bounds__(kThreads) publish_kernel(PublishStepArgs args) {
  wait_previous();
  const uint32_t area = args.state->step & 1;
  const StagingHeader& head =
      *reinterpret_cast<const StagingHeader*>(args.staging + area * args.staging_bytes);
  uint8_t* results = args.results + area * result_bytes(args.max_rows);
  auto* token_ids = reinterpret_cast<int32_t*>(results);
  auto* logprobs = reinterpret_cast<SamplerLogprob*>(token_ids + args.max_rows);
  auto* top = reinterpret_cast<SamplerTopToken*>(logprobs + args.max_rows);
  const int rows = head.num_sample_rows;
  for (int i = threadIdx.x; i < rows; i += kThreads) {
    token_ids[i] = args.token_ids[i];
  }
  if (head.num_top_logprobs >= 0) {
    for (int i = threadIdx.x; i < rows; i += kThreads) {
      logprobs[i] = args.logprobs[i];
    }
  }
  if (head.num_top_logprobs > 0) {
    for (int i = threadIdx.x; i < rows * kMaxTopLogprobs; i += kThreads) {
      top[i] = args.top_logprobs[i];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    args.state->step += 1;
  }
}

}  // namespace

void prepare_step(const PrepareStepArgs& args, Stream stream) {
  prepare_kernel<<<kPrepareBlocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
}

void publish_step(const PublishStepArgs& args, Stream stream) {
  (void)launch_chained(
      publish_kernel,
      {.grid = dim3(1), .block = dim3(kThreads), .stream = static_cast<cudaStream_t>(stream)},
      args);
}

}  // namespace atom::gpu
