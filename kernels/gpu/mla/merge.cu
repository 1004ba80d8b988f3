#include "kernels/gpu/mla/merge.h"

#include "kernels/gpu/mla/heads_tile.h"
#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {

#if ATOM_GPU_CUDA

namespace {

constexpr int kThreads = 128;

// Of the splits of a row, by the first warp; zero for a split without keys.
__device__ __forceinline__ void find_factors(const MlaAttentionArgs& args, int splits, int64_t row,
                                             float* factors) {
  const auto split = static_cast<int>(threadIdx.x);
  if (split >= kMaxMlaSplits) {
    return;
  }
  const int64_t rows = args.metadata.num_tokens * args.shape.num_heads;
  const float* state = args.partials + splits * rows * args.shape.rank + (split * rows + row) * 2;
  const float2 own =
      split < splits ? *reinterpret_cast<const float2*>(state) : make_float2(-INFINITY, 0.0F);
  const float top = reduce_lanes<MaxOf>(own.x);
  const float weight = top == -INFINITY ? 0.0F : exp2f(own.x - top);
  const float total = reduce_lanes<SumOf>(weight == 0.0F ? 0.0F : weight * own.y);
  factors[split] = total > 0.0F ? weight * args.cache.k_scale / total : 0.0F;
}

// Values [at, at + 4) of a row. What a split without keys left behind is not read.
__device__ __forceinline__ float4 merge_values_at(const MlaAttentionArgs& args, int splits,
                                                  int64_t row, int at, const float* factors) {
  const int64_t stride = args.metadata.num_tokens * args.shape.num_heads * args.shape.rank;
  const float* from = args.partials + row * args.shape.rank + at;
  float4 sum = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll 8
  for (int split = 0; split < splits; ++split) {
    const float factor = factors[split];
    if (factor != 0.0F) {
      const float4 value = *reinterpret_cast<const float4*>(from + split * stride);
      sum.x += factor * value.x;
      sum.y += factor * value.y;
      sum.z += factor * value.z;
      sum.w += factor * value.w;
    }
  }
  return sum;
}

// A block a row.
__global__ void __launch_bounds__(kThreads)
    mla_merge_kernel(const __grid_constant__ MlaAttentionArgs args, const int splits) {
  __shared__ float factors[kMaxMlaSplits];
  wait_previous();
  allow_next();
  const int64_t row = blockIdx.x;
  find_factors(args, splits, row, factors);
  __syncthreads();
  const auto rank = static_cast<int>(args.shape.rank);
  for (int at = static_cast<int>(threadIdx.x) * 4; at < rank; at += kThreads * 4) {
    const float4 sum = merge_values_at(args, splits, row, at, factors);
    *reinterpret_cast<uint2*>(args.out + row * rank + at) = {pack_bf16(sum.x, sum.y),
                                                             pack_bf16(sum.z, sum.w)};
  }
}

constexpr int kWarpRows = 4;  // of the values' up-projection
constexpr int kBlockRows = kThreads / kWarpSize * kWarpRows;
constexpr int kPieces = kMaxLatentRank / 8 / kWarpSize;  // of 8 values, of a lane
constexpr int kMostTokens = 8;

// Grid: (rows of a head's values, heads, tokens). Every block joins the whole latent row.
__global__ void __launch_bounds__(kThreads)
    mla_merge_values_kernel(const __grid_constant__ MlaAttentionArgs args,
                            const __grid_constant__ LinearHeadsArgs value_up, const int splits) {
  __shared__ float factors[kMaxMlaSplits];
  __shared__ __align__(16) float latent[kMaxLatentRank];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const auto rank = static_cast<int>(args.shape.rank);
  const int64_t head = blockIdx.y;
  const int64_t row = static_cast<int64_t>(blockIdx.z) * args.shape.num_heads + head;
  const int first = static_cast<int>(blockIdx.x) * kBlockRows +
                    static_cast<int>(threadIdx.x) / kWarpSize * kWarpRows;
  Vec16 weights[kWarpRows][kPieces];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const uint16_t* from = value_up.weight + (head * value_up.row_stride + first + r) * rank;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int at = (p * kWarpSize + lane) * 8;
      weights[r][p] = first + r < value_up.out_features && at < rank ? load16(from + at) : Vec16{};
    }
  }
  allow_next();
  wait_previous();
  find_factors(args, splits, row, factors);
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x) * 4;
  static_assert(kThreads * 4 >= kMaxLatentRank);
  const float4 sum = own < rank ? merge_values_at(args, splits, row, own, factors)
                                : make_float4(0.0F, 0.0F, 0.0F, 0.0F);
  *reinterpret_cast<float4*>(latent + own) = sum;
  __syncthreads();
  float totals[kWarpRows] = {};
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 x =
          *reinterpret_cast<const float4*>(latent + (p * kWarpSize + lane) * 8 + half * 4);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const uint32_t low = weights[r][p].word[half * 2];
        const uint32_t high = weights[r][p].word[half * 2 + 1];
        totals[r] += bf16_low(low) * x.x + bf16_high(low) * x.y + bf16_low(high) * x.z +
                     bf16_high(high) * x.w;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float total = reduce_lanes<SumOf>(totals[r]);
    if (lane == 0 && first + r < value_up.out_features) {
      value_up.out[row * value_up.out_stride + first + r] = to_bf16(total);
    }
  }
}

}  // namespace

DeviceStatus merge_mla(const MlaAttentionArgs& args, int splits, DeviceStream stream) {
  const auto rows = static_cast<unsigned>(args.metadata.num_tokens * args.shape.num_heads);
  return launch_chained(
      mla_merge_kernel,
      {.grid = dim3(rows), .block = dim3(kThreads), .stream = static_cast<cudaStream_t>(stream)},
      args, splits);
}

bool merges_values(const MlaAttentionArgs& args, const LinearHeadsArgs& value_up, int splits) {
  return splits > 1 && args.metadata.num_tokens <= kMostTokens &&
         value_up.in_features == args.shape.rank;
}

DeviceStatus merge_mla_values(const MlaAttentionArgs& args, const LinearHeadsArgs& value_up,
                              int splits, DeviceStream stream) {
  const int blocks = (value_up.out_features + kBlockRows - 1) / kBlockRows;
  return launch_chained(
      mla_merge_values_kernel,
      {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.shape.num_heads),
                    static_cast<unsigned>(args.metadata.num_tokens)),
       .block = dim3(kThreads),
       .stream = static_cast<cudaStream_t>(stream)},
      args, value_up, splits);
}

#endif

}  // namespace atom::gpu
