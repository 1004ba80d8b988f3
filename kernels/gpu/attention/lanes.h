// What attention and the sampler share on every backend: groups of 32 lanes (half a warp on CDNA),
// a fast exponential, reading what another block wrote, and the size of a resident grid. Matrix
// products: mma.h. Device code, C++20.
#pragma once

#include <cstdint>

#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

inline constexpr int kLanes = 32;
inline constexpr float kLog2E = 1.44269504088896341F;
inline constexpr float kLowest = -1e30F;  // a running maximum before any key

__device__ __forceinline__ float negative_infinity() { return -__builtin_huge_valf(); }

// The value of another lane of the caller's 32.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
#if ATOM_GPU_CUDA
  return __shfl_xor_sync(~0U, value, mask);
#else
  return __shfl_xor(value, mask, kLanes);
#endif
}
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
#if ATOM_GPU_CUDA
  return __shfl_sync(~0U, value, lane);
#else
  return __shfl(value, lane, kLanes);
#endif
}

__device__ __forceinline__ void warp_sync() {
#if ATOM_GPU_CUDA
  __syncwarp();
#else
  __builtin_amdgcn_wave_barrier();
#endif
}

__device__ __forceinline__ float fast_exp2(float x) {
#if ATOM_GPU_CUDA
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __builtin_amdgcn_exp2f(x);
#endif
}

// Written by another block of this launch, before a fence and an atomic that this block has seen.
__device__ __forceinline__ float load_shared_level(const float* from) {
#if ATOM_GPU_CUDA
  return __ldcg(from);
#else
  return __hip_atomic_load(from, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
#endif
}

// Host: blocks that are resident at once, for a kernel with this much dynamic shared memory and the
// starts of up to 16 K sequences behind it.
inline int resident_grid(const void* kernel, int threads, int shared_bytes) {
  int blocks = 0;
  (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_bytes + (1 << 16));
  (void)cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads,
                                                      static_cast<size_t>(shared_bytes) + 4096);
  return multiprocessor_count() * (blocks > 0 ? blocks : 1);
}

}  // namespace atom::gpu
