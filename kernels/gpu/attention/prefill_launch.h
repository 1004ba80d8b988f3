// The kernel around PrefillBody and its launch, for one head dim; instantiated in prefill_<dim>.cu
// so that they compile in parallel. Blocks take row tiles from a counter, the longest of a sequence
// first; the last block to find none sets it back.
#pragma once

#include "kernels/gpu/vendor/gpu_runtime.h"

#if ATOM_GPU_CUDA

#include "kernels/gpu/attention/prefill_body.h"
#include "kernels/gpu/attention/prefill_tasks.h"

namespace atom::gpu {

template <class T, int kBlocksPerProcessor>
__global__ void ATOM_LAUNCH_BOUNDS(T::kThreads, kBlocksPerProcessor)
    prefill_attention_kernel(const PagedAttentionArgs args, int32_t* counters) {
  extern __shared__ uint4 shared[];
  __shared__ int next;
  int* starts = reinterpret_cast<int*>(shared + T::kSharedBytes / 16);
  const int total = sequence_starts(
      static_cast<int>(args.metadata.num_seqs), starts, reinterpret_cast<int*>(shared),
      [&](int s) { return args.num_kv_heads * row_tiles<T::kRows>(args, s); });
  PrefillBody<T> body(args, shared);
  for (;;) {
    __syncthreads();
    if (threadIdx.x == 0) {
      next = atomicAdd(counters, 1);
    }
    __syncthreads();
    if (next >= total) {
      break;
    }
    body.run(row_tile<T::kRows>(args, starts, next));
  }
  if (threadIdx.x == 0 && atomicAdd(counters + 1, 1) == static_cast<int>(gridDim.x) - 1) {
    counters[0] = 0;
    counters[1] = 0;
  }
}

template <class T, int kBlocksPerProcessor>
void launch_prefill_instance(const PagedAttentionArgs& args, cudaStream_t stream) {
  const auto kernel = prefill_attention_kernel<T, kBlocksPerProcessor>;
  const int shared = T::kSharedBytes + static_cast<int>(args.metadata.num_seqs + 1) * 4;
  static const int grid =
      resident_grid(reinterpret_cast<const void*>(kernel), T::kThreads, T::kSharedBytes);
  kernel<<<grid, T::kThreads, shared, stream>>>(args, prefill_counters(args.workspace));
}

template <int kHeadDim>
void launch_prefill(const PagedAttentionArgs& args, void* stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  constexpr int kBlocks = kHeadDim <= 64 ? 3 : kHeadDim <= 128 ? 2 : 1;
  if (args.cache.dtype == DType::kF8E4M3) {
    launch_prefill_instance<PrefillTraits<kHeadDim, true>, kBlocks>(args, stream);
  } else {
    launch_prefill_instance<PrefillTraits<kHeadDim, false>, kBlocks>(args, stream);
  }
}

}  // namespace atom::gpu

#endif
