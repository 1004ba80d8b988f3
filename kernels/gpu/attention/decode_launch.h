// The kernel around DecodeBody and its launch, for one head dim; instantiated in decode_<dim>.cu so
// that they compile in parallel.
#pragma once

#include "kernels/gpu/attention/plain.h"
#include "kernels/gpu/vendor/gpu_runtime.h"

#if ATOM_GPU_CUDA

#include "kernels/gpu/attention/decode_body.h"
#include "kernels/gpu/attention/instances.h"

namespace atom::gpu {

template <class T, int kBlocksPerProcessor>
__global__ void ATOM_LAUNCH_BOUNDS(T::kThreads, kBlocksPerProcessor)
    decode_attention_kernel(const PagedAttentionArgs args, int32_t* counters, float* partials) {
  extern __shared__ uint4 shared[];
  wait_previous();
  uint32_t* words = reinterpret_cast<uint32_t*>(shared);
  int* starts = reinterpret_cast<int*>(words + T::kSharedBytes / 4);
  DecodeShare<T::kUnit, T::kRows> share(args, starts, reinterpret_cast<int*>(words));
  DecodeBody<T> body(args, words, counters, partials);
  Segment segment;
  while (share.next(segment)) {
    body.run(segment);
  }
  allow_next();
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

template <int kHeadDim>
void launch_decode(const PagedAttentionArgs& args, void* stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  constexpr int kWarps = 4;
  // Blocks a multiprocessor: as many as registers allow without spills.
  constexpr bool kLong = kHeadDim > 128;
  const int rows = args.num_heads / args.num_kv_heads * args.max_decode_queries;
  const bool e4m3 = args.cache.dtype == DType::kF8E4M3;
  // 256 dims of bf16 leave no registers for 16 rows: two blocks of 8 read the keys twice.
  if (rows <= 8 || (kLong && !e4m3)) {
    return e4m3 ? launch_decode_instance<DecodeTraits<kHeadDim, true, 1, kWarps>, kLong ? 2 : 4>(
                      args, stream)
                : launch_decode_instance<DecodeTraits<kHeadDim, false, 1, kWarps>, kLong ? 2 : 3>(
                      args, stream);
  }
  if (e4m3) {
    return launch_decode_instance<DecodeTraits<kHeadDim, true, 2, kWarps>, kLong ? 2 : 3>(args,
                                                                                          stream);
  }
  if constexpr (!kLong) {
    launch_decode_instance<DecodeTraits<kHeadDim, false, 2, kWarps>, 2>(args, stream);
  }
}

}  // namespace atom::gpu

#else

namespace atom::gpu {

template <int kHeadDim>
void launch_decode(const PagedAttentionArgs& args, void* stream) {
  launch_plain(args, PlainSequences::kDecode, stream);
}

}  // namespace atom::gpu

#endif
