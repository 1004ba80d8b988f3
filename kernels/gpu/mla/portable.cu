// A warp a row (token, head), a key at a time.
#include "kernels/gpu/mla/portable.h"

#include "kernels/gpu/mla/tile.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kPerLane = (kMaxLatentRank + kMaxLatentRope) / kWarpSize;

__device__ float load_cache(const PagedKvCache& cache, int64_t at) {
  return cache.dtype == DType::kBF16
             ? from_bf16(static_cast<const uint16_t*>(cache.k)[at])
             : from_e4m3(static_cast<const uint8_t*>(cache.k)[at]) * cache.k_scale;
}

// Grid: (tokens, heads / kWarps).
__global__ void __launch_bounds__(kWarps* kWarpSize)
    portable_mla_kernel(const MlaAttentionArgs args, const MlaGrid grid) {
  wait_previous();
  allow_next();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int head =
      static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  const MlaTile tile = MlaTile::find(args.metadata, grid, static_cast<int>(blockIdx.x), 0);
  if (head >= args.shape.num_heads || tile.num_tokens == 0) {
    return;
  }
  const auto rank = static_cast<int>(args.shape.rank);
  const int size = rank + static_cast<int>(args.shape.rope);
  const int64_t row = int64_t{tile.first_token} * args.shape.num_heads + head;
  float query[kPerLane];
  float values[kPerLane];
  float sums[kPerLane] = {};
  for (int i = 0; i < kPerLane; ++i) {
    const int at = lane + i * kWarpSize;
    query[i] = at < size ? from_bf16(args.query[row * size + at]) * args.scale : 0.0F;
  }
  const AttentionMetadata& meta = args.metadata;
  const int32_t* table = meta.block_tables + tile.sequence * meta.block_table_stride;
  const auto block_size = static_cast<int>(meta.block_size);
  float top = -INFINITY;
  float total = 0.0F;
  for (int key = 0; key <= tile.position; ++key) {
    const int64_t slot = int64_t{table[key / block_size]} * block_size + key % block_size;
    float score = 0.0F;
    for (int i = 0; i < kPerLane; ++i) {
      const int at = lane + i * kWarpSize;
      values[i] = at < size ? load_cache(args.cache, slot * size + at) : 0.0F;
      score += query[i] * values[i];
    }
    score = reduce_lanes<SumOf>(score);
    const float now = fmaxf(top, score);
    const float rescale = top == -INFINITY ? 0.0F : expf(top - now);
    const float weight = expf(score - now);
    total = total * rescale + weight;
    for (int i = 0; i < kPerLane; ++i) {
      sums[i] = sums[i] * rescale + weight * values[i];
    }
    top = now;
  }
  for (int i = 0; i < kPerLane; ++i) {
    const int at = lane + i * kWarpSize;
    if (at < rank) {
      args.out[row * rank + at] = to_bf16(total > 0.0F ? sums[i] / total : 0.0F);
    }
  }
}

}  // namespace

DeviceStatus portable_mla_attention(const MlaAttentionArgs& args, DeviceStream stream) {
  const MlaGrid grid{.one_token = args.metadata.max_query_len == 1};
  const int64_t tokens = grid.one_token ? args.metadata.num_seqs : args.metadata.num_tokens;
  const int64_t heads = (args.shape.num_heads + kWarps - 1) / kWarps;
  return launch_chained(portable_mla_kernel,
                        {.grid = dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(heads)),
                         .block = dim3(kWarps * kWarpSize),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, grid);
}

}  // namespace atom::gpu
