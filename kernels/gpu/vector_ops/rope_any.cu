#include "kernels/gpu/vector_ops/rope_any.h"

#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 256;

__device__ void store_cache_value(void* cache, DType dtype, int64_t at, float scale, float value) {
  if (dtype == DType::kBF16) {
    static_cast<uint16_t*>(cache)[at] = to_bf16(value);
  } else {
    static_cast<uint8_t*>(cache)[at] =
        static_cast<uint8_t>(pack_e4m3(value * (1.0F / scale), 0.0F) & 0xffU);
  }
}

// A warp a head. Grid: (tokens, heads / kWarps).
__global__ void __launch_bounds__(kWarps* kWarpSize)
    rope_any_kernel(const QkNormRopeKvWriteArgs args) {
  __shared__ float shared[kWarps][kMaxHeadDim];
  wait_previous();
  allow_next();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float* values = shared[threadIdx.x / kWarpSize];
  const int64_t token = blockIdx.x;
  const int num_heads = args.num_heads + 2 * args.num_kv_heads;
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / kWarpSize);
  const bool active = head < num_heads;
  const bool is_query = head < args.num_heads;
  const bool is_value = head >= args.num_heads + args.num_kv_heads;
  const int64_t column = int64_t{head} * args.head_dim;
  uint16_t* row = args.qkv + token * num_heads * args.head_dim + column;
  const float scale = row_scale(args.qkv_scales, token);

  float squares = 0.0F;
  for (int d = lane; active && d < args.head_dim; d += kWarpSize) {
    float value = from_bf16(row[d]);
    if (args.qkv_scales.rows != nullptr) {
      value *= scale * args.qkv_scales.columns[column + d];
    }
    values[d] = value;
    squares += value * value;
  }
  squares = reduce_lanes<SumOf>(squares);
  const float* weight = is_value ? nullptr : is_query ? args.q_norm : args.k_norm;
  const float inverse = rsqrtf(squares / static_cast<float>(args.head_dim) + args.norm_eps);
  for (int d = lane; active && weight != nullptr && d < args.head_dim; d += kWarpSize) {
    values[d] *= inverse * weight[d];
  }
  __syncthreads();

  const int64_t slot = args.slot_mapping[token];
  if (!active || (!is_query && slot < 0)) {
    return;
  }
  const PagedKvCache& cache = args.cache;
  const int kv_head = is_query ? 0 : (head - args.num_heads) % args.num_kv_heads;
  const int64_t block = slot / cache.block_size;
  const int64_t at =
      ((block * args.num_kv_heads + kv_head) * cache.block_size + slot % cache.block_size) *
      args.head_dim;
  const int half = args.rotary_dim / 2;
  const float* cos_sin = args.cos_sin + token * args.rotary_dim;
  for (int d = lane; d < args.head_dim; d += kWarpSize) {
    float value = values[d];
    if (!is_value && d < args.rotary_dim) {
      const int i = d % half;
      const float other = values[d < half ? d + half : d - half];
      value = value * cos_sin[i] + (d < half ? -other : other) * cos_sin[half + i];
    }
    if (is_query) {
      row[d] = to_bf16(value);
    } else if (is_value) {
      store_cache_value(cache.v, cache.dtype, at + d, cache.v_scale, value);
    } else {
      store_cache_value(cache.k, cache.dtype, at + d, cache.k_scale, value);
    }
  }
}

}  // namespace

DeviceStatus qk_norm_rope_kv_write_any(const QkNormRopeKvWriteArgs& args, DeviceStream stream) {
  if (args.head_dim % 2 != 0 || args.head_dim > kMaxHeadDim || args.rotary_dim % 2 != 0 ||
      args.rotary_dim > args.head_dim) {
    return "qk_norm_rope_kv_write: head_dim and rotary_dim are not even numbers up to 256";
  }
  const int heads = args.num_heads + 2 * args.num_kv_heads;
  return launch_chained(rope_any_kernel,
                        {.grid = dim3(static_cast<unsigned>(args.num_tokens),
                                      static_cast<unsigned>((heads + kWarps - 1) / kWarps)),
                         .block = dim3(kWarps * kWarpSize),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args);
}

}  // namespace atom::gpu
