// The kernel around DecodeBody and its launch, for one head dim; instantiated in decode_<dim>.cu so
// that they compile in parallel.
#pragma once

#include "kernels/gpu/vendor/gpu_runtime.h"

#if ATOM_GPU_CUDA

#include "kernels/gpu/attention/decode_body.h"
#include "kernels/gpu/attention/instances.h"

namespace atom::gpu {

template <class T, int kBlocksPerProcessor>
__global__ void ATOM_LAUNCH_BOUNDS(T::kThreads, kBlocksPerProcessor)
    decode_attention_kernel(const PagedAttentionArgs args, int32_t* counters, float* partials) {
  extern __shared__ uint4 shared[];
  allow_next();
  uint32_t* words = reinterpret_cast<uint32_t*>(shared);
  int* starts = reinterpret_cast<int*>(words + T::kSharedBytes / 4);
  DecodeShare<T::kUnit, T::kRows> share(args, starts, reinterpret_cast<int*>(words));
  wait_previous();
  DecodeBody<T> body(args, words, counters, partials);
  Segment segment;
  while (share.next(segment)) {
    body.run(segment);
  }
}

template <class T, int kBlocksPerProcessor>
void launch_decode_instance(const PagedAttentionArgs& args, cudaStream_t stream) {
  const auto kernel = decode_attention_kernel<T, kBlocksPerProcessor>;
  const int shared = T::kSharedBytes + static_cast<int>(args.metadata.num_seqs + 1) * 4;
  static const int resident =
      resident_grid(reinterpret_cast<const void*>(kernel), T::kThreads, T::kSharedBytes);
  const int grid = resident < kMaxDecodeGrid ? resident : kMaxDecodeGrid;
  (void)launch_chained(kernel,
                       {.grid = dim3(static_cast<unsigned>(grid)),
                        .block = dim3(T::kThreads),
                        .shared_bytes = static_cast<unsigned>(shared),
                        .stream = stream},
                       args, decode_counters(args.workspace), decode_partials(args));
}

// Blocks a multiprocessor: as many as registers allow without spills, but for bf16, where two
// measured faster than three. Few sequences have few items, which eight warps shorten.
template <int kHeadDim, bool kE4M3>
void launch_decode_of(const PagedAttentionArgs& args, cudaStream_t stream) {
  constexpr bool kLong = kHeadDim > 128;
  constexpr int64_t kFewSeqs = 8;
  const int rows = args.num_heads / args.num_kv_heads * args.max_decode_queries;
  // 256 dims of bf16 leave no registers for 16 rows: two blocks of 8 read the keys twice.
  if constexpr (!kLong || kE4M3) {
    if (rows > 8) {
      return launch_decode_instance < DecodeTraits<kHeadDim, kE4M3, 2, 4>,
             kE4M3 && !kLong ? 3 : 2 > (args, stream);
    }
  }
  if constexpr (!kLong) {
    if (args.metadata.num_seqs <= kFewSeqs && !args.batch_invariant) {
      return launch_decode_instance < DecodeTraits<kHeadDim, kE4M3, 1, 8>,
             kE4M3 ? 2 : 1 > (args, stream);
    }
  }
  launch_decode_instance<DecodeTraits<kHeadDim, kE4M3, 1, 4>, kE4M3 && !kLong ? 4 : 2>(args,
                                                                                       stream);
}

template <int kHeadDim>
void launch_decode(const PagedAttentionArgs& args, void* stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  if (args.cache.dtype == DType::kF8E4M3) {
    launch_decode_of<kHeadDim, true>(args, stream);
  } else {
    launch_decode_of<kHeadDim, false>(args, stream);
  }
}

}  // namespace atom::gpu

#endif
