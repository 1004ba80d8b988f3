// What a token's step of latent attention starts with: its cache row, and the rotated part of its
// queries. Device code, C++20.
#pragma once

#include "kernels/gpu/mla.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {

struct RotatedPair {
  float even, odd;
};

// Pair i of a head's rotating part; `half` pairs, cosines before sines.
__device__ __forceinline__ RotatedPair rotate_pair(const uint16_t* from, const float* cos_sin,
                                                   int i, int half) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(from + 2 * i);
  const float a = bf16_low(pair);
  const float b = bf16_high(pair);
  const float cosine = cos_sin[i];
  const float sine = cos_sin[half + i];
  return {a * cosine - b * sine, b * cosine + a * sine};
}

// Pair i of a head's query, of what is cached rotated behind its latent part.
__device__ __forceinline__ void rotate_query(const MlaCacheWriteArgs& args, int64_t token,
                                             int64_t head, int i) {
  const MlaShape& shape = args.shape;
  const int64_t row = token * shape.num_heads + head;
  const RotatedPair value =
      rotate_pair(args.q + row * (shape.nope + shape.rope) + shape.nope,
                  args.cos_sin + token * shape.rope, i, static_cast<int>(shape.rope) / 2);
  *reinterpret_cast<uint32_t*>(args.query + row * (shape.rank + shape.rope) + shape.rank + 2 * i) =
      pack_bf16(value.even, value.odd);
}

__device__ __forceinline__ void store_cache(const PagedKvCache& cache, int64_t at, float value) {
  if (cache.dtype == DType::kBF16) {
    static_cast<uint16_t*>(cache.k)[at] = to_bf16(value);
  } else {
    static_cast<uint8_t*>(cache.k)[at] =
        static_cast<uint8_t>(pack_e4m3(value / cache.k_scale, 0.0F) & 0xffU);
  }
}

// By all kThreads of a block; `sums` has a float per warp and is free after the next barrier.
template <int kThreads>
__device__ __forceinline__ void write_cache_row(const MlaCacheWriteArgs& args, int64_t token,
                                                float* sums) {
  constexpr int kPerThread = (kMaxLatentRank + kThreads - 1) / kThreads;
  const int rank = static_cast<int>(args.shape.rank);
  const int half = static_cast<int>(args.shape.rope) / 2;
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
  const int64_t row = slot * (rank + 2 * half);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    if (at < rank) {
      store_cache(args.cache, row + at, values[i] * inverse * args.norm[at]);
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < half; i += kThreads) {
    const RotatedPair value = rotate_pair(latent + rank, args.cos_sin + token * 2 * half, i, half);
    store_cache(args.cache, row + rank + 2 * i, value.even);
    store_cache(args.cache, row + rank + 2 * i + 1, value.odd);
  }
}

}  // namespace atom::gpu
