// The cache row of a token, and the rotated part of its queries.
#include "kernels/gpu/mla.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = (kMaxLatentRank + kThreads - 1) / kThreads;

struct Rotated {
  float even, odd;
};

// Pair i of a head's rotating part.
__device__ __forceinline__ Rotated rotate_pair(const uint16_t* from, const float* cos_sin, int i,
                                               int half) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(from + 2 * i);
  const float a = bf16_low(pair);
  const float b = bf16_high(pair);
  const float cosine = cos_sin[i];
  const float sine = cos_sin[half + i];
  return {a * cosine - b * sine, b * cosine + a * sine};
}

__device__ __forceinline__ void store_cache(const PagedKvCache& cache, int64_t at, float value) {
  if (cache.dtype == DType::kBF16) {
    static_cast<uint16_t*>(cache.k)[at] = to_bf16(value);
  } else {
    static_cast<uint8_t*>(cache.k)[at] =
        static_cast<uint8_t>(pack_e4m3(value / cache.k_scale, 0.0F) & 0xffU);
  }
}

// A block a token.
__global__ void __launch_bounds__(kThreads) mla_cache_write_kernel(const MlaCacheWriteArgs args) {
  __shared__ float sums[kThreads / kWarpSize];
  wait_previous();
  allow_next();
  const int rank = static_cast<int>(args.shape.rank);
  const int rope = static_cast<int>(args.shape.rope);
  const int num_heads = static_cast<int>(args.shape.num_heads);
  const int nope = static_cast<int>(args.shape.nope);
  const int half = rope / 2;
  const int64_t token = blockIdx.x;
  const float* cos_sin = args.cos_sin + token * rope;

  for (int i = static_cast<int>(threadIdx.x); i < num_heads * half; i += kThreads) {
    const int64_t head = token * num_heads + i / half;
    const Rotated value =
        rotate_pair(args.q + head * (nope + rope) + nope, cos_sin, i % half, half);
    *reinterpret_cast<uint32_t*>(args.query + head * (rank + rope) + rank + 2 * (i % half)) =
        pack_bf16(value.even, value.odd);
  }

  const uint16_t* latent = args.latent + token * args.latent_stride;
  float values[kPerThread];
  float squares = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    values[i] = at < rank ? from_bf16(latent[at]) : 0.0F;
    squares += values[i] * values[i];
  }
  squares = reduce_block<SumOf>(squares, sums);
  const float inverse = rsqrtf(squares / static_cast<float>(rank) + args.norm_eps);
  const int64_t slot = args.slot_mapping[token];
  if (slot < 0) {
    return;
  }
  const int64_t row = slot * (rank + rope);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    if (at < rank) {
      store_cache(args.cache, row + at, values[i] * inverse * args.norm[at]);
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < half; i += kThreads) {
    const Rotated value = rotate_pair(latent + rank, cos_sin, i, half);
    store_cache(args.cache, row + rank + 2 * i, value.even);
    store_cache(args.cache, row + rank + 2 * i + 1, value.odd);
  }
}

}  // namespace

DeviceStatus mla_cache_write(const MlaCacheWriteArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  return launch_chained(mla_cache_write_kernel,
                        {.grid = dim3(static_cast<unsigned>(args.num_tokens)),
                         .block = dim3(kThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args);
}

}  // namespace atom::gpu
