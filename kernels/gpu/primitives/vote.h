// Integers over a warp: largest, smallest, one lane's value to all. Device code, C++20.
#pragma once

#include <cstdint>

#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {

#if ATOM_GPU_HIP
__device__ __forceinline__ uint32_t largest_of_warp(uint32_t value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    value = max(value, shuffle_xor_lanes(value, mask));
  }
  return value;
}
__device__ __forceinline__ uint32_t smallest_of_warp(uint32_t value) {
  return ~largest_of_warp(~value);
}
template <class T>
__device__ __forceinline__ T from_lane(T value, int lane) {
  return __shfl(value, lane, kWarpSize);
}
#else
__device__ __forceinline__ uint32_t largest_of_warp(uint32_t value) {
  return __reduce_max_sync(~0U, value);
}
__device__ __forceinline__ uint32_t smallest_of_warp(uint32_t value) {
  return __reduce_min_sync(~0U, value);
}
template <class T>
__device__ __forceinline__ T from_lane(T value, int lane) {
  return __shfl_sync(~0U, value, lane);
}
#endif

// Orders floats as integers; NaN is above or below all.
__device__ __forceinline__ uint32_t ordered_bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits ^ ((bits & 0x80000000U) != 0 ? 0xffffffffU : 0x80000000U);
}

}  // namespace atom::gpu
