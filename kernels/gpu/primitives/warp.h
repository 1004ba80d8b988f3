// Warps and blocks: shuffles without masks, sums and maxima in a fixed order. A warp has kWarpSize
// lanes: 32 on NVIDIA, 64 on CDNA. Every lane of a warp takes part in each call. C++20.
#pragma once

#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

#if ATOM_GPU_HIP
inline constexpr int kWarpSize = 64;
#else
inline constexpr int kWarpSize = 32;
#endif

template <class T>
__device__ __forceinline__ T shuffle_xor_lanes(T value, int mask) {
#if ATOM_GPU_HIP
  return __shfl_xor(value, mask, kWarpSize);
#else
  return __shfl_xor_sync(~0U, value, mask);
#endif
}

struct SumOf {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct MaxOf {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over groups of kLanes neighbouring lanes; every lane gets the result.
template <class Op, int kLanes = kWarpSize>
__device__ __forceinline__ float reduce_lanes(float value, Op op = {}) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    value = op(value, shuffle_xor_lanes(value, mask));
  }
  return value;
}

// Over the block, whose size is a multiple of kWarpSize; every thread gets the result. `shared` has
// a float per warp and is free again after the caller's next barrier.
template <class Op>
__device__ __forceinline__ float reduce_block(float value, float* shared, Op op = {}) {
  value = reduce_lanes<Op>(value);
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  if (threadIdx.x % kWarpSize == 0) {
    shared[threadIdx.x / kWarpSize] = value;
  }
  __syncthreads();
  value = shared[0];
  for (int i = 1; i < warps; ++i) {
    value = op(value, shared[i]);
  }
  return value;
}

}  // namespace atom::gpu
