#include "kernels/gpu/portable_attention.h"

#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 256;
constexpr int kPerLane = kMaxHeadDim / kWarpSize;

// The sequence that owns a query token: the last one that starts at or before it.
__device__ int sequence_of(const AttentionMetadata& meta, int token) {
  int low = 0;
  int high = static_cast<int>(meta.num_seqs) - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (meta.query_start[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__device__ float load_value(const void* cache, DType dtype, float scale, int64_t index) {
  return dtype == DType::kBF16 ? from_bf16(static_cast<const uint16_t*>(cache)[index])
                               : from_e4m3(static_cast<const uint8_t*>(cache)[index]) * scale;
}

__global__ void __launch_bounds__(kWarps* kWarpSize)
    portable_attention_kernel(PagedAttentionArgs args) {
  wait_previous();
  allow_next();
  const AttentionMetadata& meta = args.metadata;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t item = int64_t{blockIdx.x} * kWarps + static_cast<int64_t>(threadIdx.x) / kWarpSize;
  if (item >= meta.num_tokens * args.num_heads) {
    return;
  }
  const int token = static_cast<int>(item / args.num_heads);
  const int head = static_cast<int>(item % args.num_heads);
  const int sequence = sequence_of(meta, token);
  const int end = meta.query_start[sequence + 1];
  const int position = meta.context_lens[sequence] - (end - token);
  uint16_t* out = args.out + item * args.head_dim;

  float q[kPerLane], sum[kPerLane];
  const uint16_t* query = args.q + token * args.q_stride + int64_t{head} * args.head_dim;
  for (int i = 0; i < kPerLane; ++i) {
    const int d = lane + i * kWarpSize;
    q[i] = d < args.head_dim ? from_bf16(query[d]) * args.scale : 0.0F;
    sum[i] = 0.0F;
  }
  float max = args.sinks != nullptr ? args.sinks[head] : -INFINITY;
  float total = args.sinks != nullptr ? 1.0F : 0.0F;
  const int first = args.sliding_window > 0 && position + 1 > args.sliding_window
                        ? position + 1 - args.sliding_window
                        : 0;
  const int kv_head = head / (args.num_heads / args.num_kv_heads);
  const int32_t* table = meta.block_tables + sequence * meta.block_table_stride;
  const int last = token < end ? position : -1;  // a token of no sequence has no keys
  for (int key = first; key <= last; ++key) {
    const int64_t block = table[key / meta.block_size];
    const int64_t row =
        ((block * args.num_kv_heads + kv_head) * meta.block_size + key % meta.block_size) *
        args.head_dim;
    float dot = 0.0F;
    for (int i = 0; i < kPerLane; ++i) {
      const int d = lane + i * kWarpSize;
      if (d < args.head_dim) {
        dot += q[i] * load_value(args.cache.k, args.cache.dtype, args.cache.k_scale, row + d);
      }
    }
    dot = reduce_lanes<SumOf>(dot);
    const float new_max = fmaxf(max, dot);
    const float rescale = max == -INFINITY ? 0.0F : expf(max - new_max);
    const float weight = expf(dot - new_max);
    total = total * rescale + weight;
    for (int i = 0; i < kPerLane; ++i) {
      const int d = lane + i * kWarpSize;
      if (d < args.head_dim) {
        sum[i] = sum[i] * rescale +
                 weight * load_value(args.cache.v, args.cache.dtype, args.cache.v_scale, row + d);
      }
    }
    max = new_max;
  }
  for (int i = 0; i < kPerLane; ++i) {
    const int d = lane + i * kWarpSize;
    if (d < args.head_dim) {
      out[d] = to_bf16(total > 0.0F ? sum[i] / total : 0.0F);
    }
  }
}

}  // namespace

DeviceStatus portable_attention(const PagedAttentionArgs& args, DeviceStream stream) {
  const int64_t items = args.metadata.num_tokens * args.num_heads;
  if (items == 0 || args.metadata.num_seqs == 0) {
    return nullptr;
  }
  return launch_chained(portable_attention_kernel,
                        {.grid = dim3(static_cast<unsigned>((items + kWarps - 1) / kWarps)),
                         .block = dim3(kWarps * kWarpSize),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args);
}

}  // namespace atom::gpu
