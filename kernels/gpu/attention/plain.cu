// Attention without matrix instructions: a block per query token and head. Threads score a tile of
// keys, one each, then sum the weighted values, one dim each.
#include "kernels/gpu/attention/plain.h"

#include "kernels/gpu/attention/lanes.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;  // keys of a tile; at least the largest head dim

__device__ float cache_value(const PagedAttentionArgs& args, const void* cache, int64_t index) {
  return args.cache.dtype == DType::kF8E4M3 ? from_e4m3(static_cast<const uint8_t*>(cache)[index])
                                            : from_bf16(static_cast<const uint16_t*>(cache)[index]);
}

template <class Op>
__device__ float over_block(float value, float* shared, Op op) {
  __syncthreads();
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) {
      shared[threadIdx.x] = op(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
  }
  return shared[0];
}

// The sequence that a query token belongs to.
__device__ int sequence_of(const AttentionMetadata& metadata, int token) {
  int low = 0;
  int high = static_cast<int>(metadata.num_seqs);
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (metadata.query_start[middle] <= token ? low : high) = middle;
  }
  return low;
}

__global__ void __launch_bounds__(kThreads)
    plain_attention_kernel(const PagedAttentionArgs args, PlainSequences which) {
  __shared__ float query[kThreads];
  __shared__ float weights[kThreads];
  __shared__ float scratch[kThreads];
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const AttentionMetadata& metadata = args.metadata;
  if (token >= metadata.query_start[metadata.num_seqs]) {
    return;
  }
  const int sequence = sequence_of(metadata, token);
  const int query_end = metadata.query_start[sequence + 1];
  const bool decode = query_end - metadata.query_start[sequence] <= args.max_decode_queries;
  if (decode != (which == PlainSequences::kDecode)) {
    return;
  }
  const int position = metadata.context_lens[sequence] - (query_end - token);
  const int window_begin = args.sliding_window > 0 ? position - args.sliding_window + 1 : 0;
  const int kv_head = head / (args.num_heads / args.num_kv_heads);
  const int size = static_cast<int>(args.cache.block_size);
  const auto row_of = [&](int key) {
    const int64_t block =
        metadata.block_tables[sequence * metadata.block_table_stride + key / size];
    return ((block * args.num_kv_heads + kv_head) * size + key % size) * args.head_dim;
  };
  if (thread < args.head_dim) {
    query[thread] = from_bf16(args.q[token * args.q_stride + head * args.head_dim + thread]);
  }
  const float scale = args.scale * args.cache.k_scale * kLog2E;
  float top = args.sinks != nullptr ? args.sinks[head] * kLog2E : kLowest;
  float total = args.sinks != nullptr ? 1.0F : 0.0F;
  float sum = 0.0F;
  for (int begin = window_begin > 0 ? window_begin : 0; begin <= position; begin += kThreads) {
    __syncthreads();
    float score = negative_infinity();
    if (begin + thread <= position) {
      const int64_t row = row_of(begin + thread);
      score = 0.0F;
      for (int i = 0; i < args.head_dim; ++i) {
        score += query[i] * cache_value(args, args.cache.k, row + i);
      }
      score *= scale;
    }
    const float higher = fmaxf(top, over_block(score, scratch, MaxOf{}));
    const float weight = fast_exp2(score - higher);
    const float factor = fast_exp2(top - higher);
    top = higher;
    weights[thread] = weight;
    total = total * factor + over_block(weight, scratch, SumOf{});
    sum *= factor;
    const int count = position - begin + 1 < kThreads ? position - begin + 1 : kThreads;
    if (thread < args.head_dim) {
      for (int i = 0; i < count; ++i) {
        sum += weights[i] * cache_value(args, args.cache.v, row_of(begin + i) + thread);
      }
    }
  }
  if (thread < args.head_dim) {
    const bool empty = metadata.context_lens[sequence] <= 0;
    args.out[(static_cast<int64_t>(token) * args.num_heads + head) * args.head_dim + thread] =
        to_bf16(empty ? 0.0F : sum * args.cache.v_scale / total);
  }
}

}  // namespace

void launch_plain(const PagedAttentionArgs& args, PlainSequences which, void* stream) {
  const dim3 grid(static_cast<unsigned>(args.metadata.num_tokens),
                  static_cast<unsigned>(args.num_heads));
  plain_attention_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args, which);
}

}  // namespace atom::gpu
